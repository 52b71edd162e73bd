package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// readAll reads lines until an error, with content taken at "content", stdin
// skipped.
func readAll(src io.Reader, limit int) (lines []string, content string, err error) {
	r := NewReader(src, limit)
	var b bytes.Buffer
	for {
		line, err := r.ReadLine(func(path string, _ []byte) io.Writer {
			switch path {
			case "content", "data.content":
				return &b
			case "skip":
				return Skip
			}
			return nil
		})
		if err != nil {
			return lines, b.String(), err
		}
		lines = append(lines, string(line))
	}
}

// kind names the class of an error.
func kind(err error) string {
	var syntax *SyntaxError
	var field *FieldError
	switch {
	case err == nil:
		return "none"
	case err == io.EOF:
		return "end"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "cut"
	case errors.As(err, &syntax):
		return "syntax"
	case errors.As(err, &field):
		return "field " + field.Field
	case errors.Is(err, ErrTooLong):
		return "long"
	}
	return err.Error()
}

// chunkings are ways in which the same bytes may arrive.
func chunkings(in string) map[string]io.Reader {
	whole := func() io.Reader { return strings.NewReader(in) }
	return map[string]io.Reader{
		"whole":         whole(),
		"bytes":         iotest.OneByteReader(whole()),
		"halves":        iotest.HalfReader(whole()),
		"data with EOF": iotest.DataErrReader(whole()),
	}
}

func nested(n int) string {
	return `{"a":` + strings.Repeat("[", n-1) + strings.Repeat("]", n-1) + "}"
}

