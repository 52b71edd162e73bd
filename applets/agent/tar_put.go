//go:build linux

package agent

import (
	"archive/tar"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/hyperfleet/init/applets/internal/transport"
	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// tarPut unpacks a tar archive, which comes in data frames, into a directory.
func (a *Agent) tarPut(r *request) error {
	p, err := r.fields.TarPut()
	if err != nil {
		return err
	}
	u := &unpacking{put: p, memory: r.conn.memory, window: a.limits.Line}
	var release func()
	u.buf, release = r.conn.memory.buffer()
	defer release()
	if err := u.open(); err != nil {
		return failed(r, p.Path, err)
	}
	defer u.close()
	s, err := r.begin(struct{}{})
	if err != nil {
		return err
	}
	src := &dataReader{s: s, sum: newChecksum(p.Hash)}
	u.gone = s.conn.gone
	err = u.archive(src)
	if err == nil {
		_, err = io.CopyBuffer(onlyWriter{io.Discard}, src, u.buf)
	}
	// Whatever the archive's end looks like to its readers, the stream knows more.
	if err = cmp.Or(src.err, err); err != nil {
		return fmt.Errorf("%s: %w", r.Operation, err)
	}
	u.result.SHA256 = src.sum.result().SHA256
	return s.end(u.result)
}

// dataReader reads the client's data frames, up to its end frame.
type dataReader struct {
	s   *stream
	sum *checksum
	err error // that is not the end
	end bool
}

func (d *dataReader) Read(p []byte) (int, error) {
	for d.err == nil && !d.end {
		n, err := d.s.Read(p)
		if err != nil && err != io.EOF {
			d.err = errGone
		}
		if n > 0 {
			_, _ = d.sum.Write(p[:n])
			return n, nil
		}
		if d.err != nil {
			break
		}
		k, _, err := d.s.next()
		switch {
		case err != nil:
			d.err = err
		case k == wire.KindEnd:
			d.end = true
		case k != wire.KindData:
			d.err = misplaced(k)
		}
	}
	return 0, cmp.Or(d.err, io.EOF)
}

// gone tells whether the client has gone.
func (c *conn) gone() (lost bool) {
	if c.raw != nil {
		_ = c.raw.Control(func(fd uintptr) { lost = transport.Gone(fd) })
	}
	return lost
}

// An unpacking is an archive on its way into a directory.
type unpacking struct {
	put    wire.TarPut
	gone   func() bool // tells whether there is nobody left to do it for
	root   int         // the directory, open
	made   bool        // it
	dir    int         // the directory of the last entry, open; -1 before the first
	path   string      // that leads there
	within []directory // whose attributes will be set when all is in them
	held   int         // bytes of their extended attributes
	result wire.TarResult
	buf    []byte
	memory *share
	window int // the largest that a compressed archive may need, in bytes
}

// open opens the directory, and makes it if that is asked for.
func (u *unpacking) open() error {
	path := withoutSlashes(u.put.Path)
	if u.put.Make {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		err := unix.Mkdir(path, 0o755)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		u.made = err == nil
	}
	fd, err := retry(func() (int, error) { return unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) })
	u.root, u.dir = fd, -1
	return err
}

func (u *unpacking) close() {
	if u.dir >= 0 {
		_ = unix.Close(u.dir)
	}
	_ = unix.Close(u.root)
}

// badArchive is the error of bytes that are not an archive, or not all of one.
func badArchive(err error) error {
	if err == io.ErrUnexpectedEOF || err == io.EOF {
		return refuse(unix.EBADMSG, "the archive ends in the middle")
	}
	return refuse(unix.EBADMSG, "the archive: %v", err)
}

// archive unpacks what src holds. After an error the entries before it stay.
func (u *unpacking) archive(src io.Reader) error {
	in, release, err := u.decompress(src)
	defer release()
	if err != nil {
		return err
	}
	archive := tar.NewReader(unended{in})
	for {
		h, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err == nil {
			u.result.Entries++
			if err = u.entry(h, archive); err != nil {
				err = fmt.Errorf("%q: %w", h.Name, err)
			}
		} else {
			err = badArchive(err)
		}
		if err != nil {
			_ = u.leave("") // the directories that are there look as they should
			return err
		}
	}
	if err := u.leave(""); err != nil {
		return err
	}
	if _, err := io.CopyBuffer(onlyWriter{io.Discard}, in, u.buf); err != nil { // the checksum is at the end
		return badArchive(err)
	}
	u.result.Bytes = in.n
	return nil
}

// unended reads what ends with something else than its last byte: for package tar an
// archive that was cut off between two entries, or is empty, is all of one.
type unended struct{ io.Reader }

func (u unended) Read(p []byte) (int, error) {
	n, err := u.Reader.Read(p)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
		if n > 0 {
			err = nil // the next Read will say so
		}
	}
	return n, err
}

// onlyWriter hides a ReadFrom, so that io.CopyBuffer keeps to its buffer.
type onlyWriter struct{ io.Writer }

// inside returns a name of an archive as the components of a path below the
// target, less the first strip; none is the target itself. A name that leads
// elsewhere is EXDEV.
func inside(name string, strip int) (components []string, err error) {
	if len(name) >= pathMax {
		return nil, unix.ENAMETOOLONG
	}
	if strings.HasPrefix(name, "/") {
		return nil, refuse(unix.EXDEV, "an absolute name")
	}
	for c := range strings.SplitSeq(name, "/") {
		switch {
		case c == "..":
			return nil, refuse(unix.EXDEV, "a name that leads out of the target")
		case strings.IndexByte(c, 0) >= 0:
			return nil, refuse(unix.EBADMSG, "a name that holds a NUL")
		case c != "" && c != ".":
			components = append(components, c)
		}
	}
	return components[min(strip, len(components)):], nil
}

// walk opens a directory below the target, step by step, and can make what is
// missing. Each step is a real directory in the one before: there are no links and
// no ".." on the way, so it can't lead out, and that with any kernel.
func (u *unpacking) walk(path string, make bool) (int, error) {
	fd, err := openStep(u.root, ".")
	for c := range strings.SplitSeq(path, "/") {
		if err != nil {
			return -1, err
		}
		if c == "" { // the target itself
			break
		}
		next, stepErr := openStep(fd, c)
		if make && errors.Is(stepErr, unix.ENOENT) {
			if err := unix.Mkdirat(fd, c, 0o755); err == nil || errors.Is(err, unix.EEXIST) {
				next, stepErr = openStep(fd, c)
			} else {
				stepErr = err
			}
		}
		_ = unix.Close(fd)
		fd, err = next, stepErr
	}
	return fd, err
}

func openStep(dir int, name string) (int, error) {
	fd, err := retry(func() (int, error) {
		return unix.Openat(dir, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
	if errors.Is(err, unix.ENOTDIR) {
		if _, linkErr := readlinkat(dir, name); linkErr == nil {
			return -1, refuse(unix.ELOOP, "%q is a symbolic link, which is not followed", name)
		}
	}
	return fd, err
}

// parent makes the directory of an entry the current one.
func (u *unpacking) parent(path string) error {
	if u.dir >= 0 && path == u.path {
		return nil
	}
	fd, err := u.walk(path, true)
	if err != nil {
		return err
	}
	if u.dir >= 0 {
		_ = unix.Close(u.dir)
	}
	u.dir, u.path = fd, path
	return nil
}
