//go:build linux

package agent

import (
	"cmp"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"time"

	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// fileWatch tells what happens to a file or in a directory, until the client wants
// no more.
func (a *Agent) fileWatch(r *request) error {
	f, err := r.fields.FileWatch()
	if err != nil {
		return err
	}
	w, err := newWatch(f)
	if err != nil {
		return failed(r, f.Path, err)
	}
	defer w.notify.Close()
	if w.stream, err = r.begin(struct{}{}); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- w.run() }()
	said, stop := w.stream.until()
	defer stop()
	select {
	case err = <-ended:
	case err = <-said:
		_ = w.notify.Close()
		<-ended // nothing comes behind the result
	case <-a.stopping:
		_ = w.notify.Close()
		<-ended
		err = errShuttingDown
	}
	if err != nil {
		return err
	}
	return w.stream.end(struct{}{})
}

// A watch is a tree that is watched.
type watch struct {
	wire.FileWatch
	notify  *os.File // of inotify(7)
	dirs    tree
	buf     []byte
	stream  *stream
	pending batch
	moved   moved
	over    bool // what is watched has gone
}

const (
	// coalescing is how long events wait for more, so that they share a frame and
	// those that repeat each other are told once.
	coalescing = 50 * time.Millisecond

	// followUp is how long half a rename waits for the other: the kernel queues
	// both at once.
	followUp = 5 * time.Millisecond
)

func newWatch(f wire.FileWatch) (*watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if errors.Is(err, unix.EMFILE) {
		err = refuse(unix.EMFILE, "too many watches at once: fs.inotify.max_user_instances, or too many open files")
	}
	if err != nil {
		return nil, err
	}
	w := &watch{FileWatch: f, notify: os.NewFile(uintptr(fd), "inotify"), buf: make([]byte, 8<<10)}
	w.dirs = tree{fd: fd, mask: w.mask(), paths: map[int32]string{}}
	err = w.dirs.add(f.Path, "")
	if err == nil && f.Recursive {
		err = w.dirs.scan(f.Path, "", nil, nil)
	}
	if err != nil {
		_ = w.notify.Close()
		return nil, err
	}
	return w, nil
}

// mask returns what the kernel is asked for. A tree can be followed only by one
// who knows of all directories that come and go.
func (w *watch) mask() uint32 {
	m := uint32(unix.IN_DELETE_SELF | unix.IN_EXCL_UNLINK)
	for _, e := range w.Events {
		switch e {
		case wire.WatchCreate, wire.WatchDelete, wire.WatchRename:
			m |= unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO
		case wire.WatchModify:
			m |= unix.IN_MODIFY
		case wire.WatchAttrib:
			m |= unix.IN_ATTRIB
		}
	}
	if w.Recursive {
		m |= unix.IN_CREATE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO
	}
	return m
}

// run reads events and sends them on, until what is watched has gone.
func (w *watch) run() error {
	for !w.over {
		_ = w.notify.SetReadDeadline(time.Time{})
		if err := w.read(); err != nil {
			return err
		}
		end := time.Now().Add(coalescing)
		for !w.over {
			_ = w.notify.SetReadDeadline(end)
			err := w.read()
			if errors.Is(err, os.ErrDeadlineExceeded) {
				if w.moved.name == nil {
					break
				}
				_ = w.notify.SetReadDeadline(time.Now().Add(followUp))
				if err = w.read(); errors.Is(err, os.ErrDeadlineExceeded) {
					err = w.movedOut()
				}
			}
			if err != nil {
				return err
			}
		}
		if err := w.movedOut(); err != nil {
			return err
		}
		if err := w.pending.flush(w.stream); err != nil {
			return err
		}
	}
	return nil
}

// read takes what the kernel has queued.
func (w *watch) read() error {
	n, err := w.notify.Read(w.buf)
	if errors.Is(err, os.ErrClosed) {
		return errGone
	}
	if err != nil {
		return err
	}
	for b := w.buf[:n]; len(b) > 0; {
		var e rawEvent
		e, b = nextEvent(b)
		if err := w.event(e); err != nil {
			return err
		}
	}
	return nil
}

