package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"unicode/utf8"
)

const (
	// MaxLine is the default bound on a line, content not counted, in bytes. A
	// command line and its environment may reach 2 MiB before the kernel says
	// E2BIG, and JSON may escape what is in them.
	MaxLine = 8 << 20

	// MaxDepth bounds how deeply a line's arrays and objects nest.
	MaxDepth = 64

	smallBuffer = 2 << 10   // of an idle connection
	largeBuffer = 128 << 10 // while much content passes

	// Names and values beyond the first freeItems count as itemCost bytes of the
	// line more: parsed, the shortest take more room than they have in it. (What
	// the kernel takes by default, 2 MiB with 9 bytes for each empty argument,
	// fits a line of MaxLine.)
	freeItems = 256
	itemCost  = 32

	// freeLine is what a line holds before it asks its Memory.
	freeLine = 8 << 10

	maxIdle = 100 // reads in a row that may bring nothing
)

// ErrTooLong reports a line beyond the reader's limit.
var ErrTooLong = errors.New("line too long")

// A SyntaxError reports a line that is not one JSON object.
type SyntaxError struct{ Reason string }

func (e *SyntaxError) Error() string { return "not a JSON object: " + e.Reason }

func syntaxError(format string, args ...any) error {
	return &SyntaxError{fmt.Sprintf(format, args...)}
}

// A Sink chooses where a string goes. path is the key of a string in the line's
// object, or "outer.inner" for one in an object inside it; line is what has come
// of the line so far and ends in that key's colon. A nil writer keeps the string
// in the line; [Skip] drops it; any other writer receives what its base64 holds.
type Sink func(path string, line []byte) io.Writer

// Skip as a Sink's answer drops a string without decoding it.
var Skip io.Writer = skip{}

type skip struct{}

func (skip) Write(p []byte) (int, error) { return len(p), nil }

// largeBuffers holds the buffers that content passes through, so that a transfer
// need not make its own.
var largeBuffers = sync.Pool{New: func() any { b := make([]byte, largeBuffer); return &b }}

// A Reader reads lines from a connection.
type Reader struct {
	Memory Memory // what long lines and large buffers are taken from

	src    io.Reader
	limit  int
	buf    []byte
	r, w   int     // buf[r:w] is read but not consumed
	large  *[]byte // what buf is, while it is one of largeBuffers
	err    error   // what the last read from src ended with
	stream bool    // content passes: a large buffer would help
	line   int     // taken from Memory for the last line
}

// NewReader returns a Reader whose lines, strings given to a Sink not counted,
// hold at most limit bytes.
func NewReader(src io.Reader, limit int) *Reader {
	return &Reader{src: src, limit: limit, buf: make([]byte, smallBuffer)}
}

// Read reads what follows the last line: for a connection that goes on in frames.
func (r *Reader) Read(p []byte) (int, error) {
	if r.r == r.w {
		return r.src.Read(p)
	}
	n := copy(p, r.buf[r.r:r.w])
	r.r += n
	return n, nil
}

// ReadLine returns the next line: one valid JSON object in valid UTF-8, with ""
// in place of the strings that sink took (sink may be nil). Blank lines before it
// are passed over.
//
// At a clean end of input the error is io.EOF. A line ended by the end of input
// counts if its object is complete, and is io.ErrUnexpectedEOF if not. A line
// that is not an object is a *SyntaxError, one beyond the limit ErrTooLong, a
// string that a sink took and that is no base64 a *FieldError; an error of the
// writer that a sink chose, and of Memory, is returned as it is. After an error
// other than io.EOF nothing more can be read.
//
// The line, if it is long, counts as in use until Free or the next ReadLine.
func (r *Reader) ReadLine(sink Sink) (line []byte, err error) {
	r.Free()
	defer func() {
		r.release()
		if err != nil {
			r.Free()
		}
	}()
	s := scan{r: r, sink: sink, granted: freeLine}
	if err := s.line(); err != nil {
		return nil, err
	}
	if !utf8.Valid(s.out) {
		return nil, syntaxError("invalid UTF-8")
	}
	if !json.Valid(s.out) {
		return nil, invalid(s.out)
	}
	if !pairedSurrogates(s.out) {
		return nil, syntaxError("a \\u escape is half of a surrogate pair")
	}
	return s.out, nil
}

// invalid says what is wrong with a line that json.Valid refused.
func invalid(line []byte) error {
	var v json.RawMessage
	if err := json.Unmarshal(line, &v); err != nil {
		return syntaxError("%v", err)
	}
	return syntaxError("invalid")
}

