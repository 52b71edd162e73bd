//go:build linux

package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/hyperfleet/init/applets/internal/tarhead"
	"golang.org/x/sys/unix"
)

// file sends a regular file: as many bytes as its header says, whatever happens
// to it meanwhile.
func (t *packing) file(dir *os.File, n, name string) error {
	fd, err := retry(func() (int, error) {
		return unix.Openat(int(dir.Fd()), n, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		warn(&t.result, name, err)
		return nil
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = errChanged
	}
	if err != nil {
		warn(&t.result, name, err)
		return nil
	}
	h := t.header(dir, n, name, st)
	parts := []tarhead.Extent{{Offset: 0, Size: st.Size}}
	table := ""
	if t.get.Sparse && st.Blocks*512 < st.Size {
		if found, err := extents(fd, st.Size); err == nil {
			parts = found
			table = h.Sparse(parts)
		}
	}
	if err := t.head(h); err != nil {
		return err
	}
	if err := t.write([]byte(table)); err != nil {
		return err
	}
	short := false
	for _, e := range parts {
		cut, err := t.content(fd, name, e)
		if err != nil {
			return err
		}
		short = short || cut
	}
	var now unix.Stat_t
	if err := unix.Fstat(fd, &now); !short && (err != nil || now.Mtim != st.Mtim || now.Size != st.Size) {
		warn(&t.result, name, errors.New("it changed while it was read"))
	}
	clear(t.buf[:tarhead.Block])
	return t.write(t.buf[:tarhead.Padding(h.Size)])
}

// content sends a part of a file, and zeros for what is no longer there.
func (t *packing) content(fd int, name string, e tarhead.Extent) (short bool, err error) {
	for e.Size > 0 {
		piece := t.buf[:min(e.Size, int64(len(t.buf)))]
		n := 0
		if !short {
			n, err = retry(func() (int, error) { return unix.Pread(fd, piece, e.Offset) })
			if n = max(n, 0); n == 0 {
				if err == nil {
					err = io.ErrUnexpectedEOF
				}
				warn(&t.result, name, fmt.Errorf("%w: filled up with %d zeros", err, e.Size))
				short = true
			}
		}
		if short {
			clear(piece)
			n = len(piece)
		}
		if err := t.write(piece[:n]); err != nil {
			return short, err
		}
		e.Offset += int64(n)
		e.Size -= int64(n)
	}
	return short, nil
}

// maxExtents is how many parts of a sparse file are told apart: readers limit the
// table.
const maxExtents = 4096

// extents finds what of a file is not a hole.
func extents(fd int, size int64) ([]tarhead.Extent, error) {
	var found []tarhead.Extent
	for at := int64(0); at < size; {
		start, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // a hole to the end
			break
		}
		if err != nil {
			return nil, err
		}
		if start >= size {
			break
		}
		end, err := unix.Seek(fd, start, unix.SEEK_HOLE)
		if err != nil {
			return nil, err
		}
		if len(found) == maxExtents-1 {
			end = size
		}
		end = min(end, size)
		found = append(found, tarhead.Extent{Offset: start, Size: end - start})
		at = end
	}
	return found, nil
}

// procPath is a path to an open file, for the calls that take no descriptor, or
// none that was opened with O_PATH.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

const (
	attributePrefix = tarhead.AttributePrefix

	// maxAttributes bounds the extended attributes of a file in an archive, in
	// bytes: readers limit them.
	maxAttributes = 512 << 10
)

// eachAttribute calls f with the extended attributes of a file. A link at the end
// of path is not followed, and a filesystem without them has none.
func eachAttribute(path string, f func(name string, value []byte)) error {
	size, err := unix.Llistxattr(path, nil)
	if err != nil || size == 0 {
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT) {
			err = nil // or it has vanished, which will be told
		}
		return err
	}
	names := make([]byte, size)
	if size, err = unix.Llistxattr(path, names); err != nil {
		return err
	}
	total := 0
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:size]), "\x00"), "\x00") {
		n, err := unix.Lgetxattr(path, name, nil)
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
			continue
		}
		value := make([]byte, max(n, 0))
		if err == nil && n > 0 {
			n, err = unix.Lgetxattr(path, name, value)
		}
		total += n + len(name)
		switch {
		case err != nil:
		case strings.Contains(name, "="):
			err = errors.New("its name holds a =")
		case total > maxAttributes:
			err = unix.E2BIG
		}
		if err != nil {
			return fmt.Errorf("attribute %s: %w", name, err)
		}
		f(name, value[:n])
	}
	return nil
}
