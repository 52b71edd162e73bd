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
