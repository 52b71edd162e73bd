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

// lineOnly gives one line, and complains of a read for more: the client waits for its
// reply.
type lineOnly struct {
	t    *testing.T
	rest io.Reader
}

func (l lineOnly) Read(p []byte) (int, error) {
	n, err := l.rest.Read(p)
	if n == 0 {
		l.t.Errorf("a read of %d bytes after the line: %v", len(p), err)
		return 0, io.ErrUnexpectedEOF
	}
	return n, nil
}

func TestContentIsReadNoFurther(t *testing.T) {
	sizes := []int{smallBuffer, largeBuffer}
	for size := range maxBlock {
		sizes = append(sizes, size)
	}
	for _, size := range sizes {
		want := strings.Repeat("ABC", size) + "A"
		line := `{"content":"` + strings.Repeat("QUJD", size) + `QQ=="}` + "\n"
		for how, src := range chunkings(line) {
			var b bytes.Buffer
			_, err := NewReader(lineOnly{t, src}, MaxLine).ReadLine(func(string, []byte) io.Writer { return &b })
			if err != nil || b.String() != want {
				t.Errorf("%d groups, %s: %q, %v", size, how, b.String(), err)
			}
		}
	}
}

// breaksOff fails once, and complains of a read after that: each may wait for long.
type breaksOff struct {
	t   *testing.T
	err error
}

func (b *breaksOff) Read([]byte) (int, error) {
	if b.err == nil {
		b.t.Error("a read after the error")
	}
	err := b.err
	b.err = nil
	return 0, err
}

func TestContentBreaksOff(t *testing.T) {
	boom := errors.New("boom")
	for size := range 2 * maxBlock {
		start := strings.NewReader(`{"content":"` + strings.Repeat("Q", size))
		_, err := NewReader(io.MultiReader(start, &breaksOff{t, boom}), MaxLine).ReadLine(func(string, []byte) io.Writer { return Skip })
		if err != boom {
			t.Errorf("skipped, %d bytes: %v", size, err)
		}
		start.Reset(`{"content":"` + strings.Repeat("Q", size))
		_, err = NewReader(io.MultiReader(start, &breaksOff{t, boom}), MaxLine).ReadLine(func(string, []byte) io.Writer { return io.Discard })
		if err != boom {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

// Wherever the writer fails, a part of the content is not taken for all of it.
func TestContentCannotBeWritten(t *testing.T) {
	boom := errors.New("boom")
	for _, size := range []int{1, maxBlock, smallBuffer, 3 * largeBuffer} {
		line := `{"content":"` + strings.Repeat("QUJD", size) + `"}` + "\n"
		_, err := NewReader(strings.NewReader(line), MaxLine).ReadLine(func(string, []byte) io.Writer { return failing{boom} })
		if err != boom {
			t.Errorf("%d groups: %v", size, err)
		}
	}
}

func TestWriteBase64(t *testing.T) {
	for _, size := range []int{0, 1, 2, 3, largeBuffer/4*3 - 1, largeBuffer / 4 * 3, largeBuffer/4*3 + 1, 4 * largeBuffer} {
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
		for _, before := range []string{"", "abc", strings.Repeat("x", largeBuffer/4*3)} {
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