func TestReadLine(t *testing.T) {
	for _, test := range []struct {
		name, in string
		lines    []string
		content  string
		end      string
	}{
		{"nothing", "", nil, "", "end"},
		{"blank lines only", "\n\r\n \t\n", nil, "", "end"},
		{"a line", "{}\n", []string{"{}"}, "", "end"},
		{"CRLF", "{\"a\":1}\r\n", []string{"{\"a\":1}\r"}, "", "end"},
		{"blank lines before", "\n\r\n  {}\n", []string{"{}"}, "", "end"},
		{"pipelined", "{\"a\":1}\n{\"b\":2}\n\n{}\n", []string{`{"a":1}`, `{"b":2}`, `{}`}, "", "end"},
		{"ended by the end of input", `{"a":1}`, []string{`{"a":1}`}, "", "end"},
		{"second one cut short", "{}\n{", []string{"{}"}, "", "cut"},
		{"cut in a string", `{"a":"b`, nil, "", "cut"},
		{"cut in a key", `{"a`, nil, "", "cut"},
		{"cut in an escape", `{"a":"\`, nil, "", "cut"},
		{"cut in content", `{"content":"QUJD`, nil, "ABC", "cut"},
		{"cut after content", `{"content":"QUJD"`, nil, "ABC", "cut"},
		{"cut in what is skipped", `{"skip":"x`, nil, "", "cut"},
		{"cut before the brace", `{"a":{"b":1}`, nil, "", "cut"},
		{"line ends inside", "{\"a\":1\n}\n", nil, "", "syntax"},
		{"line ends in a string", "{\"a\":\"\n\"}\n", nil, "", "syntax"},
		{"line ends in an escape", "{\"a\":\"\\\n\"}\n", nil, "", "syntax"},
		{"line ends in content", "{\"content\":\"QU\nJD\"}\n", nil, "", "syntax"},
		{"byte order mark", "\xef\xbb\xbf{}\n", nil, "", "syntax"},
		{"array", "[]\n", nil, "", "syntax"},
		{"string", "\"a\"\n", nil, "", "syntax"},
		{"word", "null\n", nil, "", "syntax"},
		{"two on a line", "{}{}\n", nil, "", "syntax"},
		{"space after", "{} \t\r\n", []string{"{} \t\r"}, "", "end"},
		{"word after", "{} x\n", nil, "", "syntax"},
		{"NUL after", "{}\x00\n", nil, "", "syntax"},
		{"mismatch", "{]\n", nil, "", "syntax"},
		{"mismatch inside", `{"a":[}}` + "\n", nil, "", "syntax"},
		{"no colon", `{"a" "b"}` + "\n", nil, "", "syntax"},
		{"no comma", `{"a":1 "b":2}` + "\n", nil, "", "syntax"},
		{"no value", `{"a":}` + "\n", nil, "", "syntax"},
		{"two values", `{"content":"" ""}` + "\n", nil, "", "syntax"},
		{"comma at the end", `{"a":1,}` + "\n", nil, "", "syntax"},
		{"comment", "{/**/}\n", nil, "", "syntax"},
		{"single quotes", "{'a':1}\n", nil, "", "syntax"},
		{"NaN", `{"a":NaN}` + "\n", nil, "", "syntax"},
		{"leading zero", `{"a":01}` + "\n", nil, "", "syntax"},
		{"huge number", `{"a":1e400}` + "\n", []string{`{"a":1e400}`}, "", "end"},
		{"escapes", `{"a":"\"\\\/\b\f\n\r\t\u0000\u00e9"}` + "\n", []string{`{"a":"\"\\\/\b\f\n\r\t\u0000\u00e9"}`}, "", "end"},
		{"bad escape", `{"a":"\x"}` + "\n", nil, "", "syntax"},
		{"short \\u", `{"a":"\u12"}` + "\n", nil, "", "syntax"},
		{"control character", "{\"a\":\"\x1f\"}\n", nil, "", "syntax"},
		{"control character in content", "{\"content\":\"\x00\"}\n", nil, "", "syntax"},
		{"control character in what is skipped", "{\"skip\":\"\x00\"}\n", nil, "", "syntax"},
		{"DEL", "{\"a\":\"\x7f\"}\n", []string{"{\"a\":\"\x7f\"}"}, "", "end"},
		{"invalid UTF-8", "{\"a\":\"\xff\"}\n", nil, "", "syntax"},
		{"invalid UTF-8 in a key", "{\"\xc3\":1}\n", nil, "", "syntax"},
		{"surrogate in UTF-8", "{\"a\":\"\xed\xa0\x80\"}\n", nil, "", "syntax"},
		{"overlong UTF-8", "{\"a\":\"\xc0\xaf\"}\n", nil, "", "syntax"},
		{"surrogate pair", `{"a":"\ud83d\uDE00"}` + "\n", []string{`{"a":"\ud83d\uDE00"}`}, "", "end"},
		{"high surrogate", `{"a":"\ud83d"}` + "\n", nil, "", "syntax"},
		{"high surrogate, text", `{"a":"\ud83dx"}` + "\n", nil, "", "syntax"},
		{"high surrogate, text, low", `{"a":"\ud83dx\ude00"}` + "\n", nil, "", "syntax"},
		{"high surrogate, escape", `{"a":"\ud83d\n"}` + "\n", nil, "", "syntax"},
		{"high surrogate twice", `{"a":"\ud83d\ud83d\ude00"}` + "\n", nil, "", "syntax"},
		{"high surrogate, other \\u", `{"a":"\ud83d\u0041"}` + "\n", nil, "", "syntax"},
		{"low surrogate", `{"a":"\ude00"}` + "\n", nil, "", "syntax"},
		{"surrogate in a key", `{"\ud83d":1}` + "\n", nil, "", "syntax"},
		{"escaped backslash before u", `{"a":"\\ud83d"}` + "\n", []string{`{"a":"\\ud83d"}`}, "", "end"},
		{"as deep as may be", nested(MaxDepth) + "\n", []string{nested(MaxDepth)}, "", "end"},
		{"too deep", nested(MaxDepth+1) + "\n", nil, "", "syntax"},
		{"10^6 deep", `{"a":` + strings.Repeat("[", 1_000_000), nil, "", "syntax"},
		{"duplicate keys are the caller's to judge", `{"a":1,"a":2}` + "\n", []string{`{"a":1,"a":2}`}, "", "end"},

		{"content", `{"content":"QUJD","b":1}` + "\n", []string{`{"content":"","b":1}`}, "ABC", "end"},
		{"content within", `{"data":{"content":"QUJD"}}` + "\n", []string{`{"data":{"content":""}}`}, "ABC", "end"},
		{"content deeper is not content", `{"x":{"content":"QUJD"},"data":{"a":{"content":"QUJD"}}}` + "\n", []string{`{"x":{"content":"QUJD"},"data":{"a":{"content":"QUJD"}}}`}, "", "end"},
		{"content in an array is not content", `{"data":[{"content":"QUJD"}],"content":["QUJD"]}` + "\n", []string{`{"data":[{"content":"QUJD"}],"content":["QUJD"]}`}, "", "end"},
		{"array after an object with content", `{"x":{"content":1},"data":["QUJD"]}` + "\n", []string{`{"x":{"content":1},"data":["QUJD"]}`}, "", "end"},
		{"line ends in an escape of what is skipped", "{\"skip\":\"\\\n\"}\n", nil, "", "syntax"},
		{"content as a value is not a key", `{"a":"content","b":"QUJD"}` + "\n", []string{`{"a":"content","b":"QUJD"}`}, "", "end"},
		{"content after an inner object", `{"data":{"a":1},"content":"QUJD"}` + "\n", []string{`{"data":{"a":1},"content":""}`}, "ABC", "end"},
		{"key with escapes", `{"\u0063ontent":"QUJD"}` + "\n", []string{`{"\u0063ontent":""}`}, "ABC", "end"},
		{"space about the colon", `{"content" : "QUJD"}` + "\n", []string{`{"content" : ""}`}, "ABC", "end"},
		{"content of another type", `{"content":null}` + "\n", []string{`{"content":null}`}, "", "end"},
		{"skipped", `{"skip":"\ud83d \n\"} {","content":"QUJD"}` + "\n", []string{`{"skip":"","content":""}`}, "ABC", "end"},
		{"skipped ends in a backslash", `{"skip":"\\","content":"QUJD"}` + "\n", []string{`{"skip":"","content":""}`}, "ABC", "end"},
	} {
		for how, src := range chunkings(test.in) {
			lines, content, err := readAll(src, MaxLine)
			if fmt.Sprint(lines) != fmt.Sprint(test.lines) || content != test.content || kind(err) != test.end {
				t.Errorf("%s, %s: %q, %q, %v; want %q, %q, %s", test.name, how, lines, content, err, test.lines, test.content, test.end)
			}
		}
	}
}

func TestLimit(t *testing.T) {
	line := `{"path":"/x","content":"` + strings.Repeat("QUJD", 50_000) + `","skip":"` + strings.Repeat("x", 50_000) + `"}`
	kept := len(`{"path":"/x","content":"","skip":""}`)
	for limit, want := range map[int]string{kept: "end", kept - 1: "long", 1: "long"} {
		for how, src := range chunkings(line + "\n") {
			_, content, err := readAll(src, limit)
			if kind(err) != want || want == "end" && content != strings.Repeat("ABC", 50_000) {
				t.Errorf("limit %d, %s: %v, %d bytes of content", limit, how, err, len(content))
			}
		}
	}
	for _, endless := range []string{"x", "[1", `\n`, " "} {
		src := io.MultiReader(strings.NewReader(`{"a":"`), &repeat{s: endless})
		if _, _, err := readAll(src, 100_000); kind(err) != "long" {
			t.Errorf("endless %q: %v", endless, err)
		}
	}
	if _, _, err := readAll(io.MultiReader(strings.NewReader(`{}`), &repeat{s: " "}), 100_000); kind(err) != "long" {
		t.Errorf("endless space after the object: %v", err)
	}
}

type repeat struct {
	s string
	i int
}

func (r *repeat) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = r.s[r.i%len(r.s)]
		r.i++
	}
	return len(p), nil
}

