package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/hyperfleet/init/applets/internal/transport"
	"github.com/hyperfleet/init/applets/wire"
)

// A Client calls the operations of one agent.
type Client struct {
	dial func(context.Context) (net.Conn, error)
	tee  io.Writer // or nil
}

// New returns a client of the agent at a target. It does not connect yet.
func New(t Target) *Client {
	return NewDialer(func(ctx context.Context) (net.Conn, error) { return transport.Dial(ctx, t) })
}

// NewDialer returns a client that connects by calling dial, once for each
// operation: for transports that this package does not know. What dial returns
// must be ready to take a request, and need not be able to half-close.
func NewDialer(dial func(context.Context) (net.Conn, error)) *Client {
	return &Client{dial: dial}
}

// Tee returns a client of the same agent that copies every reply to w, byte by
// byte as it comes in, besides acting on it. Operations that run at once would
// mix in w.
func (c *Client) Tee(w io.Writer) *Client {
	return &Client{dial: c.dial, tee: w}
}

// A reply is the line that answers a request, less what a sink took.
type reply struct {
	Success *bool           `json:"success"`
	Data    json.RawMessage `json:"data"`
	Error   string          `json:"error"`
	Code    string          `json:"code"`
}

// call sends one request and decodes the data of its reply into data.
func (c *Client) call(ctx context.Context, req *request, sink wire.Sink, data any) error {
	if req.err != nil {
		return fmt.Errorf("%s: %w", req.op, req.err)
	}
	return c.exchange(ctx, req.op, req.writeTo, sink, data)
}

// decode reads a reply's line.
func decode(op string, line []byte, data any) error {
	var r reply
	if err := json.Unmarshal(line, &r); err != nil {
		return fmt.Errorf("%s: %w", op, replyError("%v", err))
	}
	switch {
	case r.Success == nil:
		return fmt.Errorf("%s: %w", op, replyError("it does not say whether it is a success"))
	case !*r.Success:
		if r.Error == "" {
			r.Error = "failed, the agent does not say why"
		}
		return &Error{Op: op, Message: r.Error, Code: r.Code}
	case data == nil:
		return nil
	}
	if err := json.Unmarshal(r.Data, data); err != nil {
		return fmt.Errorf("%s: %w", op, replyError("data: %v", err))
	}
	return nil
}

// aLongTimeAgo is a deadline that ends what it is set on.
var aLongTimeAgo = time.Unix(1, 0)

