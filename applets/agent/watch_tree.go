//go:build linux

package agent

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// A rawEvent is one of the kernel's, see inotify(7).
type rawEvent struct {
	wd           int32
	mask, cookie uint32
	name         string
}

// nextEvent takes the first event off what was read.
func nextEvent(b []byte) (e rawEvent, rest []byte) {
	if len(b) < unix.SizeofInotifyEvent {
		return rawEvent{}, nil
	}
	n := binary.NativeEndian.Uint32(b[12:])
	name := b[unix.SizeofInotifyEvent : unix.SizeofInotifyEvent+n]
	if i := bytes.IndexByte(name, 0); i >= 0 {
		name = name[:i]
	}
	e = rawEvent{
		wd:     int32(binary.NativeEndian.Uint32(b)),
		mask:   binary.NativeEndian.Uint32(b[4:]),
		cookie: binary.NativeEndian.Uint32(b[8:]),
		name:   string(name),
	}
	return e, b[unix.SizeofInotifyEvent+n:]
}

// A tree is the directories that an inotify watches.
type tree struct {
	fd    int
	mask  uint32
	isDir bool             // the top
	paths map[int32]string // from the top, by watch
}

// add watches the top, which may be a link. Who moves it away, and perhaps puts
// another in its place, ends that.
func (t *tree) add(path, name string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return err
	}
	t.isDir = st.Mode&unix.S_IFMT == unix.S_IFDIR
	_, err := t.watch(path, name, unix.IN_MOVE_SELF)
	return err
}

// watch watches path, and tells whether it was not watched before.
func (t *tree) watch(path, name string, flags uint32) (fresh bool, err error) {
	wd, err := unix.InotifyAddWatch(t.fd, path, t.mask|flags)
	if errors.Is(err, unix.ENOSPC) {
		return false, errTooManyWatches
	}
	if err != nil {
		return false, err
	}
	_, known := t.paths[int32(wd)]
	t.paths[int32(wd)] = name
	return !known, nil
}

// A teller is told of a name in the tree.
type teller func(name string, isDir bool) error

// follow watches a directory below the top, and all below that. tell, if there is
// one, is told of what is in those that were not watched before: what is made in a
// directory before it is watched makes no event. One that has vanished, or is a link
// by now, is none of the tree, nor is one that can't be read or whose path is too long.
func (t *tree) follow(top, name string, tell teller) error {
	fresh, err := t.watch(join(top, name), name, unix.IN_ONLYDIR|unix.IN_DONT_FOLLOW)
	if vanished(err) || unreachable(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if fresh {
		return t.scan(top, name, tell, tell)
	}
	return t.scan(top, name, nil, tell)
}

// unreachable is for a directory that is there, and can't be watched.
func unreachable(err error) bool {
	return errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENAMETOOLONG)
}

// scan follows all directories in one, and tells here of what is in that itself.
func (t *tree) scan(top, name string, here, tell teller) error {
	fd, err := retry(func() (int, error) {
		return unix.Open(join(top, name), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if vanished(err) || unreachable(err) {
		return nil
	}
	if err != nil {
		return err
	}
	dir := os.NewFile(uintptr(fd), name)
	defer dir.Close()
	for {
		entries, err := dir.ReadDir(256)
		for _, e := range entries {
			below := join(name, e.Name())
			if here != nil {
				if err := here(below, e.IsDir()); err != nil {
					return err
				}
			}
			if !e.IsDir() {
				continue
			}
			if err := t.follow(top, below, tell); err != nil {
				return err
			}
		}
		if err == io.EOF || vanished(err) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// renew looks at the whole tree anew: directories may have come, and left.
func (t *tree) renew(top string) error {
	before := t.paths
	t.paths = map[int32]string{}
	for wd, path := range before {
		if path == "" {
			t.paths[wd] = ""
		}
	}
	err := t.scan(top, "", nil, nil)
	for wd := range before {
		if _, stays := t.paths[wd]; !stays {
			_, _ = unix.InotifyRmWatch(t.fd, uint32(wd))
		}
	}
	return err
}

// rename follows a directory to its new name, with all below it.
func (t *tree) rename(from, to string) {
	for wd, path := range t.paths {
		if rest, below := strings.CutPrefix(path, from); below && path != "" && (rest == "" || rest[0] == '/') {
			t.paths[wd] = to + rest
		}
	}
}

// forget ends the watching of a directory that has left the tree.
func (t *tree) forget(name string) {
	for wd, path := range t.paths {
		if rest, below := strings.CutPrefix(path, name); below && path != "" && (rest == "" || rest[0] == '/') {
			delete(t.paths, wd)
			_, _ = unix.InotifyRmWatch(t.fd, uint32(wd))
		}
	}
}
