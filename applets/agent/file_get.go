//go:build linux

package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"time"

	"github.com/hyperfleet/init/applets/internal/transport"
	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// anySize is the limit of files that are streamed: none.
const anySize = math.MaxInt64 - 1

// fileGet sends a file, or a part of it, as data frames.
func (a *Agent) fileGet(r *request) error {
	g, err := r.fields.FileGet()
	if err != nil {
		return err
	}
	f, limit, err := openToRead(g.Path, anySize)
	if err != nil {
		return failed(r, g.Path, err)
	}
	defer unix.Close(f.fd)
	header, err := f.begin(g.Offset, limit)
	if err != nil {
		return failed(r, g.Path, err)
	}
	s, err := r.begin(header)
	if err != nil {
		return err
	}
	sum := checksum{}
	length := min(g.Length, limit-g.Offset)
	if !g.Hash && header.Size > 0 {
		sum.n, err = s.sendFile(f.fd, length)
	} else {
		if g.Hash {
			sum.Hash = sha256.New()
		}
		_, err = s.sendAll(io.TeeReader(io.LimitReader(f, length), &sum))
	}
	if err != nil {
		return failed(r, g.Path, err)
	}
	return s.end(sum.result())
}

// begin tells about an open file of limit bytes, and goes to offset.
func (f *fdReader) begin(offset, limit int64) (h wire.FileHeader, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return h, err
	}
	h = wire.FileHeader{Mode: fmt.Sprintf("%o", st.Mode&0o7777), UID: st.Uid, GID: st.Gid, MTime: exactTime(st.Mtim)}
	if limit != anySize+1 {
		h.Size = limit
	}
	if offset > limit {
		return h, refuse(unix.EINVAL, "offset %d is behind its end, %d", offset, limit)
	}
	if offset > 0 {
		_, err = unix.Seek(f.fd, offset, io.SeekStart)
	}
	return h, err
}

// A checksum counts what passes and, if it has a Hash, sums it up.
type checksum struct {
	hash.Hash
	n int64
}

func newChecksum(hash bool) *checksum {
	c := new(checksum)
	if hash {
		c.Hash = sha256.New()
	}
	return c
}

func (c *checksum) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	if c.Hash != nil {
		_, _ = c.Hash.Write(p) // never fails
	}
	return len(p), nil
}

func (c *checksum) result() wire.FileSum {
	sum := wire.FileSum{Size: c.n}
	if c.Hash != nil {
		sum.SHA256 = hex.EncodeToString(c.Sum(nil))
	}
	return sum
}

// sendFile sends n bytes from an open file as data frames that do not pass through
// this process's memory.
func (s *stream) sendFile(fd int, n int64) (sent int64, err error) {
	for sent < n && err == nil {
		piece := int(min(n-sent, wire.MaxPayload))
		err = s.Send(wire.KindData, piece, func() error { return s.conn.sendFile(fd, piece) })
		sent += int64(piece)
	}
	if err != nil {
		return sent, replying(err)
	}
	return sent, replying(s.Empty(wire.KindEnd))
}

// sendFile sends the next n bytes of an open file. Those that it no longer has
// are an error: a frame can't be taken back.
func (c *conn) sendFile(fd, n int) error {
	if c.raw == nil {
		return c.copyFile(fd, n)
	}
	sent, err := transport.SendFile(c.raw, fd, n, c.vsock)
	c.written += int64(sent)
	if errors.Is(err, errors.ErrUnsupported) {
		return c.copyFile(fd, n-sent)
	}
	return err
}

// copyFile is sendFile for files that sendfile(2) does not take.
func (c *conn) copyFile(fd, n int) error {
	_, err := io.CopyN(struct{ io.Writer }{c}, &fdReader{fd: fd}, int64(n))
	return err
}

// exactTime formats a time as modTime does, with its fraction of a second.
func exactTime(ts unix.Timespec) string { return nearest(ts).Format(time.RFC3339Nano) }
