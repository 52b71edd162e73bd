package wire

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// whole is all that the agent reads of a request, by every reader of fields.
type whole struct {
	Kind    string // of the error of the line or of the header
	Line    string
	Content string
	Header  Header
	Path    string
	Write   FileWrite
	Exec    Exec
	Wrong   [3]string // of path, file_write and exec
}

// readWhole reads one request.
func readWhole(src io.Reader) (w whole, fields Fields) {
	var content bytes.Buffer
	line, err := NewReader(src, MaxLine).ReadLine(func(path string, _ []byte) io.Writer {
		if path == "content" || path == "stdin" {
			return &content
		}
		return nil
	})
	if err == nil {
		fields, err = ParseFields(line)
	}
	if err == nil {
		w.Header, err = fields.Header()
	}
	if w.Kind = kind(err); err != nil {
		return w, nil
	}
	w.Line, w.Content = string(line), content.String()
	var wrong [3]error
	w.Path, wrong[0] = fields.Path()
	w.Write, wrong[1] = fields.FileWrite()
	w.Exec, wrong[2] = fields.Exec(1 << 30)
	for i, err := range wrong {
		w.Wrong[i] = kind(err)
	}
	return w, fields
}

// FuzzRequest: what one reader of fields accepts, encoding/json reads the same
// way; how the bytes come in changes nothing; and no more is read of an endless
// line than its limit. (FAULTS.md 1.9 to 1.12; FAULTS.md 2: wrong types, duplicate
// keys, integers, NUL, relative paths)
func FuzzRequest(f *testing.F) {
	f.Fuzz(func(t *testing.T, in []byte) {
		got, fields := readWhole(bytes.NewReader(in))
		for how, src := range chunkings(string(in)) {
			if again, _ := readWhole(src); !reflect.DeepEqual(got, again) {
				t.Fatalf("%q: %+v, in %s %+v", in, got, how, again)
			}
		}
		boundedRead(t, in)
		if got.Kind != "none" {
			return
		}
		var want map[string]json.RawMessage
		if err := json.Unmarshal([]byte(got.Line), &want); err != nil || countKeys(got.Line) != len(fields) || len(want) != len(fields) {
			t.Fatalf("%s: %d fields, encoding/json has %d, %v", got.Line, len(fields), len(want), err)
		}
		for name, value := range want {
			if string(fields[name]) != string(value) {
				t.Fatalf("%s: %s is %s, want %s", got.Line, name, fields[name], value)
			}
		}
		agrees(t, want, &got)
	})
}

// countKeys counts the keys of an object, those that occur twice twice.
func countKeys(object string) (n int) {
	d := json.NewDecoder(strings.NewReader(object))
	_, _ = d.Token()
	for ; d.More(); n++ {
		var value json.RawMessage
		if _, err := d.Token(); err != nil || d.Decode(&value) != nil {
			return -1
		}
	}
	return n
}

// agrees checks the fields that were accepted, and that those refused are wrong.
func agrees(t *testing.T, fields map[string]json.RawMessage, got *whole) {
	t.Helper()
	text := func(name string) (s string, ok bool) {
		v, has := fields[name]
		if !has || string(v) == "null" {
			return "", true
		}
		err := json.Unmarshal(v, &s)
		return s, err == nil && !strings.Contains(s, "\x00")
	}
	path, pathOK := text("path")
	pathOK = pathOK && strings.HasPrefix(path, "/")
	operation, ok := text("operation")
	if !ok || operation != got.Header.Operation || got.Header.KeepAlive != (string(fields["keep_alive"]) == "true") {
		t.Fatalf("%s: %+v", got.Line, got.Header)
	}
	if pathOK != (got.Wrong[0] == "none") || pathOK && got.Path != path {
		t.Fatalf("%s: path %q, %s; want %q, %v", got.Line, got.Path, got.Wrong[0], path, pathOK)
	}
	if got.Wrong[1] == "none" {
		mode, modeOK := text("mode")
		n, err := strconv.ParseUint(mode, 8, 12)
		if fields["mode"] == nil || string(fields["mode"]) == "null" {
			n, err = math.MaxUint64, nil
		}
		if w := got.Write; !pathOK || w.Path != path || !modeOK || err != nil || w.Mode != int(n) || w.Append != (string(fields["append"]) == "true") {
			t.Fatalf("%s: %+v", got.Line, w)
		}
	}
	if got.Wrong[2] == "none" {
		agreesExec(t, fields, got)
	}
}

