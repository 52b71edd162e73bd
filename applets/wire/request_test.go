package wire

import (
	"errors"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"
)

// parse reads fields from a line and returns them with the field that is wrong.
func parse[T any](line string, read func(Fields) (T, error)) (v T, field string) {
	f, err := ParseFields([]byte(line))
	if err == nil {
		v, err = read(f)
	}
	var fe *FieldError
	switch {
	case err == nil:
		return v, ""
	case errors.As(err, &fe):
		return v, fe.Field
	}
	return v, "not a field: " + err.Error()
}

func exec(f Fields) (Exec, error) { return f.Exec(1 << 30) }

func TestParseFields(t *testing.T) {
	f, err := ParseFields([]byte(`{"a":1,"A":"x","\u0062":[{}]}`))
	if err != nil || len(f) != 3 || string(f["a"]) != "1" || string(f["A"]) != `"x"` || string(f["b"]) != "[{}]" {
		t.Errorf("%s, %v", f, err)
	}
	if f, err = ParseFields([]byte(`{}`)); err != nil || len(f) != 0 {
		t.Errorf("%s, %v", f, err)
	}
	for _, twice := range []string{`{"a":1,"a":1}`, `{"a":1,"b":2,"\u0061":1}`} {
		if _, err := ParseFields([]byte(twice)); !reflect.DeepEqual(err, &FieldError{"a", "occurs twice"}) {
			t.Errorf("%s: %v", twice, err)
		}
	}
}

func TestHeader(t *testing.T) {
	for line, want := range map[string]struct {
		Header
		field string
	}{
		`{"operation":"ping"}`:                     {Header{"ping", false}, ""},
		`{"operation":"ping","keep_alive":true}`:   {Header{"ping", true}, ""},
		`{"operation":"ping","keep_alive":null}`:   {Header{"ping", false}, ""},
		`{"operation":"ping","keep_alive":"true"}`: {Header{"ping", false}, "keep_alive"},
		`{"operation":"ping","keep_alive":1}`:      {Header{"ping", false}, "keep_alive"},
		`{}`:                                       {Header{}, "operation"},
		`{"Operation":"ping"}`:                     {Header{}, "operation"},
		`{"x":["operation"]}`:                      {Header{}, "operation"},
		`{"x":{"operation":"a"}}`:                  {Header{}, "operation"},
		`{"operation":null}`:                       {Header{}, "operation"},
		`{"operation":7}`:                          {Header{}, "operation"},
		`{"operation":"a\u0000b"}`:                 {Header{"a\x00b", false}, "operation"},
	} {
		if h, field := parse(line, Fields.Header); field != want.field || h != want.Header {
			t.Errorf("%s: %+v, %q; want %+v", line, h, field, want)
		}
	}
}

func TestPath(t *testing.T) {
	for value, want := range map[string]string{
		`"/x"`: "/x", `"/"`: "/", `"/\u00e9\ud83d\ude00\n\\"`: "/é😀\n\\", `"/../x"`: "/../x",
		`""`: "", `"x"`: "", `"./x"`: "", `null`: "", `7`: "", `["/x"]`: "", `{"a":"/x"}`: "", `"/a\u0000b"`: "", `true`: "",
	} {
		got, field := parse(`{"path":`+value+`}`, Fields.Path)
		if ok := want != ""; ok != (field == "") || !ok && field != "path" || ok && got != want {
			t.Errorf("%s: %q, %q", value, got, field)
		}
	}
	if _, field := parse(`{}`, Fields.Path); field != "path" {
		t.Errorf("missing: %q", field)
	}
}

// Every way in which a number is right or wrong. Wrong ones must be refused, not
// be read as another.
func TestTimeout(t *testing.T) {
	for value, want := range map[string]int64{ // -1: refused
		"0": 0, "1": 1, "-0": 0, "30000": 30000, "1e4": 10000, "1E+4": 10000, "1.5e1": 15, "10.0": 10, "null": 30000,
		"2147483648": 1 << 31, "100e-1": 10, strconv.FormatInt(MaxTimeout.Milliseconds(), 10): MaxTimeout.Milliseconds(),
		strconv.FormatInt(MaxTimeout.Milliseconds()+1, 10): -1,
		"1.5": -1, "-5000": -1, "-1": -1, "1e400": -1, "-1e400": -1, "1e-400": 0, "1e-1": -1, "9223372036854775807": -1, "9223372036854775808": -1,
		"18446744073709551616": -1, "1e18": -1, `"9000"`: -1, "true": -1, "[1]": -1, "{}": -1, `""`: -1,
	} {
		e, field := parse(`{"cmd":["x"],"timeout":`+value+`}`, exec)
		switch {
		case want == -1 && field != "timeout":
			t.Errorf("%s: %v, %q", value, e.Timeout, field)
		case want != -1 && (field != "" || e.Timeout != time.Duration(want)*time.Millisecond):
			t.Errorf("%s: %v, %q; want %d ms", value, e.Timeout, field, want)
		}
	}
}

