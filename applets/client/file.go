package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/hyperfleet/init/applets/wire"
)

// errTwice is a reply in which content occurs twice, errTooMuch one with more of
// it than was asked for.
var (
	errTwice   = fmt.Errorf("%w: content occurs twice", ErrReply)
	errTooMuch = fmt.Errorf("%w: more output than max_output", ErrReply)
)

// A receiver takes the content of one field of a reply, and counts it.
type receiver struct {
	w     io.Writer
	limit int64 // or 0, for none
	n     int64
	seen  bool
	twice bool // the second may be empty, and never get to Write
}

// open is what a Sink answers for the field.
func (r *receiver) open() io.Writer {
	if r.seen {
		r.twice = true
		return failing{errTwice}
	}
	r.seen = true
	return r
}

func (r *receiver) Write(p []byte) (int, error) {
	if r.limit > 0 && r.n+int64(len(p)) > r.limit {
		return 0, errTooMuch
	}
	n, err := r.w.Write(p)
	r.n += int64(n)
	return n, err
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// ReadFile writes the content of a file in the guest to w and returns how many
// bytes it wrote. path is absolute.
//
// w receives the content as it comes in: after an error it may have received
// some of it. An error of w is returned wrapped.
func (c *Client) ReadFile(ctx context.Context, path string, w io.Writer) (int64, error) {
	req := newRequest(wire.OpFileRead)
	req.string("path", path)
	content := receiver{w: w}
	sink := func(path string, _ []byte) io.Writer {
		if path == "data.content" {
			return content.open()
		}
		return nil
	}
	var data struct {
		Size *int64 `json:"size"`
	}
	err := c.call(ctx, req, sink, &data)
	switch {
	case err != nil:
	case content.twice:
		err = fmt.Errorf("%s: %w", req.op, errTwice)
	case !content.seen || data.Size == nil:
		err = fmt.Errorf("%s: %w", req.op, replyError("data: content or size is missing"))
	case *data.Size != content.n:
		err = fmt.Errorf("%s: %s: received %d bytes of %d: %w", req.op, path, content.n, *data.Size, io.ErrUnexpectedEOF)
	}
	return content.n, err
}

// A WriteOption changes what WriteFile does.
type WriteOption func(*request)

// WithMode gives the file these permission bits, setuid, setgid and sticky
// included; others are ignored. Without it a file that is replaced keeps its own
// and a new one has 0644.
func WithMode(mode fs.FileMode) WriteOption {
	return func(r *request) { r.mode("mode", mode) }
}

// mode adds a field that holds permission bits.
func (r *request) mode(name string, mode fs.FileMode) {
	bits := uint32(mode & 0o7777)
	for _, special := range []struct {
		mode fs.FileMode
		bit  uint32
	}{{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000}} {
		if mode&special.mode != 0 {
			bits |= special.bit
		}
	}
	r.string(name, strconv.FormatUint(uint64(bits), 8))
}

// Append adds to the end of the file instead of replacing it.
func Append() WriteOption {
	return func(r *request) { r.value("append", true) }
}

// WriteFile makes what r holds, up to its end, the content of a file in the
// guest, and returns how many bytes that is. path is absolute. The file is
// replaced at once when all of it has arrived, so after an error it holds what it
// held before.
//
// If the agent refuses the file early or ctx ends, WriteFile returns without
// waiting for a call of r.Read that is still under way.
func (c *Client) WriteFile(ctx context.Context, path string, r io.Reader, opts ...WriteOption) (int64, error) {
	req := newRequest(wire.OpFileWrite)
	req.string("path", path)
	for _, o := range opts {
		o(req)
	}
	req.base64("content", r)
	var data struct {
		BytesWritten *int64 `json:"bytes_written"`
	}
	if err := c.call(ctx, req, nil, &data); err != nil {
		return 0, err
	}
	switch {
	case data.BytesWritten == nil:
		return 0, fmt.Errorf("%s: %w", req.op, replyError("data: bytes_written is missing"))
	case *data.BytesWritten != req.count:
		return 0, fmt.Errorf("%s: %w", req.op, replyError("%d bytes written of %d", *data.BytesWritten, req.count))
	}
	return req.count, nil
}

// A FileInfo describes a file in the guest.
type FileInfo struct {
	Path    string
	Size    int64       // bytes
	Mode    fs.FileMode // permission bits, setuid, setgid, sticky; ModeDir for a directory
	ModTime time.Time   // UTC, to the second
	IsDir   bool
}

// Stat describes a file in the guest. path is absolute; links are followed.
func (c *Client) Stat(ctx context.Context, path string) (*FileInfo, error) {
	req := newRequest(wire.OpFileStat)
	req.string("path", path)
	var st wire.Stat
	if err := c.call(ctx, req, nil, &st); err != nil {
		return nil, err
	}
	if st.Size < 0 {
		return nil, fmt.Errorf("%s: %w", req.op, replyError("size: %d", st.Size))
	}
	mode, err := parseMode(st.Mode)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", req.op, replyError("mode: %v", err))
	}
	if st.IsDir {
		mode |= fs.ModeDir
	}
	mtime, err := parseTime(st.ModTime)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", req.op, replyError("mod_time: %v", err))
	}
	return &FileInfo{Path: st.Path, Size: st.Size, Mode: mode, ModTime: mtime, IsDir: st.IsDir}, nil
}

// parseMode reads octal permission bits.
func parseMode(s string) (fs.FileMode, error) {
	n, err := strconv.ParseUint(s, 8, 12)
	if err != nil {
		return 0, err
	}
	mode := fs.FileMode(n & 0o777)
	for _, special := range []struct {
		bit  uint64
		mode fs.FileMode
	}{{0o4000, fs.ModeSetuid}, {0o2000, fs.ModeSetgid}, {0o1000, fs.ModeSticky}} {
		if n&special.bit != 0 {
			mode |= special.mode
		}
	}
	return mode, nil
}

// parseTime reads "2006-01-02T15:04:05Z" of any year: a file's time may lie
// beyond the year 9999, which time.Parse does not read.
func parseTime(s string) (time.Time, error) {
	// A year before 0 starts with a minus sign.
	i := strings.IndexByte(strings.TrimPrefix(s, "-"), '-') + len(s) - len(strings.TrimPrefix(s, "-"))
	if i <= 0 {
		return time.Time{}, errors.New("not a time")
	}
	year, err := strconv.Atoi(s[:i])
	if err != nil {
		return time.Time{}, err
	}
	// A leap year stands in, so that 29 February can be read.
	t, err := time.Parse(time.RFC3339, "2000"+s[i:])
	if err != nil {
		return time.Time{}, err
	}
	return time.Date(year, t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC), nil
}

// Remove deletes a file, a link or an empty directory in the guest. path is
// absolute.
func (c *Client) Remove(ctx context.Context, path string) error {
	req := newRequest(wire.OpFileDelete)
	req.string("path", path)
	return c.call(ctx, req, nil, nil)
}
