//go:build linux

package agent

import (
	"cmp"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hyperfleet/init/applets/internal/logging"
	"golang.org/x/sys/unix"
)

const (
	pipeBuffer      = 64 << 10 // read from a pipe at once: all that it can hold
	smallPipeBuffer = 4 << 10  // where the budget has no room for that
)

// pipeBuffers are shared: most commands say little, and that seldom.
var pipeBuffers = sync.Pool{New: func() any { b := make([]byte, pipeBuffer); return &b }}

// An output collects what a command writes to one of its pipes: max bytes of it,
// and the rest is read and dropped, so that the command is never held up.
type output struct {
	spool
	max       int64
	truncated bool
	sink      func(p []byte)            // takes what comes, instead of the spool
	passage   *passage                  // for what is for sink, while that is much; or nil
	held      bool                      // something held the pipe open at the deadline
	fd        int                       // of the pipe, while there is no r
	mu        sync.Mutex                // guards that there is one, and its deadline
	r         *os.File                  // the pipe, as the poller watches it; or a terminal
	ended     bool                      // it is at its end; see command.brief
	deadline  atomic.Pointer[time.Time] // of the collection; nil while there is none
	done      chan struct{}             // closed when the pipe is at its end, or let go
}

func newOutput(max int64, memory *share, open func() (*os.File, error)) *output {
	return &output{spool: spool{limit: max, memory: memory, open: open}, max: max, fd: -1}
}

// pipe makes the pipe and returns the end to write to.
func (o *output) pipe() (w int, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return -1, os.NewSyscallError("pipe2", err)
	}
	_, _ = unix.FcntlInt(uintptr(p[1]), unix.F_SETFL, 0) // ours alone does not block
	o.fd = p[0]
	return p[1], nil
}

// start starts to collect. A command's first output waits in the pipe; what is
// started before the fork only competes with it.
func (o *output) start(log *logging.Log) {
	if o.ended {
		return
	}
	if o.r == nil {
		o.watch()
	}
	o.done = make(chan struct{})
	go func() {
		defer close(o.done)
		defer survive(log, "collecting output")
		o.collect()
	}()
}

// collect reads until the end of the pipe, or until the deadline that finish sets.
func (o *output) collect() {
	for !o.follow() {
		if !o.unwatch() {
			continue
		}
		end := o.rush(uintptr(o.fd))
		o.watch()
		if end {
			return
		}
	}
}

// follow reads what the poller tells of. It is done at the end of the pipe and at
// the deadline, and stops where there is much.
func (o *output) follow() (done bool) {
	raw, err := o.r.SyscallConn()
	if err != nil {
		return true
	}
	end := false
	err = raw.Read(func(fd uintptr) bool {
		end = o.drain(fd, -1)
		return end || o.passage.isOpen()
	})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		// Whatever the command wrote before it ended is among the next bytes: the
		// pipe holds no more than its capacity.
		capacity := int64(pipeBuffer)
		_ = raw.Control(func(fd uintptr) {
			if n, err := unix.FcntlInt(fd, unix.F_GETPIPE_SZ, 0); err == nil {
				capacity = int64(n)
			}
			o.held = !o.drain(fd, capacity+1) // one more, to see the end
		})
	}
	return end || err != nil
}

// tick is how often rush reads: about what fills a quarter of the pipe. A frame for
// each piece that a command writes costs more than it holds.
const tick = 100 * time.Microsecond

// mostQuiet is how many ticks with less than a page there may be in a rush.
const mostQuiet = 10