func TestExecFields(t *testing.T) {
	many := make([]string, 100_000)
	for i := range many {
		many[i] = strconv.Itoa(i)
	}
	e, field := parse(`{"cmd":["`+strings.Join(many, `","`)+`"]}`, exec)
	if field != "" || !reflect.DeepEqual(e.Cmd, many) {
		t.Errorf("100,000 arguments: %d, %q", len(e.Cmd), field)
	}
	got, field := parse(`{"cmd":["a","","\r\u00e9\ud83d\ude00"],"env":{"B":"x=y","A":""},"cwd":"/tmp","user":"1000:100","stdin":"","max_output":5,"timeout":0}`, exec)
	want := Exec{Cmd: []string{"a", "", "\ré😀"}, Env: []string{"B=x=y", "A="}, Cwd: "/tmp", User: "1000:100", MaxOutput: 5, HasStdin: true}
	if field != "" || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %q", got, field)
	}
	got, field = parse(`{"cmd":["timeout","9"],"env":null,"stdin":null}`, exec)
	want = Exec{Cmd: []string{"timeout", "9"}, Timeout: DefaultTimeout, MaxOutput: DefaultMaxOutput}
	if field != "" || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %q", got, field)
	}
	for line, want := range map[string]string{
		`{}`: "cmd", `{"cmd":null}`: "cmd", `{"cmd":[]}`: "cmd", `{"cmd":[""]}`: "cmd", `{"cmd":"ls"}`: "cmd", `{"cmd":{"0":"ls"}}`: "cmd",
		`{"cmd":["a",1]}`: "cmd", `{"cmd":["a",null]}`: "cmd", `{"cmd":["a",["b"]]}`: "cmd", `{"cmd":["a\u0000b"]}`: "cmd",
		`{"cmd":["x"],"env":[]}`: "env", `{"cmd":["x"],"env":{"A":1}}`: "env", `{"cmd":["x"],"env":{"":"x"}}`: "env", `{"cmd":["x"],"env":{"A=B":"x"}}`: "env",
		`{"cmd":["x"],"env":{"A":"1","A":"2"}}`: "env", `{"cmd":["x"],"env":{"A":"\u0000"}}`: "env", `{"cmd":["x"],"env":{"A\u0000":"x"}}`: "env",
		`{"cmd":["x"],"env":"A=B"}`: "env", `{"cmd":["x"],"env":{"A":null}}`: "env",
		`{"cmd":["x"],"cwd":"tmp"}`: "cwd", `{"cmd":["x"],"cwd":""}`: "cwd", `{"cmd":["x"],"cwd":1}`: "cwd", `{"cmd":["x"],"user":0}`: "user", `{"cmd":["x"],"user":""}`: "user",
		`{"cmd":["x"],"detach":true,"tty":true,"stdin":""}`: "stdin", `{"cmd":["x"],"stream":true,"stdin":""}`: "stdin", `{"cmd":["x"],"tty":true}`: "tty",
		`{"cmd":["x"],"stdin":1}`: "stdin", `{"cmd":["x"],"stdin":["a"]}`: "stdin",
		`{"cmd":["x"],"max_output":-1}`: "max_output", `{"cmd":["x"],"max_output":1073741825}`: "max_output", `{"cmd":["x"],"max_output":"5"}`: "max_output",
	} {
		if e, field := parse(line, exec); field != want {
			t.Errorf("%s: %+v, %q", line, e, field)
		}
	}
}

// TestForwardFields: a Unix socket has a path, and no abstract name.
func TestForwardFields(t *testing.T) {
	for line, want := range map[string]string{
		`{"address":"[::1]:80"}`: "", `{"network":"unix","address":"/x"}`: "", `{"network":"tcp6","address":"host:http"}`: "",
		`{}`: "address", `{"network":"unix"}`: "address", `{"network":"unix","address":"x"}`: "address", `{"network":"unix","address":"@x"}`: "address",
		`{"network":"unix","address":"\u0000x"}`: "address", `{"network":"unixpacket","address":"/x"}`: "network",
	} {
		if f, field := parse(line, Fields.Forward); field != want {
			t.Errorf("%s: %+v, %q", line, f, field)
		}
	}
}

func TestFileWriteFields(t *testing.T) {
	for line, want := range map[string]FileWrite{
		`{"path":"/x","content":""}`:                                 {"/x", -1, false},
		`{"path":"/x","content":"","mode":"644"}`:                    {"/x", 0o644, false},
		`{"path":"/x","content":"","mode":"0"}`:                      {"/x", 0, false},
		`{"path":"/x","content":"","mode":"07777","append":true}`:    {"/x", 0o7777, true},
		`{"path":"/x","content":"","mode":null,"append":null,"z":1}`: {"/x", -1, false},
	} {
		if w, field := parse(line, Fields.FileWrite); field != "" || w != want {
			t.Errorf("%s: %+v, %q", line, w, field)
		}
	}
	for line, want := range map[string]string{
		`{"content":""}`: "path", `{"path":"/x"}`: "content", `{"path":"/x","content":null}`: "content", `{"path":"/x","content":7}`: "content",
		`{"path":"/x","content":["QUJD"]}`: "content", `{"path":"/x","content":"","mode":"10000"}`: "mode", `{"path":"/x","content":"","mode":"8"}`: "mode",
		`{"path":"/x","content":"","mode":""}`: "mode", `{"path":"/x","content":"","mode":"-1"}`: "mode", `{"path":"/x","content":"","mode":420}`: "mode",
		`{"path":"/x","content":"","mode":"0o644"}`: "mode", `{"path":"/x","content":"","append":"yes"}`: "append",
	} {
		if w, field := parse(line, Fields.FileWrite); field != want {
			t.Errorf("%s: %+v, %q", line, w, field)
		}
	}
}
