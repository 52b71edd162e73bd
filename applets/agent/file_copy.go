//go:build linux

package agent

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// fileCopy copies a file inside the guest, with its owner and its mode: either
// alone could make a program that runs as somebody else run as root.
func (a *Agent) fileCopy(r *request) error {
	m, err := r.fields.FileMove()
	if err != nil {
		return err
	}
	src, limit, err := openToRead(m.Path, anySize)
	if err != nil {
		return failed(r, m.Path, err)
	}
	defer unix.Close(src.fd)
	r.target = openTarget(m.To)
	r.target.exclusive = !m.Replace
	gone, stop := withGone(r)
	size, err := r.target.copyFrom(gone, src, limit)
	stop()
	if err != nil {
		return failed(r, m.To, err)
	}
	return replying(wire.WriteData(r.conn, wire.FileSum{Size: size}))
}

func (t *target) copyFrom(ctx context.Context, src *fdReader, limit int64) (size int64, err error) {
	switch {
	case t.err != nil:
		return 0, t.err
	case t.old != nil && t.exclusive:
		return 0, unix.EEXIST
	case t.inPlace():
		return 0, refuse(unix.EINVAL, "not a regular file")
	}
	var st unix.Stat_t
	if err := unix.Fstat(src.fd, &st); err != nil {
		return 0, err
	}
	f, err := t.create()
	if err != nil {
		return 0, err
	}
	fd := int(f.Fd())
	if st.Mode&unix.S_IFMT != unix.S_IFREG || unix.IoctlFileClone(fd, src.fd) != nil {
		err = copyContent(ctx, f, src, limit, st.Size)
	}
	if err == nil {
		err = unix.Fchown(fd, int(st.Uid), int(st.Gid))
	}
	if err == nil {
		err = unix.Fchmod(fd, st.Mode&0o7777) // last: chown takes suid away
	}
	if err == nil {
		size, err = f.Seek(0, io.SeekEnd)
	}
	if err != nil {
		_ = f.Close()
		return 0, err
	}
	return size, t.replace(f)
}

const (
	copyPiece  = 8 << 20  // what the kernel copies between two looks at the client, in bytes
	copyBuffer = 16 << 10 // what passes at once where the kernel does not copy
)

// copyContent copies the first limit bytes, and keeps the holes of a file that
// tells of them: size is 0 for one that does not.
func copyContent(ctx context.Context, dst *os.File, src *fdReader, limit, size int64) error {
	if size == 0 {
		return copyAll(ctx, dst, io.LimitReader(src, limit), make([]byte, copyBuffer))
	}
	for at := int64(0); at < size; {
		begin, err := unix.Seek(src.fd, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // the rest is a hole
			break
		}
		end := size
		if err == nil {
			end, err = unix.Seek(src.fd, begin, unix.SEEK_HOLE)
		}
		if err != nil { // it does not know of holes
			begin, end = at, size
		}
		end = min(end, size)
		reached, err := copyRange(ctx, dst, src, begin, end)
		if err != nil {
			return err
		}
		if reached < end { // there is no more of it, whatever size it claims
			return dst.Truncate(reached)
		}
		at = end
	}
	return dst.Truncate(size)
}

// copyRange copies the bytes from begin to end, or to the end of the file, to where
// they are in src, and tells how far it came.
func copyRange(ctx context.Context, dst *os.File, src *fdReader, begin, end int64) (reached int64, err error) {
	in, out := begin, begin
	for in < end {
		if ctx.Err() != nil {
			return in, errGone
		}
		n, err := retry(func() (int, error) {
			return unix.CopyFileRange(src.fd, &in, int(dst.Fd()), &out, int(min(end-in, copyPiece)), 0)
		})
		switch {
		case (err != nil || n == 0) && in == begin: // not between these filesystems, perhaps
			return copyBytes(ctx, dst, src, begin, end)
		case err != nil:
			return in, err
		case n == 0:
			return in, nil // it has become shorter
		}
	}
	return in, nil
}

// copyBytes is copyRange through this process's memory.
func copyBytes(ctx context.Context, dst *os.File, src *fdReader, begin, end int64) (reached int64, err error) {
	_, err = unix.Seek(src.fd, begin, io.SeekStart)
	if err == nil {
		_, err = dst.Seek(begin, io.SeekStart)
	}
	if err == nil {
		err = copyAll(ctx, dst, io.LimitReader(src, end-begin), make([]byte, copyBuffer))
	}
	if err != nil {
		return begin, err
	}
	return dst.Seek(0, io.SeekCurrent)
}
