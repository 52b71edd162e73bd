//go:build linux

package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const shimUsage = "usage: hf-exec STEP=VALUE… exec=PATH ARG…: how hf-agent starts a command with limits\n"

// A shimCall is a step that is ready to be taken.
type shimCall func() syscall.Errno

// Shim is hf-exec: it takes the steps of its command line and becomes the command.
func Shim(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	if len(args) == 2 && (args[1] == "-h" || args[1] == "--help") {
		fmt.Fprint(stdout, shimUsage)
		return 0
	}
	calls, err := shimCalls(args[1:])
	if err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", args[0], err)
		return 2
	}
	runtime.LockOSThread() // whose user changes
	unix.CloseOnExec(reportFD)
	// This fails, but first gives back the limit on open files that Go has raised.
	_ = syscall.Exec("", nil, nil)
	// From here on there may be neither the memory nor the threads that the Go
	// runtime would ask for: nothing is allocated, and no call tells the scheduler.
	for i, call := range calls {
		if errno := call(); errno != 0 {
			report := [2]byte{byte(i), byte(errno)}
			_, _, _ = syscall.RawSyscall(unix.SYS_WRITE, reportFD, uintptr(unsafe.Pointer(&report)), uintptr(len(report)))
			break
		}
	}
	_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 126, 0, 0)
	return 126
}

// shimCalls makes the calls of a command line, of which the last does not come back.
func shimCalls(words []string) (calls []shimCall, err error) {
	for i, word := range words {
		what, value, _ := strings.Cut(word, "=")
		var next shimCall
		if what == "exec" {
			next, err = execCall(value, words[i+1:])
			return append(calls, next), err
		}
		if next, err = stepCall(what, value); err != nil {
			return nil, fmt.Errorf("%q: %w", word, err)
		}
		calls = append(calls, next)
	}
	return nil, errors.New("there is no exec=PATH")
}

func execCall(path string, words []string) (shimCall, error) {
	if len(words) == 0 {
		return nil, errors.New("exec: want arguments")
	}
	var marked []string
	for _, word := range os.Environ() {
		if word, ok := strings.CutPrefix(word, envMark); ok {
			marked = append(marked, word)
		}
	}
	name, err := syscall.BytePtrFromString(path)
	argv, argvErr := syscall.SlicePtrFromStrings(words)
	env, envErr := syscall.SlicePtrFromStrings(marked)
	return func() syscall.Errno {
		_, _, errno := syscall.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(name)), uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&env[0])))
		return errno
	}, errors.Join(err, argvErr, envErr)
}

// stepCall makes the call of a step.
func stepCall(what, value string) (shimCall, error) {
	switch what {
	case "write":
		file, text, _ := strings.Cut(value, ":")
		fd, err := retry(func() (int, error) { return unix.Open(file, unix.O_WRONLY|unix.O_CLOEXEC, 0) })
		var failed syscall.Errno
		errors.As(err, &failed)
		content, err := syscall.BytePtrFromString(text)
		return func() syscall.Errno {
			if failed != 0 {
				return failed
			}
			_, _, errno := syscall.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(content)), uintptr(len(text)))
			return errno
		}, err
	case "rlimit":
		n, err := shimNumbers(value, ":", 64, 3)
		return func() syscall.Errno {
			limit := unix.Rlimit{Cur: n[1], Max: n[2]}
			_, _, errno := syscall.RawSyscall6(unix.SYS_PRLIMIT64, 0, uintptr(n[0]), uintptr(unsafe.Pointer(&limit)), 0, 0, 0)
			return errno
		}, err
	case "groups":
		n, err := shimNumbers(value, ",", 32, strings.Count(value, ",")+min(len(value), 1))
		gids := make([]uint32, len(n)+1) // one, to have an address
		for i := range n {
			gids[i] = uint32(n[i])
		}
		return func() syscall.Errno {
			_, _, errno := syscall.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(n)), uintptr(unsafe.Pointer(&gids[0])), 0)
			return errno
		}, err
	case "chdir":
		dir, err := syscall.BytePtrFromString(value)
		return func() syscall.Errno {
			_, _, errno := syscall.RawSyscall(unix.SYS_CHDIR, uintptr(unsafe.Pointer(dir)), 0, 0)
			return errno
		}, err
	case "gid":
		return numberCall(value, unix.SYS_SETGID)
	case "uid":
		return numberCall(value, unix.SYS_SETUID)
	case "umask":
		return numberCall(value, unix.SYS_UMASK) // which does not fail
	case "pdeathsig":
		return numberCall(value, unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG)
	}
	return nil, errors.New("there is no such step")
}

// numberCall makes a system call whose last argument is a number.
func numberCall(value string, trap uintptr, first ...uintptr) (shimCall, error) {
	n, err := shimNumbers(value, ":", 32, 1)
	if err != nil {
		return nil, err
	}
	args := append(first, uintptr(n[0]), 0)
	return func() syscall.Errno {
		_, _, errno := syscall.RawSyscall(trap, args[0], args[1], 0)
		return errno
	}, nil
}

// shimNumbers reads so many numbers of so many bits.
func shimNumbers(list, sep string, bits, count int) (n []uint64, err error) {
	if count == 0 {
		return nil, nil
	}
	for word := range strings.SplitSeq(list, sep) {
		v, err := strconv.ParseUint(word, 10, bits)
		if err != nil {
			return nil, err
		}
		n = append(n, v)
	}
	if len(n) != count {
		return nil, fmt.Errorf("want %d numbers", count)
	}
	return n, nil
}
