//go:build linux

package agent

import (
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyperfleet/init/applets/internal/logging"
)

// TestOutputDiskFull: output that can't be kept is flagged, and the command not
// held up.
func TestOutputDiskFull(t *testing.T) {
	o := newOutput(1<<20, nil, func() (*os.File, error) { return nil, unix.ENOSPC })
	w, err := o.pipe()
	if err != nil {
		t.Fatal(err)
	}
	o.start(logging.New(io.Discard, "agent", false))
	for range 10 {
		if _, err := unix.Write(w, make([]byte, 64<<10)); err != nil {
			t.Error(err)
		}
	}
	_ = unix.Close(w)
	o.finish(time.Now().Add(5 * time.Second))
	if !o.truncated {
		t.Error("not flagged as truncated")
	}
	o.close()
}

// TestOutputAtDeadline: what the command wrote before it ended is taken even if nothing
// was before the time for that was up.
func TestOutputAtDeadline(t *testing.T) {
	for _, held := range []bool{true, false} { // by something that the command left
		o := newOutput(1<<20, nil, func() (*os.File, error) { return tempFile(t.TempDir()) })
		w, err := o.pipe()
		if err != nil {
			t.Fatal(err)
		}
		const size = 60 << 10
		if n, err := unix.Write(w, make([]byte, size)); n != size || err != nil {
			t.Fatal(n, err)
		}
		if !held {
			_ = unix.Close(w)
		}
		past := time.Now().Add(-time.Second)
		o.deadline.Store(&past)
		o.start(logging.New(io.Discard, "agent", false))
		o.finish(past)
		if o.size != size || o.held != held || o.truncated {
			t.Errorf("%d bytes of %d, held %v, truncated %v", o.size, size, o.held, o.truncated)
		}
		if held {
			_ = unix.Close(w)
		}
		o.close()
	}
}
