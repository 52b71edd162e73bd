//go:build linux

package agent

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// kmsg is the kernel's log; see Documentation/ABI/testing/dev-kmsg.
const kmsg = "/dev/kmsg"

// A kernelLog reads the kernel's log, a record at a time.
type kernelLog struct {
	file *os.File
	raw  syscall.RawConn
	buf  []byte
	seq  uint64        // of the record that must come next; 0 before the first
	held *wire.LogLine // comes before any other
}

// maxRecord is the most that the kernel gives at once: CONSOLE_EXT_LOG_MAX before
// Linux 6.2, less since.
const maxRecord = 8 << 10

func openKernelLog() (logReader, error) {
	if !wholeMachine() {
		return nil, fmt.Errorf("%s is the machine's, and this is a container: %w", kmsg, unix.EPERM)
	}
	fd, err := unix.Open(kmsg, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: kmsg, Err: err}
	}
	return newKernelLog(os.NewFile(uintptr(fd), kmsg))
}

// wholeMachine tells whether this is the first pid namespace, which has the
// number PROC_PID_INIT_INO.
func wholeMachine() bool {
	var st unix.Stat_t
	return unix.Stat("/proc/self/ns/pid", &st) == nil && st.Ino == 0xEFFFFFFC
}

func newKernelLog(f *os.File) (*kernelLog, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &kernelLog{file: f, raw: raw, buf: make([]byte, maxRecord)}, nil
}

func (k *kernelLog) close() { _ = k.file.Close() }

func (k *kernelLog) await() error {
	return k.raw.Read(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, 0)
		return err == nil && n > 0
	})
}

func (k *kernelLog) next() (line wire.LogLine, ok bool, err error) {
	if k.held != nil {
		line, k.held = *k.held, nil
		return line, true, nil
	}
	for {
		var n int
		var failed error
		// Not by raw.Read, for which it would wait while somebody awaits.
		err = k.raw.Control(func(fd uintptr) { n, failed = unix.Read(int(fd), k.buf) })
		switch err = cmp.Or(err, failed); {
		case errors.Is(err, unix.EPIPE), errors.Is(err, unix.EINTR):
			continue // after EPIPE, with the oldest record that is not overwritten
		case errors.Is(err, unix.EAGAIN), err == nil && n == 0:
			return line, false, nil
		case err != nil:
			return line, false, fmt.Errorf("read %s: %w", kmsg, err)
		}
		line, seq, ok := parseKmsg(k.buf[:n])
		if !ok {
			continue
		}
		expected := k.seq
		k.seq = seq + 1
		if expected > 0 && seq > expected {
			k.held = &line
			return wire.LogLine{
				Source: wire.LogKernel, TimeMS: line.TimeMS, Level: "warn",
				Message: fmt.Sprintf("(%d lines were overwritten before they were read)", seq-expected),
			}, true, nil
		}
		return line, true, nil
	}
}

// levelOf names the priorities of syslog(3).
func levelOf(priority uint64) string {
	return []string{"emerg", "alert", "crit", "err", "warn", "notice", "info", "debug"}[priority&7]
}

// parseKmsg reads a record: "priority,sequence,microseconds,flags[,…];message",
// and after the first line what the kernel tells to programs.
func parseKmsg(record []byte) (line wire.LogLine, seq uint64, ok bool) {
	head, message, ok := bytes.Cut(record, []byte(";"))
	fields := strings.Split(string(head), ",")
	if !ok || len(fields) < 3 {
		return line, 0, false
	}
	var numbers [3]uint64
	for i := range numbers {
		n, err := strconv.ParseUint(fields[i], 10, 64)
		if err != nil {
			return line, 0, false
		}
		numbers[i] = n
	}
	message, _, _ = bytes.Cut(message, []byte("\n"))
	return wire.LogLine{
		Source:  wire.LogKernel,
		TimeMS:  float64(numbers[2]) / 1000,
		Level:   levelOf(numbers[0]),
		Message: unescapeKmsg(string(message)),
	}, numbers[1], true
}

// unescapeKmsg undoes the \x0a that the kernel writes for what is not printable,
// and for a backslash.
func unescapeKmsg(s string) string {
	if !strings.Contains(s, `\x`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if i+3 < len(s) && s[i] == '\\' && s[i+1] == 'x' {
			if c, err := strconv.ParseUint(s[i+2:i+4], 16, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
