package client

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/hyperfleet/init/applets/wire"
)

// A request is the line that asks for an operation, as far as it is built.
type request struct {
	op      string
	head    bytes.Buffer // the object without its end
	stream  string       // name of the field that holds content, or ""
	content io.Reader
	count   int64 // bytes of content that were sent
	err     error // the first argument that can't be sent
	// sink takes content out of the reply that begins a stream; or nil.
	sink wire.Sink
}

func newRequest(op string) *request {
	r := &request{op: op}
	r.head.WriteString(`{"operation":"` + op + `"`)
	return r
}

// name starts a field.
func (r *request) name(name string) { r.head.WriteString(`,"` + name + `":`) }

// string adds a field that holds text.
func (r *request) string(name, value string) {
	r.name(name)
	r.text(name, value)
}

// text adds a JSON string. JSON can't hold what is not UTF-8, and encoding/json
// would send another name than was meant instead of failing.
func (r *request) text(name, value string) {
	if !utf8.ValidString(value) && r.err == nil {
		r.err = fmt.Errorf("%s: %q is not valid UTF-8", name, value)
	}
	r.json(value)
}

// json adds a value.
func (r *request) json(value any) {
	b, err := json.Marshal(value)
	if err != nil && r.err == nil {
		r.err = err
	}
	r.head.Write(b)
}

// value adds a field that holds a number or a boolean.
func (r *request) value(name string, value any) {
	r.name(name)
	r.json(value)
}

// flag adds a field that is true, if it is.
func (r *request) flag(name string, set bool) {
	if set {
		r.value(name, true)
	}
}

// list adds a field that holds an array of text.
func (r *request) list(name string, values []string) {
	r.name(name)
	for i, v := range values {
		r.head.WriteByte("[,"[min(i, 1)])
		r.text(name, v)
	}
	if len(values) == 0 {
		r.head.WriteByte('[')
	}
	r.head.WriteByte(']')
}

// base64 makes content the last field of the request.
func (r *request) base64(name string, content io.Reader) {
	r.stream, r.content = name, content
}

// writeTo sends the line.
func (r *request) writeTo(w io.Writer) error {
	if r.stream == "" {
		r.head.WriteString("}\n")
		_, err := w.Write(r.head.Bytes())
		return err
	}
	// What goes out in pieces of a base64 buffer needs no buffer but for the ends.
	r.name(r.stream)
	r.head.WriteByte('"')
	if _, err := w.Write(r.head.Bytes()); err != nil {
		return err
	}
	if err := wire.WriteBase64(w, (*counter)(r)); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\"}\n")
	return err
}

// counter reads a request's content and counts it.
type counter request

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.content.Read(p)
	c.count += int64(n)
	return n, err
}

// firstLine returns a reader that stands at the first line of src that is not
// blank.
func firstLine(src io.Reader) (*bufio.Reader, error) {
	b := bufio.NewReader(src)
	for {
		c, err := b.ReadByte()
		if err != nil {
			return nil, err
		}
		if c != '\n' && c != '\r' && c != ' ' && c != '\t' {
			return b, b.UnreadByte()
		}
	}
}

// copyLine writes one line, which may be of any length, and its newline.
func copyLine(w io.Writer, line *bufio.Reader) error {
	for {
		piece, err := line.ReadSlice('\n')
		if len(piece) > 0 {
			if _, err := w.Write(piece); err != nil {
				return err
			}
		}
		switch err {
		case nil:
			return nil
		case bufio.ErrBufferFull:
		case io.EOF: // the end of the input is the end of the line
			_, err := io.WriteString(w, "\n")
			return err
		default:
			return err
		}
	}
}