// A sink sees the line as far as it came: a path that precedes content can be
// used, one that follows cannot.
func TestSinkSeesTheLine(t *testing.T) {
	for in, want := range map[string]string{
		`{"path":"/x","content":"QUJD"}`: `{"path":"/x","content":`,
		`{"content":"QUJD","path":"/x"}`: `{"content":`,
	} {
		var got string
		_, err := NewReader(strings.NewReader(in), MaxLine).ReadLine(func(path string, line []byte) io.Writer {
			if path != "content" {
				return nil
			}
			got = string(line)
			return io.Discard
		})
		if err != nil || got != want {
			t.Errorf("%s: the sink saw %s, %v", in, got, err)
		}
	}
}

func TestReaderErrors(t *testing.T) {
	boom := errors.New("boom")
	for _, in := range []string{"", "{", `{"content":"`, `{"content":"QUJD"`} {
		src := io.MultiReader(strings.NewReader(in), iotest.ErrReader(boom))
		if _, _, err := readAll(src, MaxLine); err != boom {
			t.Errorf("%q: %v", in, err)
		}
	}
	full := func(string, []byte) io.Writer { return failing{boom} }
	if _, err := NewReader(strings.NewReader(`{"a":"QUJD"}`), MaxLine).ReadLine(full); err != boom {
		t.Error(err)
	}
	if _, err := NewReader(idle{}, MaxLine).ReadLine(nil); err != io.ErrNoProgress {
		t.Error(err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

type idle struct{}

func (idle) Read([]byte) (int, error) { return 0, nil }

// What follows a line stays in the reader, whichever buffer it was read into.
func TestPipelinedBehindContent(t *testing.T) {
	for _, size := range []int{0, 3, smallBuffer, largeBuffer, 3 * largeBuffer} {
		next := `{"next":"` + strings.Repeat("y", size) + `"}`
		in := `{"content":"` + strings.Repeat("QUJD", size) + `"}` + "\n" + next + "\n" + next + "\n"
		for how, src := range chunkings(in) {
			lines, content, err := readAll(src, MaxLine)
			if len(lines) != 3 || lines[1] != next || lines[2] != next || len(content) != 3*size || err != io.EOF {
				t.Errorf("%d, %s: %d lines, %d bytes, %v", size, how, len(lines), len(content), err)
			}
		}
	}
}

// What follows the last line can be read as it is.
func TestReadBehindLine(t *testing.T) {
	for _, size := range []int{0, 3, smallBuffer, largeBuffer, 3 * largeBuffer} {
		rest := strings.Repeat("\x00frames", size)
		for how, src := range chunkings(`{"content":"QUJD"}` + "\n" + rest) {
			r := NewReader(src, MaxLine)
			_, err := r.ReadLine(func(string, []byte) io.Writer { return io.Discard })
			got, restErr := io.ReadAll(r)
			if err != nil || restErr != nil || string(got) != rest {
				t.Errorf("%d, %s: %d bytes, %v, %v", len(rest), how, len(got), err, restErr)
			}
		}
	}
}

// Text with an escape every few bytes, as the output of many short lines has,
// must pass at a rate like that of other text.
func TestEscapesAreNotQuadratic(t *testing.T) {
	in := `{"skip":"` + strings.Repeat(`y\n`, 4<<20) + `"}`
	var linear, ours time.Duration
	for range 5 { // in one of which the machine has nothing else to do
		start := time.Now()
		if !json.Valid([]byte(in)) {
			t.Fatal("not JSON")
		}
		linear = time.Since(start)
		start = time.Now()
		if _, _, err := readAll(strings.NewReader(in), MaxLine); err != io.EOF {
			t.Fatal(err)
		}
		// The quadratic version took 50 times as long as json.Valid, this one twice.
		if ours = time.Since(start); ours <= 15*linear {
			return
		}
	}
	t.Errorf("12 MiB of short lines took %v, json.Valid %v", ours, linear)
}

// oracle is what encoding/json makes of one line, and what this package
// documents to differ in: only objects, within MaxDepth, on one line, in valid
// UTF-8 and whole surrogate pairs.
func oracle(line []byte) bool {
	s := string(line)
	if !json.Valid(line) || strings.ContainsAny(s, "\n") || !strings.HasPrefix(strings.TrimLeft(s, " \t\r"), "{") {
		return false
	}
	if strings.ToValidUTF8(s, "") != s {
		return false
	}
	// Unmarshal puts U+FFFD where a surrogate is alone.
	d := json.NewDecoder(strings.NewReader(s))
	for depth := 0; ; {
		token, err := d.Token()
		if err == io.EOF {
			return true
		}
		switch token := token.(type) {
		case string:
			if strings.Count(token, "\ufffd") > strings.Count(s, "\ufffd")+strings.Count(strings.ToLower(s), `\ufffd`) {
				return false
			}
		case json.Delim:
			if token == '{' || token == '[' {
				depth++
			} else {
				depth--
			}
			if depth > MaxDepth {
				return false
			}
		}
	}
}

func FuzzReadLine(f *testing.F) {
	for _, s := range []string{
		`{}`, `{"a":[1,2.5e3,true,null,{"b":"\u00e9\ud83d\ude00\n"}]}`, `{"content":"QUJD","skip":"\\"}`, `{"content":"QQ\u003d\u003D"}`,
		`{"data":{"content":"QUJD"}}`, "\r\n {\"a\":\"\xff\"}", `{"a":"\ud800"}`, `[{}]`, `{"a":"\ufffd"}`, nested(65),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if i := bytes.IndexByte(in, '\n'); i >= 0 {
			in = in[:i]
		}
		line, err := NewReader(bytes.NewReader(in), MaxLine).ReadLine(nil)
		blank := len(bytes.TrimLeft(in, " \t\r")) == 0
		if want := oracle(in); want != (err == nil) && !blank || blank != (err == io.EOF) {
			t.Fatalf("%q: %v, but encoding/json and the documented differences say %v", in, err, want)
		}
		if err == nil && !bytes.Equal(line, bytes.TrimLeft(in, " \t\r")) {
			t.Fatalf("%q was read as %q", in, line)
		}
		lines, content, err := readAll(bytes.NewReader(in), MaxLine)
		for how, src := range chunkings(string(in)) {
			lines2, content2, err2 := readAll(src, MaxLine)
			if fmt.Sprint(lines) != fmt.Sprint(lines2) || kind(err) != kind(err2) || len(lines) > 0 && content != content2 {
				t.Fatalf("%q reads as %q %q %v, in %s as %q %q %v", in, lines, content, err, how, lines2, content2, err2)
			}
		}
	})
}
