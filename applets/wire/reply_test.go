package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// reply writes a text as an agent would and returns its line.
func reply(t *testing.T, src io.Reader) string {
	var b bytes.Buffer
	r := NewReply(&b)
	r.Text("text", src)
	if err := r.End(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// asText is the documented rule: each byte that is not of UTF-8 reads U+FFFD.
func asText(b []byte) string { return string([]rune(string(b))) }

func checkText(t *testing.T, in []byte) {
	for how, src := range chunkings(string(in)) {
		line := reply(t, src)
		var v struct {
			Success bool
			Data    struct{ Text string }
		}
		if err := json.Unmarshal([]byte(line), &v); err != nil || !v.Success || v.Data.Text != asText(in) {
			t.Fatalf("%q, %s: %s reads as %q, %v; want %q", in, how, line, v.Data.Text, err, asText(in))
		}
		if strings.IndexByte(line, '\n') != len(line)-1 {
			t.Fatalf("%q: %q is not one line", in, line)
		}
		if _, err := NewReader(strings.NewReader(line), MaxLine).ReadLine(nil); err != nil {
			t.Fatalf("%q: our own reader refuses it: %v", in, err)
		}
	}
}

func TestText(t *testing.T) {
	var all []byte
	for c := range 256 {
		all = append(all, byte(c), 'x')
	}
	for _, in := range []string{
		"", "plain", "\"\\/\b\f\n\r\t\x00\x1f\x7f", "é€😀\u2028\ufffd", "\xff", "\xc3", "\xe2\x82", "\xf0\x9f\x98", "\xe2\x82x", "\xed\xa0\x80",
		"\xc0\xaf", "\xf4\x90\x80\x80", "a\xe2", string(all), strings.Repeat("😀", 10_000), strings.Repeat("\x00", 10_000), strings.Repeat("\xff", 10_000),
	} {
		checkText(t, []byte(in))
	}
}

func FuzzText(f *testing.F) {
	for _, s := range []string{"", "a\x00\"\\\n", "\xe2\x82", "é😀", "\xff\xfe"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) { checkText(t, in) })
}

func TestReply(t *testing.T) {
	var b bytes.Buffer
	r := NewReply(&b)
	r.Value("n", 7)
	r.Value("html", "<&>")
	r.Base64("b", strings.NewReader("AB"))
	r.Text("t", strings.NewReader("é\n"))
	r.Value("none", nil)
	want := `{"success":true,"data":{"n":7,"html":"<&>","b":"QUI=","t":"é\n","none":null}}` + "\n"
	if err := r.End(); err != nil || b.String() != want {
		t.Errorf("%s, %v; want %s", b.String(), err, want)
	}
	b.Reset()
	if err := WriteData(&b, struct{}{}); err != nil || b.String() != `{"success":true,"data":{}}`+"\n" {
		t.Errorf("%s, %v", b.String(), err)
	}
	b.Reset()
	if err := WriteFailure(&b, "path: \"\n\xff", "ENOENT"); err != nil || b.String() != `{"success":false,"error":"path: \"\n\ufffd","code":"ENOENT"}`+"\n" {
		t.Errorf("%s, %v", b.String(), err)
	}
}

// An error of the source or the connection must reach End: half a reply is none.
func TestReplyErrors(t *testing.T) {
	boom := errors.New("boom")
	for name, write := range map[string]func(*Reply, io.Reader){
		"Base64": func(r *Reply, src io.Reader) { r.Base64("x", src) },
		"Text":   func(r *Reply, src io.Reader) { r.Text("x", src) },
	} {
		for _, want := range []error{boom, io.ErrUnexpectedEOF} {
			r := NewReply(io.Discard)
			write(r, io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(want)))
			r.Value("after", 1)
			if err := r.End(); err != want {
				t.Errorf("%s: %v, want %v", name, err, want)
			}
		}
		r := NewReply(failing{boom})
		write(r, strings.NewReader(strings.Repeat("x", 100_000)))
		if err := r.End(); err != boom {
			t.Errorf("%s: %v", name, err)
		}
	}
	r := NewReply(io.Discard)
	r.Value("x", func() {})
	if r.End() == nil {
		t.Error("a value that can't be encoded passed")
	}
}