// event deals with one event of the kernel's.
func (w *watch) event(e rawEvent) error {
	if e.mask&unix.IN_Q_OVERFLOW != 0 {
		return w.overflow()
	}
	dir, known := w.dirs.paths[e.wd]
	if !known {
		return nil // of a directory that is no longer in the tree
	}
	if e.mask&unix.IN_IGNORED != 0 {
		delete(w.dirs.paths, e.wd)
		w.over = w.over || dir == ""
		return nil
	}
	if e.mask&(unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_UNMOUNT) != 0 {
		if dir != "" { // the directory above tells
			return nil
		}
		w.over = w.over || e.mask&unix.IN_MOVE_SELF != 0 // the others are followed by IN_IGNORED
		return w.tell(wire.WatchDelete, "", "", w.dirs.isDir)
	}
	name := dir
	if e.name != "" {
		name = join(dir, e.name)
	} else if dir != "" { // the directory above tells of it too
		return nil
	}
	isDir := e.mask&unix.IN_ISDIR != 0
	if e.mask&unix.IN_MOVED_TO == 0 || e.cookie != w.moved.cookie {
		if err := w.movedOut(); err != nil {
			return err
		}
	}
	switch {
	case e.mask&unix.IN_MOVED_FROM != 0:
		w.moved = moved{&name, e.cookie, isDir}
		return nil
	case e.mask&unix.IN_MOVED_TO != 0 && w.moved.name != nil:
		from := *w.moved.name
		w.moved = moved{}
		if isDir {
			w.dirs.rename(from, name)
		}
		return cmp.Or(w.tell(wire.WatchRename, name, from, isDir), w.follow(name, isDir))
	case e.mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0:
		return cmp.Or(w.tell(wire.WatchCreate, name, "", isDir), w.follow(name, isDir))
	case e.mask&unix.IN_DELETE != 0:
		return w.tell(wire.WatchDelete, name, "", isDir)
	case e.mask&unix.IN_MODIFY != 0:
		return w.tell(wire.WatchModify, name, "", isDir)
	case e.mask&unix.IN_ATTRIB != 0:
		return w.tell(wire.WatchAttrib, name, "", isDir)
	}
	return nil
}

// moved is the first half of a rename.
type moved struct {
	name   *string // nil: there is none
	cookie uint32
	isDir  bool
}

// movedOut tells of a rename without a second half: out of what is watched.
func (w *watch) movedOut() error {
	m := w.moved
	w.moved = moved{}
	if m.name == nil {
		return nil
	}
	if m.isDir {
		w.dirs.forget(*m.name)
	}
	return w.tell(wire.WatchDelete, *m.name, "", m.isDir)
}

// follow watches a directory that has come or has another name, and tells of what was
// made in it before it was watched. One that was renamed before we looked may not have
// been found under its first name, nor what was in it.
func (w *watch) follow(name string, isDir bool) error {
	if !isDir || !w.Recursive {
		return nil
	}
	return w.dirs.follow(w.Path, name, func(name string, isDir bool) error {
		return w.tell(wire.WatchCreate, name, "", isDir)
	})
}

// overflow tells that the kernel had to drop events. Directories may have come that
// are not watched.
func (w *watch) overflow() error {
	if err := w.pending.flush(w.stream); err != nil {
		return err
	}
	if err := w.stream.Encode(wire.KindEvent, wire.Watch{Overflow: true}); err != nil {
		return errGone
	}
	if !w.Recursive {
		return nil
	}
	return w.dirs.renew(w.Path)
}

// tell adds an event to those that will be sent.
func (w *watch) tell(kind, name, from string, isDir bool) error {
	if !slices.Contains(w.Events, kind) {
		return nil
	}
	if w.pending.repeats(kind, name) {
		return nil
	}
	e := wire.WatchEvent{Type: kind, IsDir: isDir}
	e.Name, e.NameBase64 = text(name)
	e.From, e.FromBase64 = text(from)
	return w.pending.add(w.stream, e, name, from)
}

// A batch is events that wait for more.
type batch struct {
	events []json.RawMessage
	size   int               // of them
	last   map[string]string // the last event of each name
}

// repeats tells whether an event says nothing new: it is the last one of its name
// again, or a change to a file that is new.
func (b *batch) repeats(kind, name string) bool {
	last := b.last[name]
	return last == kind && kind != wire.WatchRename ||
		last == wire.WatchCreate && (kind == wire.WatchModify || kind == wire.WatchAttrib)
}

// add adds an event. A batch that is full goes out first.
func (b *batch) add(s *stream, e wire.WatchEvent, name, from string) error {
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if b.size+len(text)+1 > wire.MaxControl-100 {
		if err := b.flush(s); err != nil {
			return err
		}
	}
	b.events = append(b.events, text)
	b.size += len(text) + 1
	if b.last == nil {
		b.last = map[string]string{}
	}
	if from != "" {
		b.last[from] = wire.WatchDelete
	}
	b.last[name] = e.Type
	return nil
}

// flush sends what waits.
func (b *batch) flush(s *stream) error {
	if len(b.events) == 0 {
		return nil
	}
	err := s.Encode(wire.KindEvent, struct {
		Events []json.RawMessage `json:"events"`
	}{b.events})
	*b = batch{}
	if err != nil {
		return errGone
	}
	return nil
}

var errTooManyWatches = refuse(unix.ENOSPC, "too many directories to watch: fs.inotify.max_user_watches")
