//go:build linux

package initd_test

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/nsguest"
	"golang.org/x/sys/unix"
)

// What the binary may take. The times and the exact sizes are hf-bench's. Of its size
// zstd is half a megabyte, without which it would fit 5 MB.
const (
	sizeFigure   = 5_600_000 // bytes, stripped
	memoryFigure = 8 << 10   // KiB, of all processes of an idle guest
)

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

// firstPing returns how long a guest took from exec of /init to the first ping
// answered.
func (g *guest) firstPing() time.Duration {
	for {
		if _, err := os.Lstat(g.path(socket)); err == nil {
			break
		}
		time.Sleep(100 * time.Microsecond)
	}
	for g.Ping(soon(g.t)) != nil { // there, and not yet listening
		time.Sleep(50 * time.Microsecond)
	}
	then, err := nsguest.Started(g.pid)
	if err != nil {
		g.t.Fatal(err)
	}
	return nsguest.Clock() - then
}

// TestFigures holds the binary to what memory it may take, and boot and shutdown
// to waiting for nothing.
func TestFigures(t *testing.T) {
	if raced {
		t.Skip("not under the race detector")
	}
	binary := hf(t)
	attempts(t, func() error {
		g := start(t, stage{Binary: binary, Args: []string{"--power-off=poweroff"}}, nil)
		if boot := g.firstPing(); boot > 5*time.Second { // half of what the modules may take
			return fmt.Errorf("boot: %v", boot)
		}
		checkMemory(t, g)
		g.signal(1, unix.SIGTERM)
		g.wantEnd("power off")
		return g.inTime()
	})
}

func checkMemory(t *testing.T, g *guest) {
	t.Helper()
	sizes, err := nsguest.PSS(g.path("/proc"))
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, n := range sizes {
		total += n
	}
	t.Logf("memory: %v KiB", sizes)
	if total > memoryFigure || len(sizes) != 2 {
		t.Errorf("memory: %d KiB, want %d", total, memoryFigure)
	}
}

// TestSize holds the binary to what a root filesystem has room for.
func TestSize(t *testing.T) {
	info, err := os.Stat(hf(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes", info.Size())
	if info.Size() > sizeFigure {
		t.Errorf("%d bytes, want %d", info.Size(), sizeFigure)
	}
}
