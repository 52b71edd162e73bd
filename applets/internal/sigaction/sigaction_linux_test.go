package sigaction

import (
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCatch: a signal that is caught does nothing, whichever thread gets it, and what
// is executed gets it with its default action, even where it was ignored before.
func TestCatch(t *testing.T) {
	signal.Ignore(unix.SIGUSR1)
	Catch(unix.SIGUSR1, unix.SIGUSR2, unix.SIGTSTP)
	for _, n := range []unix.Signal{unix.SIGUSR1, unix.SIGUSR2, unix.SIGTSTP} {
		for range 1000 {
			if err := unix.Kill(os.Getpid(), n); err != nil {
				t.Fatal(err)
			}
		}
	}
	out, err := exec.Command("sed", "-n", "s/^SigIgn://p", "/proc/self/status").Output()
	if err != nil {
		t.Fatal(err)
	}
	ignored, err := strconv.ParseUint(strings.TrimSpace(string(out)), 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	if ignored&(1<<(unix.SIGUSR1-1)|1<<(unix.SIGUSR2-1)|1<<(unix.SIGTSTP-1)) != 0 {
		t.Errorf("SigIgn: %#x", ignored)
	}
}
