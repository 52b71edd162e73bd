package client

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"

	"github.com/hyperfleet/init/applets/internal/transport"
	"github.com/hyperfleet/init/applets/wire"
)

// A stream is a connection whose reply's line has been read, and on which both
// sides now speak frames.
type stream struct {
	*wire.FrameReader
	*wire.FrameWriter
	op   string
	conn net.Conn
	ctx  context.Context
	stop func() bool
}

// stream sends a request that asks for a stream, and decodes the data of its
// reply into header. When ctx ends, the stream breaks.
func (c *Client) stream(ctx context.Context, req *request, header any) (*stream, error) {
	if req.err != nil {
		return nil, fmt.Errorf("%s: %w", req.op, req.err)
	}
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", req.op, err)
	}
	s := &stream{op: req.op, conn: conn, ctx: ctx}
	s.stop = context.AfterFunc(ctx, func() { _ = conn.Close() })
	if err := s.open(c, req, header); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *stream) open(c *Client, req *request, header any) error {
	// A failure is told in the reply, which is read even if sending failed.
	sendErr := req.writeTo(s.conn)
	src := transport.NewReader(s.conn)
	if c.tee != nil {
		src = &firstLineTee{r: src, w: c.tee}
	}
	lines := wire.NewReader(src, wire.MaxLine)
	line, err := lines.ReadLine(req.sink)
	if err != nil {
		if sendErr != nil {
			err = sendErr
		}
		return s.wrap(err)
	}
	if err := decode(s.op, line, header); err != nil {
		return err
	}
	s.FrameReader = wire.NewFrameReader(lines)
	s.FrameWriter = wire.NewFrameWriter(s.conn)
	return nil
}

func (s *stream) close() {
	s.stop()
	_ = s.conn.Close()
}

// wrap tells of which operation, and whether it was the context that ended it.
func (s *stream) wrap(err error) error {
	return fmt.Errorf("%s: %w", s.op, explain(s.ctx, err, nil))
}

// next returns the next frame. The agent's report of a failure is an *Error, and
// an end without a last frame is io.ErrUnexpectedEOF.
func (s *stream) next() (wire.Kind, int, error) {
	k, n, err := s.Next()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return 0, 0, s.wrap(err)
	}
	if k == wire.KindError {
		var f wire.Failure
		if err := s.Decode(&f); err != nil {
			return 0, 0, s.wrap(err)
		}
		return 0, 0, &Error{Op: s.op, Message: f.Error, Code: f.Code}
	}
	return k, n, nil
}

// firstLineTee copies the first line that is read from r to w: the frames behind
// it are not for people.
type firstLineTee struct {
	r    io.Reader
	w    io.Writer
	done bool
}

func (t *firstLineTee) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	if t.done || n == 0 {
		return n, err
	}
	line := p[:n]
	if i := bytes.IndexByte(line, '\n'); i >= 0 {
		line, t.done = line[:i+1], true
	}
	if _, teeErr := t.w.Write(line); teeErr != nil && err == nil {
		err = teeErr
	}
	return n, err
}