// Free tells Memory that the last line, and all that was parsed out of it, is no
// longer in use.
func (r *Reader) Free() {
	give(r.Memory, r.line)
	r.line = 0
}

// Close gives back all that r holds. Nothing more can be read.
func (r *Reader) Close() {
	r.Free()
	r.r, r.w = 0, 0
	r.release()
}

// fill reads more input, behind what is not consumed.
func (r *Reader) fill() error {
	if r.err != nil {
		return r.err
	}
	if r.stream {
		r.enlarge()
	}
	r.w = copy(r.buf, r.buf[r.r:r.w])
	r.r = 0
	for range maxIdle {
		n, err := r.src.Read(r.buf[r.w:])
		r.w += n
		if n > 0 {
			return nil
		}
		if err != nil {
			r.err = err
			return err
		}
	}
	return io.ErrNoProgress
}

// enlarge swaps the buffer for a large one until the end of the line, if there is
// memory for it.
func (r *Reader) enlarge() {
	if r.large != nil || !take(r.Memory, largeBuffer) {
		return
	}
	r.large = largeBuffers.Get().(*[]byte)
	r.w = copy(*r.large, r.buf[r.r:r.w])
	r.r, r.buf = 0, *r.large
}

// release gives a large buffer back as soon as what is left in it fits a small
// one.
func (r *Reader) release() {
	r.stream = false
	if r.large == nil || r.w-r.r > smallBuffer {
		return
	}
	small := make([]byte, smallBuffer)
	r.w = copy(small, r.buf[r.r:r.w])
	r.r = 0
	largeBuffers.Put(r.large)
	r.buf, r.large = small, nil
	give(r.Memory, largeBuffer)
}

// scan is the reading of one line. It follows the structure only as far as it
// must to know which string it is in; json.Valid judges the rest.
type scan struct {
	r     *Reader
	sink  Sink
	out   []byte
	stack []byte    // '{' or '[' for each that is open
	keys  [2]string // of the two outermost objects
	key   bool      // the next string is a key
	done  bool      // the object is closed

	items   int // names and values
	granted int // how long the line may become before Memory is asked again
}

