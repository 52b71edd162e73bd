//go:build linux

package initd_test

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFirstThreadStandsAside: the first thread of PID 1 has those signals open that
// are left to the kernel, all the time, since it handles no others: with one of them
// blocked there, Linux 6.1 takes that one for the end of PID 1 (FAULTS.md 2: "Every
// signal 1–64 sent by root in the guest").
func TestFirstThreadStandsAside(t *testing.T) {
	g := bootWith(t)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/status", g.pid, g.pid))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^SigBlk:\s*([0-9a-f]+)$`).FindSubmatch(status)
	if m == nil {
		t.Fatalf("%s", status)
	}
	blocked, err := strconv.ParseUint(string(m[1]), 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	for n := unix.Signal(1); n <= 64; n++ {
		has := blocked&(1<<(n-1)) != 0
		switch n {
		case unix.SIGKILL, unix.SIGSTOP: // can't be blocked
		case unix.SIGSEGV, unix.SIGBUS, unix.SIGFPE, unix.SIGILL, unix.SIGTRAP, unix.SIGABRT, unix.SIGSYS, unix.SIGSTKFLT, unix.SIGCHLD, 32, 33, 34:
			if has {
				t.Errorf("signal %d is blocked", n)
			}
		default:
			if !has {
				t.Errorf("signal %d is not", n)
			}
		}
	}
}
