package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// A FieldError reports a field of a request that is missing or holds what it
// must not hold.
type FieldError struct{ Field, Reason string }

func (e *FieldError) Error() string { return e.Field + ": " + e.Reason }

// Fields are the fields of a request, by their exact names.
type Fields map[string]json.RawMessage

// ParseFields splits a line that a Reader returned; the values are parts of it, not
// copies. A field that occurs twice is a *FieldError: what two parsers could read
// differently is not run.
func ParseFields(line []byte) (Fields, error) {
	if !json.Valid(line) || bytes.TrimLeft(line, space)[0] != '{' {
		return nil, syntaxError("invalid")
	}
	f := Fields{}
	err := members(line, func(name string, value json.RawMessage) error {
		if _, dup := f[name]; dup {
			return &FieldError{name, "occurs twice"}
		}
		f[name] = value
		return nil
	})
	return f, err
}

const space = " \t\r\n"

// members calls add for each member of an object, which is valid, in order.
func members(object []byte, add func(name string, value json.RawMessage) error) error {
	rest := object[bytes.IndexByte(object, '{')+1:]
	for {
		var name, value []byte
		if name, rest = next(rest); name == nil {
			return nil
		}
		value, rest = next(rest)
		key, err := text(name)
		if err != nil {
			return syntaxError("%v", err)
		}
		if err := add(key, value); err != nil {
			return err
		}
	}
}

// next returns the first of the values that p lists, which is the rest of a valid
// array or object, and what follows it. There is none at the end of the list.
// (encoding/json would make copies of all of them, of many times their size.)
func next(p []byte) (value, rest []byte) {
	p = bytes.TrimLeft(p, space+",:")
	depth, quoted := 0, false
	for i := 0; i < len(p); i++ {
		c := p[i]
		switch {
		case quoted && c == '\\':
			i++
			continue
		case c == '"':
			quoted = !quoted
		case quoted:
			continue
		case c == '{' || c == '[':
			depth++
			continue
		case c == '}' || c == ']':
			if depth--; depth < 0 && i == 0 {
				return nil, nil
			} else if depth < 0 {
				return p[:i:i], p[i:]
			}
		case depth == 0 && strings.IndexByte(space+",:", c) >= 0:
			return p[:i:i], p[i:]
		default:
			continue
		}
		if depth == 0 && !quoted {
			return p[: i+1 : i+1], p[i+1:]
		}
	}
	return nil, nil
}

// text returns what a string that is valid JSON holds.
func text(quoted []byte) (s string, err error) {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return string(quoted[1 : len(quoted)-1]), nil
	}
	err = json.Unmarshal(quoted, &s)
	return s, err
}

// A fieldReader reads fields into typed values and keeps the first error.
type fieldReader struct {
	f   Fields
	err error
}

func (r *fieldReader) fail(field, format string, args ...any) {
	if r.err == nil {
		r.err = &FieldError{field, fmt.Sprintf(format, args...)}
	}
}

// get returns a field, or nil if it is missing or null.
func (r *fieldReader) get(name string) json.RawMessage {
	if v := r.f[name]; string(v) != "null" {
		return v
	}
	return nil
}

func (r *fieldReader) string(name string) string {
	v := r.get(name)
	if v == nil {
		return ""
	}
	if v[0] != '"' {
		r.fail(name, "must be a string")
		return ""
	}
	s, err := text(v)
	if err != nil {
		r.fail(name, "must be a string")
	}
	if strings.IndexByte(s, 0) >= 0 {
		r.fail(name, "must not hold a NUL character")
	}
	return s
}

// path reads an absolute path; a missing one is an error if it is required.
func (r *fieldReader) path(name string, required bool) string {
	p := r.string(name)
	switch {
	case r.get(name) == nil && !required:
	case r.get(name) == nil:
		r.fail(name, "is missing")
	case p == "":
		r.fail(name, "must not be empty")
	case p[0] != '/':
		r.fail(name, "must be an absolute path")
	}
	return p
}

func (r *fieldReader) bool(name string) bool {
	switch v := r.get(name); string(v) {
	case "true":
		return true
	case "", "false":
	default:
		r.fail(name, "must be true or false")
	}
	return false
}

// int reads a whole number between lo and hi; 1e4 is one, 1.5 is not.
func (r *fieldReader) int(name string, missing, lo, hi int64) int64 {
	v := r.get(name)
	if v == nil {
		return missing
	}
	n, ok := wholeNumber(v)
	if !ok {
		if v[0] != '-' && (v[0] < '0' || v[0] > '9') {
			r.fail(name, "must be a number")
		} else {
			r.fail(name, "must be a whole number between %d and %d", lo, hi)
		}
		return missing
	}
	if n < lo || n > hi {
		r.fail(name, "must be a whole number between %d and %d", lo, hi)
	}
	return n
}

// wholeNumber reads a whole number, if v is one.
func wholeNumber(v []byte) (n int64, ok bool) {
	n, err := strconv.ParseInt(string(v), 10, 64)
	if err == nil {
		return n, true
	}
	// strconv takes more than JSON has for a number, such as "nan".
	if v[0] != '-' && (v[0] < '0' || v[0] > '9') {
		return 0, false
	}
	x, err := strconv.ParseFloat(string(v), 64)
	return int64(x), err == nil && x == math.Trunc(x) && math.Abs(x) <= 1<<53
}

// list reads an array of strings.
func (r *fieldReader) list(name string) []string {
	v := r.get(name)
	if v == nil {
		return nil
	}
	if v[0] != '[' {
		r.fail(name, "must be an array of strings")
		return nil
	}
	n := 0
	for item, rest := next(v[1:]); item != nil; item, rest = next(rest) {
		n++
	}
	list := make([]string, 0, n) // not a byte more: there may be many
	for item, rest := next(v[1:]); item != nil; item, rest = next(rest) {
		if item[0] != '"' {
			r.fail(name, "must be an array of strings")
			return nil
		}
		s, err := text(item)
		if err != nil {
			r.fail(name, "must be an array of strings")
		}
		if strings.IndexByte(s, 0) >= 0 {
			r.fail(name, "must not hold a NUL character")
		}
		list = append(list, s)
	}
	return list
}

// env reads an object of strings as "name=value" words, in its order.
func (r *fieldReader) env(name string) []string {
	v := r.get(name)
	if v == nil {
		return nil
	}
	if v[0] != '{' {
		r.fail(name, "must be an object of strings")
		return nil
	}
	var env []string
	seen := map[string]bool{}
	err := members(v, func(key string, value json.RawMessage) error {
		if value[0] != '"' {
			r.fail(name, "must be an object of strings")
			return nil
		}
		s, err := text(value)
		switch {
		case err != nil:
			r.fail(name, "must be an object of strings")
		case key == "" || strings.ContainsAny(key, "=\x00"):
			r.fail(name, "a name must not be empty or hold = or NUL")
		case strings.IndexByte(s, 0) >= 0:
			r.fail(name, "must not hold a NUL character")
		case seen[key]:
			r.fail(name, "%s occurs twice", key)
		}
		seen[key] = true
		env = append(env, key+"="+s)
		return nil
	})
	if err != nil {
		r.fail(name, "must be an object of strings")
	}
	return env
}
