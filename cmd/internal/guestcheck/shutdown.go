//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// innerImage is an ext4 image that the suite puts on the disk.
const innerImage = "/srv/inner.img"

// stackChecks leave mounts that hold each other, all of them written to, for the
// shutdown to take apart in order.
func stackChecks() []check {
	return []check{
		{"a loop device", func() (string, error) { return "", loopMount("/srv/inner") }},
		{"an overlay on the loop", func() (string, error) {
			if err := modprobe("/lib/modules", "overlay"); err != nil {
				return "", err
			}
			if err := errors.Join(os.Mkdir("/srv/inner/upper", 0o755), os.Mkdir("/srv/inner/work", 0o755)); err != nil {
				return "", err
			}
			return "", mountOn("/srv/merged", "overlay", "overlay", 0, "lowerdir=/usr/bin,upperdir=/srv/inner/upper,workdir=/srv/inner/work")
		}},
		{"a bind mount of the overlay", func() (string, error) {
			return "", mountOn("/srv/bind", "/srv/merged", "", unix.MS_BIND, "")
		}},
		{"a load through all of them", func() (string, error) {
			if err := exec.Command(self, "load", "/srv/bind/load").Start(); err != nil {
				return "", err
			}
			return "", written("/srv/inner/upper/load/*")
		}},
		{"a tmpfs on the bind mount", func() (string, error) { return "", mountOn("/srv/bind", "top", "tmpfs", 0, "") }},
		{"a swap file", func() (string, error) { return "", swapOn() }},
		{"a write load starts", startLoad},
		{"the disk on the loop over /sys", func() (string, error) { return "", mountOn("/sys", "/srv/inner", "", unix.MS_BIND, "") }},
	}
}

func mountOn(target, source, fstype string, flags uintptr, data string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		return &os.PathError{Op: "mount", Path: target, Err: err}
	}
	return nil
}

// loopMount mounts the inner image; see loop(4).
func loopMount(target string) error {
	if err := modprobe("/lib/modules", "loop"); err != nil {
		return err
	}
	var device *os.File
	err := eventually(10*time.Second, func() (err error) { // until the node is made
		device, err = os.OpenFile("/dev/loop0", os.O_RDWR, 0)
		return err
	})
	if err != nil {
		return err
	}
	defer device.Close()
	image, err := os.OpenFile(innerImage, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer image.Close()
	if err := unix.IoctlSetInt(int(device.Fd()), unix.LOOP_SET_FD, int(image.Fd())); err != nil {
		return os.NewSyscallError("LOOP_SET_FD", err)
	}
	return mountOn(target, "/dev/loop0", "ext4", 0, "")
}

// hungChecks leave what a shutdown can't end, and what it can hardly catch.
func hungChecks() []check {
	return []check{
		{"a process that can't be killed", startHung},
		{"processes that fork and ignore TERM", func() (string, error) { return "", exec.Command(self, "rabbits", "8").Start() }},
		{"the agent beside them", func() (string, error) { return "", ping() }},
	}
}

const (
	hungMount = "/srv/hung"
	hungMark  = "/run/hung"
)

// startHung starts a file server that waits for its own answer, kills it, and
// sees that this does not end it.
func startHung() (string, error) {
	if err := modprobe("/lib/modules", "fuse"); err != nil {
		return "", err
	}
	cmd := exec.Command(self, "hang")
	if err := cmd.Start(); err != nil {
		return "", err
	}
	if err := eventually(20*time.Second, func() error { _, err := os.Stat(hungMark); return err }); err != nil {
		return "", err
	}
	if err := cmd.Process.Kill(); err != nil {
		return "", err
	}
	var states string
	err := eventually(20*time.Second, func() error {
		states = ""
		stats, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", cmd.Process.Pid))
		for _, path := range stats {
			b, _ := os.ReadFile(path)
			_, after, _ := strings.Cut(string(b), ") ")
			states += after[:min(1, len(after))]
		}
		if !strings.Contains(states, "D") {
			return fmt.Errorf("its threads are in states %q: this tests nothing", states)
		}
		return nil
	})
	return "states " + states, err
}

// hang is a command: a FUSE server that answers nothing but the greeting, and
// looks for a file of its own. The thread that does waits in state D once it is
// killed, and holds open the very descriptor whose closing would end the wait.
// See fuse(4).
func hang(_ []string, _ io.Reader, _, stderr io.Writer) int {
	fail := func(err error) int { fmt.Fprintln(stderr, "hang:", err); return 1 }
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail(&os.PathError{Op: "open", Path: "/dev/fuse", Err: err})
	}
	if err := mountOn(hungMount, "hung", "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)); err != nil {
		return fail(err)
	}
	go func() { _ = unix.Stat(hungMount+"/file", new(unix.Stat_t)) }()
	const fuseInit = 26
	request := make([]byte, 1<<16)
	for {
		n, err := unix.Read(fd, request)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || n < 40 {
			return fail(fmt.Errorf("read: %d bytes, %w", n, err))
		}
		if binary.NativeEndian.Uint32(request[4:]) != fuseInit {
			if err := os.WriteFile(hungMark, nil, 0o644); err != nil {
				return fail(err)
			}
			continue
		}
		// A fuse_out_header and a fuse_init_out of version 7.31.
		reply := binary.NativeEndian.AppendUint32(nil, 16+64)
		reply = binary.NativeEndian.AppendUint32(reply, 0)
		reply = append(reply, request[8:16]...) // which request it is
		for _, word := range []uint32{7, 31, 0, 0, 0, 4096, 1} {
			reply = binary.NativeEndian.AppendUint32(reply, word)
		}
		if _, err := unix.Write(fd, append(reply, make([]byte, 16+64-len(reply))...)); err != nil {
			return fail(os.NewSyscallError("write", err))
		}
	}
}

// shutdownCommands are what the checks of the last three files run.
func shutdownCommands() map[string]command {
	return map[string]command{
		"kill-self": killSelf, "escape": escape, "rabbits": rabbits, "group": group,
		"flood": flood, "hang": hang,
	}
}
