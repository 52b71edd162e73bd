//go:build linux

package agent

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

const (
	firstRead      = 32 << 10 // read before the reply begins: an error in it can still be told
	smallFirstRead = 4 << 10  // where the budget has no room for that
)

// fileRead streams a file. What is found at the end of a reply, an error, can't
// be told any more; then the connection is cut and the line has no end.
func (a *Agent) fileRead(r *request) error {
	path, err := r.fields.Path()
	if err != nil {
		return err
	}
	f, limit, err := openToRead(path, a.limits.Content)
	if err != nil {
		return failed(r, path, err)
	}
	defer unix.Close(f.fd)
	src := &countReader{r: io.LimitReader(f, limit)}
	first := int64(smallFirstRead)
	if limit > first && r.conn.memory.Take(firstRead) {
		defer r.conn.memory.Give(firstRead)
		first = firstRead
	}
	head := make([]byte, min(first, limit+1))
	n, err := io.ReadFull(src, head)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return failed(r, path, err)
	}
	reply := r.newReply()
	reply.Base64("content", &headReader{head: head[:n], rest: src})
	reply.Value("size", src.n)
	if src.n > a.limits.Content {
		return replying(fmt.Errorf("%s: more than %d bytes", path, a.limits.Content))
	}
	return replying(reply.End())
}

// openToRead opens a file that has an end: a regular one or a block device. It
// looks before it opens, as to open a FIFO waits and to open some devices acts.
// limit is how much of it to read: a file that is being written may grow faster
// than it is sent.
func openToRead(path string, max int64) (f *fdReader, limit int64, err error) {
	fail := func(err error) (*fdReader, int64, error) { return nil, 0, err }
	look, err := retry(func() (int, error) { return unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0) })
	if err != nil {
		return fail(err)
	}
	defer unix.Close(look)
	var st unix.Stat_t
	if err := unix.Fstat(look, &st); err != nil {
		return fail(err)
	}
	kind := st.Mode & unix.S_IFMT
	switch {
	case kind == unix.S_IFDIR:
		return fail(unix.EISDIR)
	case kind != unix.S_IFREG && kind != unix.S_IFBLK:
		return fail(refuse(unix.EINVAL, "not a regular file"))
	case st.Size > max:
		return fail(refuse(unix.EFBIG, "%d bytes, more than %d", st.Size, max))
	}
	const flags = unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC
	fd, err := retry(func() (int, error) { return unix.Open(fmt.Sprintf("/proc/self/fd/%d", look), flags, 0) })
	if errors.Is(err, unix.ENOENT) { // no /proc
		fd, err = retry(func() (int, error) { return unix.Open(path, flags, 0) })
	}
	if err != nil {
		return fail(err)
	}
	limit = st.Size
	if kind == unix.S_IFBLK {
		limit, err = unix.Seek(fd, 0, io.SeekEnd)
		if err == nil {
			_, err = unix.Seek(fd, 0, io.SeekStart)
		}
		if err == nil && limit > max {
			err = refuse(unix.EFBIG, "%d bytes, more than %d", limit, max)
		}
		if err != nil {
			_ = unix.Close(fd)
			return fail(err)
		}
	}
	if limit == 0 {
		limit = max + 1 // /proc does not tell sizes; one more, to see that it is more
	}
	return &fdReader{fd: fd}, limit, nil
}

// fdReader reads with plain system calls. A file that has nothing to say for now
// (/proc/kmsg) is at its end.
type fdReader struct {
	fd  int
	any bool
}

func (f *fdReader) Read(p []byte) (int, error) {
	n, err := retry(func() (int, error) { return unix.Read(f.fd, p) })
	switch {
	case err == unix.EAGAIN && f.any:
		return 0, io.EOF
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	}
	f.any = true
	return n, nil
}

// countReader counts what passes.
type countReader struct {
	r io.Reader
	n int64
}

func (c *countReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// headReader reads head and then rest.
type headReader struct {
	head []byte
	rest io.Reader
}

func (h *headReader) Read(p []byte) (int, error) {
	if len(h.head) > 0 {
		n := copy(p, h.head)
		h.head = h.head[n:]
		return n, nil
	}
	return h.rest.Read(p)
}

// fileStat tells about what a path leads to, links followed.
func (a *Agent) fileStat(r *request) error {
	path, err := r.fields.Path()
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if _, err := retry(func() (int, error) { return 0, unix.Stat(path, &st) }); err != nil {
		return failed(r, path, err)
	}
	return replying(wire.WriteData(r.conn, wire.Stat{
		Path:    path,
		Size:    st.Size,
		Mode:    fmt.Sprintf("%o", st.Mode&0o7777),
		ModTime: modTime(st.Mtim),
		IsDir:   st.Mode&unix.S_IFMT == unix.S_IFDIR,
	}))
}

// modTime formats a time as file_stat has it, to the second.
func modTime(ts unix.Timespec) string { return nearest(ts).Format("2006-01-02T15:04:05Z") }

// nearest returns a time as RFC 3339 can say it: a filesystem may hold years that
// it can't, and those stand as the nearest that it can.
func nearest(ts unix.Timespec) time.Time {
	first := time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	last := time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC).Unix()
	sec, nsec := ts.Unix()
	if sec < first || sec > last {
		sec, nsec = min(max(sec, first), last), 0
	}
	return time.Unix(sec, nsec).UTC()
}
