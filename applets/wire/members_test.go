package wire

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"strings"
	"testing"
	"unicode/utf8"
)

// TestParseFieldsIsJSON: the split that makes no copies finds what encoding/json
// finds.
func TestParseFieldsIsJSON(t *testing.T) {
	for _, in := range []string{
		`{"a":1,"b":"x","c":null,"d":true,"e":-1.5e3,"f":{"g":[1,{"h":"}]"}]},"i":[],"j":{}}`,
		" { \"a\"\t: 1 ,\r\n \"b\" : [ 1 , 2 ] , \"c\" : { } } ",
		`{"\\":"\\","\"":"\"","\u0061":"\u005c","{[":"]}",":,":",:"}`,
		`{"a":"x`, `{"a" 1}`, `[1]`, `"a"`, `1`, ``, ` `, `{`, `{"a":1}}`,
	} {
		checkFields(t, in)
	}
}

func FuzzParseFields(f *testing.F) {
	f.Add(`{"a":[1,{"b":"\"}"}],"c":"d"}`)
	f.Fuzz(checkFields)
}

func checkFields(t *testing.T, in string) {
	if !utf8.ValidString(in) {
		return // no Reader returns such a line
	}
	want := Fields{}
	wantErr := json.Unmarshal([]byte(in), &want)
	got, err := ParseFields([]byte(in))
	if errors.As(err, new(*FieldError)) {
		return // twice, of which encoding/json takes the last
	}
	if in = strings.TrimSpace(in); in == "null" {
		wantErr = errors.New("not an object")
	}
	same := func(a, b json.RawMessage) bool { return string(a) == string(b) }
	if (err == nil) != (wantErr == nil) || err == nil && !maps.EqualFunc(got, want, same) {
		t.Errorf("%q: %q, %v; want %q, %v", in, got, err, want, wantErr)
	}
}

// TestLineOfManyItems: short names and values count for what they take when they
// are parsed.
func TestLineOfManyItems(t *testing.T) {
	const limit = 64 << 10
	for _, row := range []struct {
		name, line string
		fits       bool
	}{
		{"few items", `{"a":["` + strings.Repeat("x", limit-100) + `"]}`, true},
		{"many words", `{"a":["` + strings.Repeat(`","`, 2000) + `"]}`, true},
		{"too many words", `{"a":["` + strings.Repeat(`","`, 2400) + `"]}`, false},
		{"too many names", `{"a":{` + strings.Repeat(`"":0,`, 1200) + `"":0}}`, false},
	} {
		_, err := NewReader(strings.NewReader(row.line+"\n"), limit).ReadLine(nil)
		if row.fits && err != nil || !row.fits && err != ErrTooLong {
			t.Errorf("%s: %v", row.name, err)
		}
	}
}

// A purse is a Memory with so much in it.
type purse struct{ left, most, taken int }

var errSpent = errors.New("spent")

func (p *purse) Take(n int) bool { return p.Await(n) == nil }

func (p *purse) Await(n int) error {
	if p.taken+n > p.left {
		return errSpent
	}
	p.taken += n
	p.most = max(p.most, p.taken)
	return nil
}

func (p *purse) Give(n int) { p.taken -= n }

// TestReaderMemory: a reader asks for what it needs, holds the line's part until it
// is freed, gives everything back, and does with little where there is little.
func TestReaderMemory(t *testing.T) {
	long := `{"a":"` + strings.Repeat("x", 100<<10) + `"}`
	content := `{"content":"` + strings.Repeat("QUJD", 50<<10) + `"}`
	for _, row := range []struct {
		name, line        string
		left, least, most int // most: the highest that may be taken
		err               error
	}{
		{"short", `{"a":"b"}`, 0, 0, 0, nil},
		{"long", long, 1 << 20, LineCost * 90 << 10, LineCost * 250 << 10, nil},
		{"too little for it", long, 100 << 10, 0, 100 << 10, errSpent},
		{"content", content, 1 << 20, largeBuffer, largeBuffer, nil},
		{"content through a small buffer", content, 100, 0, 0, nil},
		{"cut off", long[:50<<10], 1 << 20, 40 << 10, 1 << 20, errors.New("unexpected EOF")},
	} {
		p := &purse{left: row.left}
		r := NewReader(strings.NewReader(row.line), MaxLine)
		r.Memory = p
		var got strings.Builder
		line, err := r.ReadLine(func(path string, _ []byte) io.Writer {
			if path == "content" {
				return &got
			}
			return nil
		})
		if (err == nil) != (row.err == nil) || err != nil && err.Error() != row.err.Error() {
			t.Errorf("%s: %v", row.name, err)
		}
		if row.line == content && got.Len() != 150<<10 {
			t.Errorf("%s: %d bytes of content", row.name, got.Len())
		}
		if p.most < row.least || p.most > row.most {
			t.Errorf("%s: took %d, not between %d and %d", row.name, p.most, row.least, row.most)
		}
		if held := p.taken; (held > 0) != (len(line) > freeLine) {
			t.Errorf("%s: %d held for a line of %d bytes", row.name, held, len(line))
		}
		if r.Close(); p.taken != 0 {
			t.Errorf("%s: %d never given back", row.name, p.taken)
		}
	}
}

// TestReplyMemory: a reply gives its buffers back, and does without them.
func TestReplyMemory(t *testing.T) {
	src := strings.Repeat("abcé", 50<<10)
	for _, left := range []int{0, 1 << 20} {
		p := &purse{left: left}
		var b strings.Builder
		r := NewReply(&b)
		r.Memory = p
		r.Text("t", strings.NewReader(src))
		r.Base64("b", strings.NewReader(src))
		var got struct {
			Data struct {
				T string
				B []byte
			}
		}
		if err := r.End(); err != nil || json.Unmarshal([]byte(b.String()), &got) != nil {
			t.Fatal(err)
		}
		if got.Data.T != src || string(got.Data.B) != src || p.taken != 0 || (p.most > 0) != (left > 0) {
			t.Errorf("with %d: %d, %d bytes, %d at most, %d kept", left, len(got.Data.T), len(got.Data.B), p.most, p.taken)
		}
	}
}
