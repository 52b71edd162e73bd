//go:build linux

package agent

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// fileDelete removes a file, a link (not what it leads to), an empty directory
// or, if that is asked for, one with all that is in it.
func (a *Agent) fileDelete(r *request) error {
	d, err := r.fields.FileDelete()
	if err != nil {
		return err
	}
	name := withoutSlashes(d.Path) // "link/" would be the directory it leads to
	_, err = retry(func() (int, error) { return 0, unix.Unlink(name) })
	if errors.Is(err, unix.EISDIR) {
		_, err = retry(func() (int, error) { return 0, unix.Rmdir(name) })
	}
	if !d.Recursive {
		if err != nil {
			return failed(r, d.Path, err)
		}
		return replying(wire.WriteData(r.conn, struct{}{}))
	}
	t := removal{removed: 1}
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
		gone, stop := withGone(r)
		t.removed = 0
		err = t.tree(gone, name)
		stop()
	}
	if err != nil {
		return failed(r, d.Path, err)
	}
	return replying(wire.WriteData(r.conn, wire.Removed{Removed: t.removed}))
}

// withoutSlashes takes the slashes off the end of a path.
func withoutSlashes(path string) string {
	for len(path) > 1 && path[len(path)-1] == '/' {
		path = path[:len(path)-1]
	}
	return path
}

// A removal removes a tree. It holds two open directories at most, however deep
// the tree is, and looks at names from there: a directory that somebody swaps for
// a link meanwhile leads it nowhere else.
type removal struct {
	dir     *os.File // where it is
	path    []step   // how it came there
	removed int64
}

// A step is a directory on the way down, as it was on the way down.
type step struct {
	name     string
	dev, ino uint64
}

func (t *removal) tree(ctx context.Context, path string) error {
	parent, name := filepath.Split(path)
	if name == "" || name == "." || name == ".." {
		return refuse(unix.EINVAL, "a directory must be named to be removed")
	}
	fd, err := retry(func() (int, error) { return unix.Open(parent, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return err
	}
	t.dir = os.NewFile(uintptr(fd), parent)
	defer func() { _ = t.dir.Close() }()
	if err := t.down(name); err != nil {
		return err
	}
	for len(t.path) > 0 {
		if err := ctx.Err(); err != nil {
			return errGone
		}
		below, err := t.files()
		switch {
		case err != nil:
			return err
		case below != "":
			err = t.down(below)
		default:
			err = t.up()
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return nil
}

// where describes what an error is about, for a person.
func (t *removal) where(name string, err error) error {
	names := make([]string, 0, 2)
	for _, s := range t.path {
		names = append(names, s.name)
	}
	return &os.PathError{Op: "remove", Path: strings.Join(append(names, name), "/"), Err: err}
}

// down goes into a directory: not through a link, and not into what is mounted.
// (rmdir(2) has said EBUSY of that before, unless it was mounted since.)
func (t *removal) down(name string) error {
	var here unix.Stat_t
	if err := unix.Fstat(int(t.dir.Fd()), &here); err != nil {
		return err
	}
	fd, err := openBelow(int(t.dir.Fd()), name, unix.RESOLVE_NO_XDEV)
	if errors.Is(err, unix.EXDEV) {
		err = unix.EBUSY
	}
	if err != nil {
		return t.where(name, err)
	}
	_ = t.dir.Close()
	t.dir = os.NewFile(uintptr(fd), name)
	t.path = append(t.path, step{name, here.Dev, here.Ino})
	return nil
}

// files removes what it can from the current directory. It stops at the first
// directory that is not empty, and returns its name.
func (t *removal) files() (below string, err error) {
	for {
		names, err := t.dir.Readdirnames(256)
		for _, name := range names {
			err := unlink(int(t.dir.Fd()), name)
			switch {
			case err == nil:
				t.removed++
			case errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST):
				return name, nil
			case !errors.Is(err, unix.ENOENT):
				return "", t.where(name, err)
			}
		}
		if err == io.EOF {
			return "", nil
		}
		if err != nil {
			return "", t.where("", err)
		}
	}
}

// unlink removes a file, a link or an empty directory.
func unlink(dir int, name string) error {
	err := unix.Unlinkat(dir, name, 0)
	if errors.Is(err, unix.EISDIR) {
		err = unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
	}
	return err
}

// up goes back to the directory that the current one was found in, and removes
// that. One that was moved meanwhile has another directory above it, in which
// nothing is to be removed.
func (t *removal) up() error {
	last := t.path[len(t.path)-1]
	fd, err := unix.Openat(int(t.dir.Fd()), "..", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return t.where("..", err)
	}
	var above unix.Stat_t
	if err := unix.Fstat(fd, &above); err != nil || above.Dev != last.dev || above.Ino != last.ino {
		_ = unix.Close(fd)
		return t.where("", errors.Join(err, errChanged))
	}
	_ = t.dir.Close()
	t.dir = os.NewFile(uintptr(fd), "..")
	t.path = t.path[:len(t.path)-1]
	switch err := unix.Unlinkat(fd, last.name, unix.AT_REMOVEDIR); {
	case err == nil:
		t.removed++
	case errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST):
		if len(t.path) == 0 {
			return t.down(last.name) // something was made in it meanwhile
		}
	case !errors.Is(err, unix.ENOENT):
		return t.where(last.name, err)
	}
	return nil
}

// openBelow opens a directory by a path from another, through no link. resolve
// adds what else openat2(2) must not do; before Linux 5.6 only the last component
// is known not to be a link.
func openBelow(dir int, path string, resolve uint64) (int, error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	how := unix.OpenHow{Flags: flags, Resolve: resolve | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_BENEATH}
	fd, err := retry(func() (int, error) { return unix.Openat2(dir, path, &how) })
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EAGAIN) {
		fd, err = retry(func() (int, error) { return unix.Openat(dir, path, flags, 0) })
	}
	return fd, err
}
