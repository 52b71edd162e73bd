//go:build linux

package agent

import (
	"io"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyperfleet/init/applets/internal/logging"
)

// TestRush: while much comes, the poller does not watch the pipe; it does again when
// nothing has for a moment, and for what says little.
func TestRush(t *testing.T) {
	o, w, got := rushing(t)
	defer o.close()
	unwatched := func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		return o.r == nil
	}
	sent := int64(0)
	write := func(size int) {
		t.Helper()
		if n, err := unix.Write(w, make([]byte, size)); n != size || err != nil {
			t.Fatal(n, err)
		}
		sent += int64(size)
		eventually(t, "it is read", func() bool { return got.Load() == sent })
	}
	for range 100 {
		if write(100); unwatched() {
			t.Fatal("not watched for 100 bytes")
		}
	}
	rushed := false
	eventually(t, "it is not watched", func() bool {
		for range 100 {
			write(16 << 10)
			rushed = rushed || unwatched()
		}
		return rushed
	})
	eventually(t, "it is watched again", func() bool { return !unwatched() })
	for range 20 {
		if time.Sleep(time.Millisecond); unwatched() {
			t.Fatal("not watched though nothing came")
		}
	}
	write(100)
	_ = unix.Close(w)
	o.finish(time.Now().Add(patience))
	if got.Load() != sent || o.held {
		t.Errorf("%d bytes of %d, held %v", got.Load(), sent, o.held)
	}
}

// TestRushAtDeadline: what writes without a pause does not keep the collection going,
// nor does what writes no more.
func TestRushAtDeadline(t *testing.T) {
	for _, forever := range []bool{true, false} {
		o, w, got := rushing(t)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for n := int64(0); forever || n < 1<<20; {
				m, err := unix.Write(w, make([]byte, 64<<10))
				if err != nil { // nobody reads
					return
				}
				n += int64(m)
			}
		}()
		eventually(t, "much is read", func() bool { return got.Load() >= 1<<20 })
		begin := time.Now()
		o.finish(begin.Add(10 * time.Millisecond))
		if took := time.Since(begin); !o.held || took > patience/2 {
			t.Errorf("forever %v: held %v, after %v", forever, o.held, took)
		}
		o.close()
		<-ended
		_ = unix.Close(w)
	}
}

// rushing returns an output that has been started, the end to write to, and how much
// of that has arrived.
func rushing(t *testing.T) (o *output, w int, got *atomic.Int64) {
	t.Helper()
	o, got = newOutput(0, nil, func() (*os.File, error) { return nil, unix.ENOSPC }), new(atomic.Int64)
	o.sink = func(p []byte) { got.Add(int64(len(p))) }
	w, err := o.pipe()
	if err != nil {
		t.Fatal(err)
	}
	o.start(logging.New(io.Discard, "agent", false))
	return o, w, got
}
