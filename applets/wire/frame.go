package wire

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"sync"
)

// A Kind says what a frame holds.
type Kind byte

// The kinds of frames, and which side sends them.
const (
	KindKeepAlive Kind = iota // both: nothing; so that a silent stream is known to live
	KindStdin                 // client: bytes of a command's input
	KindStdout                // agent: bytes of its output
	KindStderr                // agent: bytes of its error output
	KindData                  // both: bytes of a file, an archive or a connection
	KindEnd                   // both: no more stdin or data comes from this side
	KindSignal                // client: JSON, a [Signal] for the command
	KindResize                // client: JSON, a [Resize] of its terminal
	KindEvent                 // agent: JSON, something that happened
	KindExit                  // agent: JSON, the result; the last frame
	KindError                 // agent: JSON, a [Failure]; the last frame

	lastKind = KindError
)

const (
	// MaxPayload bounds the payload of a frame, in bytes.
	MaxPayload = 1 << 20

	// MaxControl bounds the payload of a frame that is JSON, in bytes.
	MaxControl = 64 << 10

	// FrameHeader is the size of what precedes a payload, in bytes: the kind in
	// one, and the payload's length in four, big endian.
	FrameHeader = 5
)

// A Signal is the payload of a KindSignal frame.
type Signal struct {
	Signal int `json:"signal"` // 1 to 64
}

// A Resize is the payload of a KindResize frame.
type Resize struct {
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}

// A FrameError reports bytes that are no frame, or one that is out of place.
type FrameError struct{ Reason string }

func (e *FrameError) Error() string { return "frame: " + e.Reason }

// BadFrame returns a *FrameError.
func BadFrame(format string, args ...any) error {
	return &FrameError{fmt.Sprintf(format, args...)}
}

// A FrameReader reads frames. It holds no payload: [FrameReader.Next] comes to a
// frame, and Read then reads what is in it.
type FrameReader struct {
	src   io.Reader
	r     *bufio.Reader
	left  int  // of the frame's payload
	large bool // it is: its like are not worth a copy
	past  bool // the buffer: the last of it was read from src
}

// NewFrameReader returns a FrameReader. Large payloads are read from src as
// they are asked for, past its buffer.
func NewFrameReader(src io.Reader) *FrameReader {
	return &FrameReader{src: src, r: bufio.NewReaderSize(src, 4<<10)}
}

// Next comes to the next frame, past what is left of the one before and past
// frames that only keep the stream alive, and returns its kind and the length of
// its payload in bytes. The error is io.EOF between frames, io.ErrUnexpectedEOF
// inside one, and a *FrameError for what is none.
func (f *FrameReader) Next() (k Kind, length int, err error) {
	for {
		if f.left > 0 {
			f.past = false
			if _, err := f.r.Discard(f.left); err != nil {
				return 0, 0, unexpected(err)
			}
			f.left = 0
		}
		header, err := f.header()
		if err != nil {
			if len(header) > 0 {
				err = unexpected(err)
			}
			return 0, 0, err
		}
		k, n := Kind(header[0]), binary.BigEndian.Uint32(header[1:])
		switch {
		case k > lastKind:
			return 0, 0, BadFrame("there is no kind %d", k)
		case n > MaxPayload:
			return 0, 0, BadFrame("%d bytes, more than %d", n, MaxPayload)
		case n > 0 && (k == KindKeepAlive || k == KindEnd):
			return 0, 0, BadFrame("kind %d holds nothing", k)
		}
		if k != KindKeepAlive {
			f.left = int(n)
			f.large = n >= largeFrame
			return k, f.left, nil
		}
	}
}

// largeFrame is a payload that is read past the buffer, in bytes.
const largeFrame = 16 << 10

// header reads the next header, or what there is of it. Behind a large payload
// another will come, of which nothing should get into the buffer: what comes in
// whole pages is then copied in whole pages, or not at all.
func (f *FrameReader) header() ([]byte, error) {
	if f.past && f.large {
		f.past = false
		header := make([]byte, FrameHeader)
		n, err := io.ReadFull(f.src, header)
		return header[:n], err
	}
	header, err := f.r.Peek(FrameHeader)
	if err == nil {
		_, _ = f.r.Discard(FrameHeader)
	}
	return header, err
}

// Unread tells how many bytes of the payload have not been read from the source
// yet, if the next byte that comes from there is the next of the payload.
func (f *FrameReader) Unread() int {
	if lines, ok := f.src.(*Reader); f.r.Buffered() > 0 || ok && lines.r != lines.w {
		return 0
	}
	return f.left
}

