//go:build linux

package agent

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A timer wakes a goroutine after less than a millisecond, which time.Sleep, whose
// clock is the poller's time limit, does not. See timerfd_create(2).
type timer struct {
	*os.File
	fd int
}

func newTimer() (*timer, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("timerfd_create", err)
	}
	return &timer{os.NewFile(uintptr(fd), "timer"), fd}, nil
}

func (t *timer) wait(d time.Duration) {
	if unix.TimerfdSettime(t.fd, 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}, nil) == nil {
		var count [8]byte
		_, _ = t.Read(count[:])
	}
}
