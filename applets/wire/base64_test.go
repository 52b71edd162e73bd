package wire

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// decodeContent reads base64 as the content of a line.
func decodeContent(src io.Reader) (string, error) {
	var b bytes.Buffer
	r := NewReader(io.MultiReader(strings.NewReader(`{"content":"`), src, strings.NewReader("\"}\n")), MaxLine)
	_, err := r.ReadLine(func(string, []byte) io.Writer { return &b })
	return b.String(), err
}

func TestBase64(t *testing.T) {
	for _, test := range []struct {
		in, want string
		ok       bool
	}{
		{"", "", true},
		{"QUJD", "ABC", true},
		{"QUI=", "AB", true},
		{"QQ==", "A", true},
		{"+/+/", "\xfb\xff\xbf", true},
		{`+\/+\/`, "\xfb\xff\xbf", true},
		{`\u002B\u002f\u002b\u002F`, "\xfb\xff\xbf", true},
		{`\u0051UJD`, "ABC", true},
		{`QQ\u003d\u003D`, "A", true},
		{"QQ==QUJD", "", false},
		{"QQ==QQ==", "", false},
		{"QQ===", "", false},
		{"QQ====", "", false},
		{"QQ=", "", false},
		{"QQ", "", false},
		{"Q", "", false},
		{"Q===", "", false},
		{"====", "", false},
		{"=QQQ", "", false},
		{"Q=QQ", "", false},
		{"QQ=Q", "", false},
		{"QR==", "", false}, // padding bits that are not 0
		{"QUJ=", "", false},
		{"QUJD QUJD", "", false},
		{"QUJD\\nQUJD", "", false},
		{"QUJD\\r\\n", "", false},
		{"QUJD\\u000a", "", false},
		{"QUJ\\u000aD", "", false},
		{`\u000d\u000d\u000d\u000d`, "", false},
		{`\u000a\u000a\u000a\u000a`, "", false},
		{`QUJ\n`, "", false}, // is not QUJn
		{"-_-_", "", false},
		{"QUJé", "", false},
		{`QUJ\u0144`, "", false}, // U+0144 is not D
		{`QUJ\u00xx`, "", false},
		{`QUJ\"`, "", false},
		{`QUJ\\`, "", false},
		{`QUJD\u`, "", false},
		{`QUJD\u00`, "", false},
		{"QUJ*", "", false},
	} {
		for how, src := range chunkings(test.in) {
			got, err := decodeContent(src)
			if (err == nil) != test.ok || test.ok && got != test.want || !test.ok && kind(err) != "field content" {
				t.Errorf("%s, %s: %q, %v", test.in, how, got, err)
			}
		}
	}
}

// Padding is the end wherever the pieces in which content arrives and is decoded
// meet.
func TestBase64PaddingAtBoundaries(t *testing.T) {
	for _, boundary := range []int{0, smallBuffer, largeBuffer, 2 * largeBuffer} {
		for d := -24; d <= 24; d++ {
			n := boundary + d
			if n < 0 || n%4 != 0 {
				continue
			}
			body := strings.Repeat("QUJD", n/4)
			for tail, ok := range map[string]bool{"QQ==": true, "QQ==QUJD": false, "QQ==Q": false, "QQ==\\n": false} {
				got, err := decodeContent(strings.NewReader(body + tail))
				if (err == nil) != ok || ok && got != strings.Repeat("ABC", n/4)+"A" {
					t.Errorf("%d + %s: %d bytes, %v", n, tail, len(got), err)
				}
			}
		}
	}
}

func TestWriteBase64(t *testing.T) {
	for _, size := range []int{0, 1, 2, 3, 49151, 49152, 49153, 200_000} {
		src := bytes.Repeat([]byte{0, 0xff, 'x', 7}, size/4+1)[:size]
		for how, r := range chunkings(string(src)) {
			var b strings.Builder
			if err := WriteBase64(&b, r); err != nil || b.String() != base64.StdEncoding.EncodeToString(src) {
				t.Errorf("%d, %s: %d, %v", size, how, b.Len(), err)
			}
		}
	}
	boom := errors.New("boom")
	// A source that breaks off says io.ErrUnexpectedEOF itself, as an HTTP body or
	// a gzip stream does: no end to be taken for the end.
	for _, want := range []error{boom, io.ErrUnexpectedEOF} {
		for _, before := range []string{"", "abc", strings.Repeat("x", 49152)} {
			src := io.MultiReader(strings.NewReader(before), iotest.ErrReader(want))
			if err := WriteBase64(io.Discard, src); err != want {
				t.Errorf("%d bytes, then %v: %v", len(before), want, err)
			}
		}
	}
	if err := WriteBase64(failing{boom}, strings.NewReader("x")); err != boom {
		t.Error(err)
	}
	if err := WriteBase64(io.Discard, idle{}); err != io.ErrNoProgress {
		t.Error(err)
	}
}

func FuzzBase64(f *testing.F) {
	for _, s := range []string{"", "QQ==", "QUJD", `QU\/D`, `\u002B\u002b==`, "QQ==QUJD", "QR=="} {
		f.Add([]byte(s), 1)
	}
	f.Fuzz(func(t *testing.T, in []byte, split int) {
		// As text: accepted if and only if it is a JSON string that the strict
		// decoder takes, line breaks excepted.
		var text string
		valid := json.Unmarshal([]byte(`"`+string(in)+`"`), &text) == nil && !strings.ContainsAny(text, "\r\n")
		want, err := base64.StdEncoding.Strict().DecodeString(text)
		valid = valid && err == nil
		cut := max(0, min(split, len(in)))
		src := func() io.Reader { return io.MultiReader(bytes.NewReader(in[:cut]), bytes.NewReader(in[cut:])) }
		if bytes.IndexByte(in, '"') < 0 {
			got, err := decodeContent(src())
			if (err == nil) != valid || valid && got != string(want) {
				t.Fatalf("%q: %q, %v; encoding/base64 has %q, %v", in, got, err, want, valid)
			}
		}
		// As bytes: there and back.
		var b bytes.Buffer
		if err := WriteBase64(&b, src()); err != nil {
			t.Fatal(err)
		}
		if got, err := decodeContent(iotest.HalfReader(&b)); err != nil || got != string(in) {
			t.Fatalf("%q came back as %q, %v", in, got, err)
		}
	})
}