// Took says that n bytes of the payload have been taken from the source, which is
// for what need not pass through this process's memory; see splice(2).
func (f *FrameReader) Took(n int) {
	f.left -= n
	f.past = true
}

// Read reads from the payload; io.EOF is its end.
func (f *FrameReader) Read(p []byte) (int, error) {
	if f.left == 0 {
		return 0, io.EOF
	}
	p = p[:min(len(p), f.left)]
	if f.past = f.large && f.Unread() > 0; f.past {
		n, err := f.src.Read(p)
		f.left -= n
		return n, unexpected(err)
	}
	n, err := f.r.Read(p)
	f.left -= n
	return n, unexpected(err)
}

// Decode decodes the whole payload, which must be JSON, into v.
func (f *FrameReader) Decode(v any) error {
	if f.left > MaxControl {
		return BadFrame("%d bytes of JSON, more than %d", f.left, MaxControl)
	}
	p, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(p, v); err != nil {
		return BadFrame("%v", err)
	}
	return nil
}

// unexpected is for an end of the source where there must be more.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// A Frame is room for a frame: its header, and a payload behind that, so that
// both go out in one write.
type Frame []byte

// NewFrame returns a Frame for payloads of up to size bytes.
func NewFrame(size int) Frame { return make(Frame, FrameHeader+size) }

// Payload returns the room for the payload.
func (f Frame) Payload() []byte { return f[FrameHeader:] }

// A FrameWriter writes frames, of several goroutines too: each frame goes out
// whole. What a write leaves unwritten when its time is up goes out before the
// next frame.
type FrameWriter struct {
	mu   sync.Mutex
	w    io.Writer
	rest []byte // of a frame that was begun
}

// NewFrameWriter returns a FrameWriter.
func NewFrameWriter(w io.Writer) *FrameWriter { return &FrameWriter{w: w} }

// write writes a part of a frame, with the lock held.
func (w *FrameWriter) write(p []byte, inside bool) error {
	n, err := w.w.Write(p)
	if err != nil && (inside || n > 0) {
		w.rest = append(w.rest, p[n:]...)
	}
	return err
}

// begin writes what is left of an earlier frame, with the lock held.
func (w *FrameWriter) begin() error {
	rest := w.rest
	w.rest = nil
	if len(rest) == 0 {
		return nil
	}
	return w.write(rest, true)
}

// WriteFrame writes a frame whose payload is the first n bytes of f.Payload().
func (w *FrameWriter) WriteFrame(k Kind, f Frame, n int) error {
	putHeader(f, k, n)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.begin(); err != nil {
		return err
	}
	return w.write(f[:FrameHeader+n], false)
}

// Bytes writes p as the payloads of as many frames as it takes. n is how much of
// it has gone out or, after an error that passes, will before the next frame.
func (w *FrameWriter) Bytes(k Kind, p []byte) (n int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.begin(); err != nil {
		return 0, err
	}
	for n < len(p) && err == nil {
		piece := p[n:min(len(p), n+MaxPayload)]
		// One write with a copy costs less than two without, up to a size.
		frame := NewFrame(min(len(piece), joined))
		putHeader(frame, k, len(piece))
		head := copy(frame.Payload(), piece)
		err = w.write(frame, false)
		if err != nil && len(w.rest) == 0 {
			return n, err
		}
		n += head
		piece = piece[head:]
		switch {
		case err != nil: // the rest of this frame has to follow
			w.rest = append(w.rest, piece...)
		case len(piece) > 0:
			err = w.write(piece, true)
		}
		n += len(piece)
	}
	return n, err
}

// joined is how much of a payload is copied behind its header.
const joined = 16 << 10

// Send writes a frame that n bytes of content follow, which content writes. It
// is for what need not pass through this process's memory; see sendfile(2). After
// an error nothing more can be written.
func (w *FrameWriter) Send(k Kind, n int, content func() error) error {
	var header [FrameHeader]byte
	putHeader(header[:], k, n)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.begin(); err != nil {
		return err
	}
	if err := w.write(header[:], false); err != nil {
		return err
	}
	return content()
}

// Empty writes a frame without a payload.
func (w *FrameWriter) Empty(k Kind) error { return w.WriteFrame(k, NewFrame(0), 0) }

// Encode writes a frame that holds v as JSON.
func (w *FrameWriter) Encode(k Kind, v any) error {
	p, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(p) > MaxControl {
		return BadFrame("%d bytes of JSON, more than %d", len(p), MaxControl)
	}
	f := NewFrame(len(p))
	copy(f.Payload(), p)
	return w.WriteFrame(k, f, len(p))
}

func putHeader(p []byte, k Kind, n int) {
	p[0] = byte(k)
	binary.BigEndian.PutUint32(p[1:], uint32(n))
}