// rush moves what comes through the passage while it is much, and tells whether the
// pipe is at its end. The poller does not watch the pipe meanwhile: every write to a
// pipe that it watches wakes it, which makes a command that writes 4 KiB at a time
// take twice as long. It watches a timer instead.
func (o *output) rush(pipe uintptr) (end bool) {
	defer func() {
		o.passage.close()
		resizePipe(pipe, pipeBuffer) // no more, unless it is full
	}()
	t, err := newTimer()
	if err != nil {
		o.passage.broken = true
		return false
	}
	defer t.Close()
	for quiet := 0; quiet < mostQuiet && !o.passage.broken && !o.late(); {
		n, err := o.passage.move(pipe)
		switch {
		case n >= smallPipeBuffer:
			quiet = 0
		case n > 0, errors.Is(err, unix.EAGAIN):
			quiet++
		default:
			return true
		}
		if n < o.passage.size/2 {
			t.wait(tick)
		}
	}
	return false
}

// late tells whether the deadline is over.
func (o *output) late() bool {
	d := o.deadline.Load()
	return d != nil && time.Now().After(*d)
}

// watch has the poller watch the pipe.
func (o *output) watch() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.r, o.fd = os.NewFile(uintptr(o.fd), "pipe"), -1
	if d := o.deadline.Load(); d != nil {
		_ = o.r.SetReadDeadline(*d)
	}
}

// unwatch ends that, if there is a descriptor to be had for it: the poller lets go of
// a pipe when its own is closed.
func (o *output) unwatch() bool {
	fd, err := dup(o.r)
	if err != nil {
		o.passage.broken = true // and is as wide as it counts until the end
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	_ = o.r.Close()
	o.r, o.fd = nil, fd
	return true
}

// dup is dup(2).
func dup(f *os.File) (fd int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	controlErr := raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) })
	return fd, cmp.Or(controlErr, err)
}

// drain takes what the pipe holds, at most limit bytes if that is not negative; if
// it is, only until that is much and the passage for it opens. It tells whether the
// pipe is at its end.
func (o *output) drain(fd uintptr, limit int64) (end bool) {
	var buf []byte
	if o.memory.Take(pipeBuffer) {
		defer o.memory.Give(pipeBuffer)
		large := pipeBuffers.Get().(*[]byte)
		defer pipeBuffers.Put(large)
		buf = *large
	} else {
		buf = make([]byte, smallPipeBuffer)
	}
	for total := 0; limit != 0; {
		if limit < 0 && o.late() {
			return false // what writes without a pause would keep us here for ever
		}
		n, err := retry(func() (int, error) { return unix.Read(int(fd), buf) })
		if errors.Is(err, unix.EAGAIN) {
			return false
		}
		if n <= 0 {
			return true
		}
		o.keep(buf[:n])
		if limit > 0 {
			limit = max(0, limit-int64(n))
		} else if total += n; total >= pipeBuffer {
			if o.passage.open(fd) {
				return false
			}
			total = 0
		}
	}
	return false
}

func (o *output) keep(p []byte) {
	if o.sink != nil {
		o.sink(p)
		return
	}
	if room := o.max - o.size; int64(len(p)) > room {
		p = p[:max(0, room)]
		o.truncated = true
	}
	if len(p) > 0 && o.err == nil {
		_, _ = o.Write(p)
		if o.err != nil {
			o.truncated = true // a full disk, say: the command goes on
			o.size = 0
		}
	}
}

// finish waits for the end of the pipe, but only until the deadline: something
// that the command left running may hold it open for ever.
func (o *output) finish(deadline time.Time) {
	if o.done != nil {
		o.mu.Lock()
		o.deadline.Store(&deadline)
		if o.r != nil {
			_ = o.r.SetReadDeadline(deadline)
		}
		o.mu.Unlock()
		<-o.done
	}
	o.shut()
}

// shut closes the pipe, if it is open.
func (o *output) shut() {
	if o.r != nil {
		_ = o.r.Close()
	}
	if o.fd >= 0 {
		_ = unix.Close(o.fd)
		o.fd = -1
	}
}

func (o *output) close() {
	o.shut() // again, where the command did not start
	o.passage.close()
	o.spool.close()
}

func (o *output) reader() io.ReadSeeker { return o.spool.reader().(io.ReadSeeker) }