// exchange connects, sends what send writes, and decodes the line that answers
// it. Both happen at once: an agent may refuse a request, and stop reading it,
// before all of it is sent. In that case exchange does not wait for send, which
// can be stuck in reading what it is to send.
func (c *Client) exchange(ctx context.Context, op string, send func(io.Writer) error, sink wire.Sink, data any) error {
	conn, err := c.dial(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()

	sent := make(chan error, 1)
	go func() {
		w := &sender{conn: conn}
		err := send(w)
		if err == nil || w.err != nil {
			// Of a connection that broke, the reading side knows more: there may
			// be a reply that tells why.
			sent <- w.err
			return
		}
		// The source of the request failed: without its end it will not run, and
		// no reply will come.
		sent <- &sourceError{err}
		_ = conn.SetReadDeadline(aLongTimeAgo)
	}()
	var src io.Reader = conn
	if c.tee != nil {
		src = io.TeeReader(conn, c.tee)
	}
	line, err := wire.NewReader(src, wire.MaxLine).ReadLine(sink)
	if err != nil {
		return fmt.Errorf("%s: %w", op, explain(ctx, err, sent))
	}
	if err := decode(op, line, data); err != nil {
		return err
	}
	_ = conn.Close()
	return allSent(op, sent)
}

// patience is how long a request may take from its last byte being read by the
// agent to our knowing that it was sent. On a machine with no CPU to spare a
// thread that has written may wait a second and more to go on.
const patience = 3 * time.Second

// allSent makes sure that a success is the answer to the whole request. An agent
// that claims it before has not understood the request.
func allSent(op string, sent <-chan error) error {
	select {
	case err := <-sent:
		if err == nil {
			return nil
		}
	case <-time.After(patience):
	}
	return fmt.Errorf("%s: %w", op, replyError("success, before the request was complete"))
}

// A sourceError is a request that could not be read where it comes from.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }

// explain chooses what to say of a reply that could not be read.
func explain(ctx context.Context, err error, sent <-chan error) error {
	if ctx.Err() != nil {
		return transport.WhyEnded(ctx)
	}
	select {
	case sendErr := <-sent:
		var source *sourceError
		if errors.As(sendErr, &source) {
			return source.err
		}
	default:
	}
	var syntax *wire.SyntaxError
	var field *wire.FieldError
	switch {
	case err == io.EOF:
		return fmt.Errorf("the agent closed the connection without a reply: %w", io.ErrUnexpectedEOF)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("the reply is cut short: %w", io.ErrUnexpectedEOF)
	case errors.Is(err, syscall.ECONNRESET):
		return fmt.Errorf("the connection broke before the end of the reply: %w", err)
	case errors.As(err, &syntax) || errors.As(err, &field) || errors.Is(err, wire.ErrTooLong):
		return fmt.Errorf("%w: %w", ErrReply, err)
	}
	return err
}

// A sender remembers whether it was the connection that failed.
type sender struct {
	conn net.Conn
	err  error
}

func (s *sender) Write(p []byte) (int, error) {
	n, err := s.conn.Write(p)
	if err != nil {
		s.err = err
	}
	return n, err
}

// Ping succeeds if the agent answers.
func (c *Client) Ping(ctx context.Context) error {
	return c.call(ctx, newRequest(wire.OpPing), nil, nil)
}

// Info tells about the agent and its guest.
func (c *Client) Info(ctx context.Context) (*wire.Info, error) {
	info := new(wire.Info)
	if err := c.call(ctx, newRequest(wire.OpInfo), nil, info); err != nil {
		return nil, err
	}
	return info, nil
}

// Raw sends a request as it is: one line of JSON, with or without its newline.
// Blank lines before it and all that follows it are left out. The reply is only
// judged; to have it, use [Client.Tee].
//
// A reply that reports a failure is an [*Error]. Without a line in it, request is
// an error that is io.EOF.
func (c *Client) Raw(ctx context.Context, request io.Reader) error {
	const op = "raw"
	line, err := firstLine(request)
	if err != nil {
		return fmt.Errorf("%s: no request: %w", op, err)
	}
	// Whatever the reply holds, no more of it is kept than an error needs.
	sink := func(path string, _ []byte) io.Writer {
		if path == "error" || path == "code" {
			return nil
		}
		return wire.Skip
	}
	return c.exchange(ctx, op, func(w io.Writer) error { return copyLine(w, line) }, sink, nil)
}

// Limits of the attempts that Wait makes.
const (
	firstAttempt = time.Second
	maxAttempt   = 5 * time.Second
	firstPause   = 5 * time.Millisecond
	maxPause     = 200 * time.Millisecond
)

// Wait returns once the agent answers. It tries again after every failure, a VM
// that does not run yet included, until the context ends; then the error is the
// context's, with the last failure as text. Only what can't change is an error
// at once: no permission, or no AF_VSOCK in this system.
func (c *Client) Wait(ctx context.Context) error {
	limit, pause := firstAttempt, firstPause
	for {
		// A connection that the guest lost while it booted never answers.
		attempt, cancel := context.WithTimeout(ctx, limit)
		err := c.Ping(attempt)
		cancel()
		if err == nil {
			return nil
		}
		for _, permanent := range []error{syscall.EACCES, syscall.EAFNOSUPPORT, errors.ErrUnsupported} {
			if errors.Is(err, permanent) {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; the last attempt: %v", transport.WhyEnded(ctx), err)
		case <-time.After(pause):
		}
		limit, pause = min(2*limit, maxAttempt), min(2*pause, maxPause)
	}
}
