//go:build linux

package agent

import (
	"os"
	"sort"
	"sync"

	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// A ring keeps the end of what a command has written, in a file: the memory of
// the agent does not grow with it. Offsets count the bytes that were ever written.
type ring struct {
	mu       sync.Mutex
	file     *os.File
	size     int64
	from, to int64     // offsets of what is kept
	runs     []stretch // by offset
	more     chan bool // closed at the next write, if somebody waits for it
	complete bool      // nothing more will be written
	err      error     // why what was written is lost
}

// A stretch is output of one kind, from an offset to the next one.
type stretch struct {
	kind wire.Kind
	from int64
}

// maxRuns bounds the list of them: a command may write its output and its errors
// by turns, a byte at a time.
const maxRuns = 4096

// newRing makes a ring of size bytes. open makes its file; where it can't, the
// file is one in memory.
func newRing(size int64, open func() (*os.File, error)) (*ring, error) {
	f, err := open()
	if err != nil {
		fd, memErr := unix.MemfdCreate("output", unix.MFD_CLOEXEC)
		if memErr != nil {
			return nil, err
		}
		f = os.NewFile(uintptr(fd), "output")
	}
	return &ring{file: f, size: size}, nil
}

// write keeps p. What can't be written to the file is lost, as if overwritten.
func (r *ring) write(kind wire.Kind, p []byte) {
	if len(p) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.runs); n == 0 || r.runs[n-1].kind != kind {
		r.runs = append(r.runs, stretch{kind, r.to})
	}
	if skip := int64(len(p)) - r.size; skip > 0 {
		r.to += skip
		p = p[skip:]
	}
	for len(p) > 0 && r.file != nil {
		at := r.to % r.size
		n, err := r.file.WriteAt(p[:min(int64(len(p)), r.size-at)], at)
		r.to += int64(n)
		p = p[n:]
		if err != nil {
			r.err = err
			r.to += int64(len(p))
			r.from = r.to
			break
		}
	}
	r.from = max(r.from, r.to-r.size)
	r.forget()
	r.wake()
}

// forget drops the runs that are not kept any more, and the oldest that are too
// many.
func (r *ring) forget() {
	if n := len(r.runs) - maxRuns; n > 0 {
		r.from = max(r.from, r.runs[n].from)
	}
	i := sort.Search(len(r.runs), func(i int) bool { return r.runs[i].from > r.from }) - 1
	if i > 0 {
		r.runs = append(r.runs[:0], r.runs[i:]...)
	}
}

// end says that nothing more will be written.
func (r *ring) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.complete = true
	r.wake()
}

func (r *ring) wake() {
	if r.more != nil {
		close(r.more)
		r.more = nil
	}
}

// read reads output of one kind at an offset or, where it is not kept any more,
// from the first that is: at tells which. Where there is none yet, n is 0, and more
// will be closed when there is; it is nil if there will be none.
func (r *ring) read(offset int64, p []byte) (kind wire.Kind, at int64, n int, more <-chan bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at = max(offset, r.from)
	if at >= r.to {
		if r.complete {
			return 0, at, 0, nil, nil
		}
		if r.more == nil {
			r.more = make(chan bool)
		}
		return 0, at, 0, r.more, nil
	}
	i := sort.Search(len(r.runs), func(i int) bool { return r.runs[i].from > at }) - 1
	end := r.to
	if i+1 < len(r.runs) {
		end = r.runs[i+1].from
	}
	in := at % r.size
	n, err = r.file.ReadAt(p[:min(int64(len(p)), end-at, r.size-in)], in)
	return r.runs[i].kind, at, n, nil, err
}

// extent tells which offsets are kept.
func (r *ring) extent() (from, to int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.from, r.to
}

func (r *ring) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.file.Close()
	r.from = r.to
	r.complete = true
	r.wake()
}
