//go:build linux

package agent

import (
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyperfleet/init/applets/internal/agenttest"
	"github.com/hyperfleet/init/applets/internal/logging"
	"github.com/hyperfleet/init/applets/wire"
)

// A rushed is an output that goes to a client through a passage.
type rushed struct {
	*output
	w      int // the end of the pipe to write to
	sent   int64
	far    net.Conn
	memory *budget
	got    atomic.Int64 // bytes, each one more than the one before
	lost   atomic.Bool
}

func newRushed(t *testing.T) *rushed {
	t.Helper()
	far, near := agenttest.Pair(t)
	r := &rushed{far: far, memory: newBudget(16<<20, patience)}
	c := newConn(near, testLimits(), &share{budget: r.memory})
	c.state.Store(endless)
	s := &stream{FrameWriter: wire.NewFrameWriter(c), conn: c}
	r.output = newOutput(0, c.memory, nil)
	r.passage = s.newPassage(wire.KindStdout, func() { r.lost.Store(true) })
	r.sink = func(p []byte) { _, _ = s.Bytes(wire.KindStdout, p) }
	var err error
	if r.w, err = r.pipe(); err != nil {
		t.Fatal(err)
	}
	go r.receive(t)
	r.start(logging.New(io.Discard, "agent", false))
	return r
}

func (r *rushed) receive(t *testing.T) {
	frames, buf := wire.NewFrameReader(r.far), make([]byte, 64<<10)
	for {
		if _, _, err := frames.Next(); err != nil {
			return
		}
		for {
			n, err := frames.Read(buf)
			at := r.got.Load()
			for i, b := range buf[:n] {
				if b != byte(at+int64(i)) {
					t.Errorf("byte %d is %d", at+int64(i), b)
					return
				}
			}
			r.got.Add(int64(n))
			if err != nil {
				break
			}
		}
	}
}

// write writes size bytes at once.
func (r *rushed) write(size int) error {
	p := make([]byte, size)
	for i := range p {
		p[i] = byte(r.sent + int64(i))
	}
	n, err := unix.Write(r.w, p)
	r.sent += int64(max(n, 0))
	return err
}

func (r *rushed) unwatched() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.r == nil
}

// TestRush: while much comes, the poller does not watch the pipe. It does again when
// little comes or nothing, and the memory for that is given back.
func TestRush(t *testing.T) {
	r := newRushed(t)
	defer r.output.close()
	flood := func() {
		t.Helper()
		eventually(t, "it is not watched", func() bool {
			for range 100 {
				if err := r.write(64 << 10); err != nil {
					t.Fatal(err)
				}
			}
			return r.unwatched()
		})
	}
	watched := func() bool {
		capacity, err := unix.FcntlInt(uintptr(r.w), unix.F_GETPIPE_SZ, 0)
		return !r.unwatched() && r.memory.inUse() == 0 && capacity == pipeBuffer && err == nil
	}
	for range 100 {
		if err := r.write(5000); err != nil || r.unwatched() {
			t.Fatalf("not watched for 5000 bytes, or %v", err)
		}
		time.Sleep(time.Millisecond)
	}
	flood()
	eventually(t, "it is watched again when nothing comes", watched)
	flood()
	eventually(t, "it is watched again when little comes", func() bool {
		if err := r.write(10); err != nil {
			t.Fatal(err)
		}
		return watched()
	})
	flood()
	_ = unix.Close(r.w)
	r.finish(time.Now().Add(patience))
	if r.held {
		t.Error("the pipe is held")
	}
	eventually(t, "all has arrived", func() bool { return r.got.Load() == r.sent })
}

// TestRushAtDeadline: what writes without a pause does not keep the collection going,
// nor does what writes no more.
func TestRushAtDeadline(t *testing.T) {
	for _, forever := range []bool{true, false} {
		r := newRushed(t)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for (forever || r.sent < 64<<20) && r.write(64<<10) == nil {
			}
		}()
		eventually(t, "much is read", func() bool { return r.got.Load() >= 1<<20 })
		if !forever {
			<-ended
		}
		begin := time.Now()
		r.finish(begin.Add(10 * time.Millisecond))
		if took := time.Since(begin); !r.held || took > 5*time.Second {
			t.Errorf("forever %v: held %v, after %v", forever, r.held, took)
		}
		r.output.close()
		<-ended
		_ = unix.Close(r.w)
	}
}

// TestRushForNobody: when the client is gone there is no more of a rush.
func TestRushForNobody(t *testing.T) {
	r := newRushed(t)
	defer r.output.close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for r.write(64<<10) == nil {
		}
	}()
	eventually(t, "it is not watched", r.unwatched)
	_ = r.far.Close()
	eventually(t, "the loss is noticed", r.lost.Load)
	eventually(t, "it is watched", func() bool { return !r.unwatched() })
	time.Sleep(10 * time.Millisecond)
	if r.unwatched() {
		t.Error("not watched")
	}
	r.finish(time.Now())
	<-ended
	_ = unix.Close(r.w)
}