func agreesExec(t *testing.T, fields map[string]json.RawMessage, got *whole) {
	t.Helper()
	number := func(name string, missing float64) float64 {
		if v := fields[name]; v != nil && string(v) != "null" {
			if json.Unmarshal(v, &missing) != nil {
				return math.NaN()
			}
		}
		return missing
	}
	var cmd []string
	var env map[string]string
	err := json.Unmarshal(fields["cmd"], &cmd)
	if v := fields["env"]; err == nil && v != nil {
		err = json.Unmarshal(v, &env)
	}
	e := got.Exec
	if err != nil || !reflect.DeepEqual(cmd, e.Cmd) || len(env) != len(e.Env) || cmd[0] == "" || strings.Contains(strings.Join(cmd, ""), "\x00") {
		t.Fatalf("%s: %+v, encoding/json has %q, %q, %v", got.Line, e, cmd, env, err)
	}
	for _, word := range e.Env {
		name, value, _ := strings.Cut(word, "=")
		if v, ok := env[name]; !ok || v != value || name == "" || strings.Contains(word, "\x00") {
			t.Fatalf("%s: %q", got.Line, word)
		}
	}
	if ms := number("timeout", 30000); float64(e.Timeout)/float64(time.Millisecond) != ms || ms < 0 {
		t.Fatalf("%s: timeout %v, want %v ms", got.Line, e.Timeout, ms)
	}
	if n := number("max_output", DefaultMaxOutput); float64(e.MaxOutput) != n || n < 0 {
		t.Fatalf("%s: max_output %v, want %v", got.Line, e.MaxOutput, n)
	}
	if e.HasStdin != (fields["stdin"] != nil && string(fields["stdin"]) != "null") {
		t.Fatalf("%s: stdin %v", got.Line, e.HasStdin)
	}
}

// boundedRead lets an input go on for ever: the reader gives up at its limit, and
// keeps no more than that.
func boundedRead(t *testing.T, in []byte) {
	t.Helper()
	const limit = 100
	src := &countingReader{r: io.MultiReader(bytes.NewReader(in), &repeat{s: "x"})}
	line, err := NewReader(src, limit).ReadLine(nil)
	if line != nil && (err != nil || len(line) > limit || bytes.IndexByte(in, '\n') < 0) {
		t.Fatalf("%q: a line of %d bytes, %v", in, len(line), err)
	}
	if most := len(in) + limit + 2*smallBuffer; src.n > most {
		t.Fatalf("%q: %d bytes were read, want at most %d", in, src.n, most)
	}
}

type countingReader struct {
	r io.Reader
	n int
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

// FuzzContent: content of any length, in pieces of any length, is what
// encoding/base64 makes of the string that it is in, or is refused by it as well.
// (FAULTS.md 1.18)
func FuzzContent(f *testing.F) {
	f.Fuzz(func(t *testing.T, in []byte, groups, piece uint16) {
		before := int(groups) * 3
		text := append(bytes.Repeat([]byte("QUJD"), int(groups)), in...)
		if bytes.IndexByte(in, '"') >= 0 {
			return
		}
		var s string
		valid := json.Unmarshal([]byte(`"`+string(text)+`"`), &s) == nil && !strings.ContainsAny(s, "\r\n")
		want, err := base64.StdEncoding.Strict().DecodeString(s)
		valid = valid && err == nil
		for how, src := range map[string]io.Reader{
			"whole": bytes.NewReader(text), "halves": iotest.HalfReader(bytes.NewReader(text)),
			fmt.Sprintf("pieces of %d", piece+1): &inPieces{text, int(piece) + 1},
		} {
			got, err := decodeContent(src)
			if (err == nil) != valid || valid && got != string(want) || !valid && kind(err) == "none" {
				t.Fatalf("%d bytes and %q, %s: %d bytes, %v; encoding/base64 has %d, %v", before, in, how, len(got), err, len(want), valid)
			}
		}
	})
}

// inPieces reads as many bytes at once as it says.
type inPieces struct {
	rest []byte
	n    int
}

func (p *inPieces) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.rest[:min(p.n, len(p.rest))])
	p.rest = p.rest[n:]
	return n, nil
}
