//go:build linux

package initd_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A storm of signals of all kinds, to the process and to each of its threads, with
// all that a sender can claim about them, leaves init alive and at work
// (FAULTS.md 2: "Every signal 1–64 sent by root in the guest").
func TestSignalStorm(t *testing.T) {
	g := bootWith(t)
	g.run("hfx", "storm", "10000")
	if !g.isAlive() {
		t.Fatal("process 1 ended with ", g.end())
	}
	before := len(g.processes())
	g.run("hfx", "orphans", "20")
	eventually(t, "orphans are reaped", func() bool { return len(g.processes()) <= before })
	g.ping()
	if n := len(g.find("hf-agent")); n != 1 {
		t.Errorf("%d agents", n)
	}
}

// storm sends PID 1 a number of signals, in every way that the kernel has.
func storm(args []string) error {
	// Of what a sender may say about itself the kernel refuses only that it is the
	// kernel, and SI_TKILL.
	codes := []int32{-1, -2, -3, -4, -5, -60, -1 << 31}
	r := rand.New(rand.NewPCG(1, 2))
	for range number(args[0]) {
		n := 1 + r.IntN(64)
		switch unix.Signal(n) {
		case unix.SIGKILL, unix.SIGSTOP, unix.SIGTERM, unix.SIGINT:
			continue
		}
		tasks, _ := filepath.Glob("/proc/1/task/*")
		if len(tasks) == 0 {
			return errors.New("PID 1 has no threads")
		}
		tid, _ := strconv.Atoi(filepath.Base(tasks[r.IntN(len(tasks))]))
		info := siginfo(n, codes[r.IntN(len(codes))])
		var err unix.Errno
		switch r.IntN(4) {
		case 0:
			_, _, err = unix.Syscall(unix.SYS_KILL, 1, uintptr(n), 0)
		case 1:
			_, _, err = unix.Syscall(unix.SYS_TGKILL, 1, uintptr(tid), uintptr(n))
		case 2:
			_, _, err = unix.Syscall(unix.SYS_RT_SIGQUEUEINFO, 1, uintptr(n), uintptr(unsafe.Pointer(&info)))
		case 3:
			_, _, err = unix.Syscall6(unix.SYS_RT_TGSIGQUEUEINFO, 1, uintptr(tid), uintptr(n), uintptr(unsafe.Pointer(&info)), 0, 0)
		}
		// EAGAIN: as many real-time ones wait as may. ESRCH: the thread has ended.
		if err != 0 && err != unix.EAGAIN && err != unix.ESRCH {
			return fmt.Errorf("signal %d: %w", n, err)
		}
	}
	return unix.Kill(1, 0)
}

// siginfo is a siginfo_t; see sigaction(2).
func siginfo(n int, code int32) (info [128]byte) {
	*(*int32)(unsafe.Pointer(&info[0])) = int32(n)
	*(*int32)(unsafe.Pointer(&info[8])) = code
	*(*int32)(unsafe.Pointer(&info[16])) = int32(os.Getpid())
	return info
}

// Whatever signal the agent gets, it or the next one answers. Those that stop a
// process are left out: there is no defence against root's SIGSTOP.
func TestAgentSignals(t *testing.T) {
	g := bootWith(t)
	g.provoke = true
	stops := []unix.Signal{unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU}
	first := g.agent()
	for n := unix.Signal(1); n <= 64; n++ {
		if slices.Contains(stops, n) {
			continue
		}
		eventually(t, "an agent", func() bool { // the last one may still be dying
			pid := g.agent()
			outside := g.lookOutside(pid)
			return pid != 0 && outside != 0 && unix.Kill(outside, n) == nil
		})
		if err := g.Wait(soon(t)); err != nil { // the one that is dying may still accept a connection
			t.Fatalf("signal %d: %v", n, err)
		}
	}
	if g.agent() == first {
		t.Error("none of them was the end of the agent")
	}
	g.run("hfx", "exit", "0")
	if !g.isAlive() {
		t.Error("process 1 ended with ", g.end())
	}
}