func (s *scan) line() error {
	for {
		c, err := s.next()
		if err == io.EOF && s.done {
			return nil
		}
		if err == io.EOF && len(s.out) > 0 {
			return io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		if c == '\n' {
			if s.done {
				return nil
			}
			if len(s.out) > 0 {
				return syntaxError("the line ends inside it")
			}
			continue
		}
		if len(s.out) == 0 && (c == '\r' || c == ' ' || c == '\t') {
			continue // blank lines, bounded by the connection's deadline
		}
		if err := s.structural(c); err != nil {
			return err
		}
	}
}

// next consumes one byte.
func (s *scan) next() (byte, error) {
	r := s.r
	if r.r == r.w {
		if err := r.fill(); err != nil {
			return 0, err
		}
	}
	c := r.buf[r.r]
	r.r++
	return c, nil
}

// structural handles a byte outside strings.
func (s *scan) structural(c byte) error {
	if len(s.out) == 0 && c != '{' {
		if c == 0xEF {
			return syntaxError("it starts with a byte order mark")
		}
		return syntaxError("it starts with %q", c)
	}
	if s.done && c != ' ' && c != '\t' && c != '\r' {
		return syntaxError("something follows it on its line")
	}
	if err := s.keep(c); err != nil {
		return err
	}
	switch c {
	case '{', '[':
		if len(s.stack) == MaxDepth {
			return syntaxError("nested deeper than %d", MaxDepth)
		}
		s.stack = append(s.stack, c)
		s.key = c == '{'
	case '}', ']':
		// A mismatch is left to json.Valid.
		s.stack = s.stack[:len(s.stack)-1]
		s.done = len(s.stack) == 0
		s.key = false
	case ',':
		s.items++
		s.key = s.stack[len(s.stack)-1] == '{'
	case ':':
		s.items++
		s.key = false
	case '"':
		return s.text()
	}
	return nil
}

func (s *scan) keep(p ...byte) error {
	if err := s.room(len(s.out) + len(p)); err != nil {
		return err
	}
	s.out = append(s.out, p...)
	return nil
}

// room makes room for a line of n bytes.
func (s *scan) room(n int) error {
	cost := n + itemCost*max(0, s.items-freeItems)
	if cost > s.r.limit {
		return ErrTooLong
	}
	if cost > s.granted {
		more := min(max(2*s.granted, cost), max(s.r.limit, s.granted)) - s.granted
		if m := s.r.Memory; m != nil {
			if err := m.Await(LineCost * more); err != nil {
				return err
			}
		}
		s.r.line += LineCost * more
		s.granted += more
	}
	if n > cap(s.out) {
		// Not append's growth, which would go beyond what was granted.
		s.out = append(make([]byte, 0, min(max(2*cap(s.out), n, 256), s.granted)), s.out...)
	}
	return nil
}

// text handles a string, whose opening quote is already in s.out.
func (s *scan) text() error {
	start := len(s.out) - 1
	if !s.key {
		if path, w := s.choose(start); w != nil {
			err := s.divert(w)
			if err == errBase64 {
				err = &FieldError{path, err.Error()}
			}
			return err
		}
	}
	if err := s.each(func(raw []byte) error { return s.keep(raw...) }); err != nil {
		return err
	}
	if err := s.keep('"'); err != nil {
		return err
	}
	if s.key && len(s.stack) <= len(s.keys) {
		s.keys[len(s.stack)-1] = ""
		_ = json.Unmarshal(s.out[start:], &s.keys[len(s.stack)-1])
	}
	return nil
}

// choose asks the sink about the string value that starts at s.out[start].
func (s *scan) choose(start int) (path string, w io.Writer) {
	if s.sink == nil || len(s.stack) > len(s.keys) || bytes.IndexByte(s.stack, '[') >= 0 {
		return "", nil
	}
	path = s.keys[0]
	if len(s.stack) == 2 {
		path += "." + s.keys[1]
	}
	return path, s.sink(path, s.out[:start])
}

// divert passes a string to w.
func (s *scan) divert(w io.Writer) error {
	s.r.stream = true
	if w == Skip {
		if err := s.each(func([]byte) error { return nil }); err != nil {
			return err
		}
		return s.keep('"')
	}
	if err := s.plain(w); err != nil {
		return err
	}
	d := decoder{w: w}
	var esc unescaper
	if err := s.each(func(raw []byte) error { return esc.write(raw, d.write) }); err != nil {
		return err
	}
	if err := d.close(); err != nil || esc.nesc > 0 {
		return errBase64
	}
	return s.keep('"')
}

// plain decodes what a string begins with as long as that is nothing but base64,
// which nearly always is all but its end, without a look at each character first. Of
// what it reads only whole blocks go to w: one large piece at a time.
func (s *scan) plain(w io.Writer) error {
	r := s.r
	for {
		p := r.buf[r.r:r.w]
		n := decodeBlocks(p)
		r.r += n
		if n > 0 {
			if _, err := w.Write(p[:n/4*3]); err != nil {
				return err
			}
		}
		// A piece of a block may become a whole one, unless there is something else in
		// it: perhaps the closing quote, and nothing more to come.
		if p = p[n:]; len(p) >= maxBlock || span(p) < len(p) || r.fill() != nil {
			return nil
		}
	}
}

// each calls f with the pieces of a string, escapes as they stand, up to its
// closing quote. An escape is never split from its backslash's next byte.
func (s *scan) each(f func(raw []byte) error) error {
	r := s.r
	escaped := false
	for {
		if r.r == r.w {
			if err := r.fill(); err == io.EOF {
				return io.ErrUnexpectedEOF
			} else if err != nil {
				return err
			}
		}
		p := r.buf[r.r:r.w]
		n := 0
		if escaped { // whatever this byte is, it does not end the string
			if p[0] < ' ' {
				return syntaxError("a control character in a string")
			}
			n, escaped = 1, false
		}
		n += span(p[n:])
		if n > 0 {
			r.r += n
			if err := f(p[:n]); err != nil {
				return err
			}
			p = p[n:]
		}
		if len(p) == 0 {
			continue
		}
		r.r++
		switch c := p[0]; {
		case c == '"':
			return nil
		case c == '\\':
			escaped = true
			if err := f(p[:1]); err != nil {
				return err
			}
		default:
			return syntaxError("a control character in a string")
		}
	}
}

// span returns how many of p's first bytes need no care: no quote, backslash or
// control character.
func span(p []byte) int {
	n := 0
	for n < len(p) {
		// In steps: to look for the closing quote through the whole buffer again
		// at every escape would be quadratic.
		w := p[n:min(n+window, len(p))]
		m := careless(w)
		n += m
		if m < len(w) {
			break
		}
	}
	return n
}

// window is how far span looks ahead.
const window = 256

func careless(p []byte) int {
	if i := bytes.IndexByte(p, '"'); i >= 0 {
		p = p[:i]
	}
	if i := bytes.IndexByte(p, '\\'); i >= 0 {
		p = p[:i]
	}
	for i, c := range p {
		if c < ' ' {
			return i
		}
	}
	return len(p)
}
