//go:build linux

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// bootChecks hold what boot must have made.
func bootChecks() []check {
	checks := []check{
		{"pid 1 is the init", func() (string, error) {
			exe, err := os.Readlink("/proc/1/exe")
			if err == nil && filepath.Base(exe) != "init" {
				err = fmt.Errorf("it is %s", exe)
			}
			return exe, err
		}},
		{"hostname", func() (string, error) {
			h, err := os.Hostname()
			if err == nil && h != "hyperfleet" {
				err = fmt.Errorf("it is %q", h)
			}
			return "", err
		}},
		{"loopback", loopback},
		{"ctrl-alt-del asks init", func() (string, error) {
			return "", sameText("/proc/sys/kernel/ctrl-alt-del", "0\n")
		}},
		{"links in shared directories are protected", func() (string, error) {
			return "", sameText("/proc/sys/fs/protected_symlinks", "1\n")
		}},
		{"a terminal opens", func() (string, error) {
			f, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
			if err == nil {
				f.Close()
			}
			return "", err
		}},
		{"no zombies", noZombies},
	}
	for _, l := range []struct{ path, to string }{
		{"/dev/fd", "/proc/self/fd"}, {"/dev/stdin", "/proc/self/fd/0"},
		{"/dev/stdout", "/proc/self/fd/1"}, {"/dev/stderr", "/proc/self/fd/2"},
	} {
		checks = append(checks, check{l.path, func() (string, error) {
			to, err := os.Readlink(l.path)
			if err == nil && to != l.to && to != strings.TrimPrefix(l.to, "/proc/") {
				err = fmt.Errorf("leads to %s", to)
			}
			return "", err
		}})
	}
	for _, m := range wantMounts() {
		checks = append(checks, check{"mount " + m.target, func() (string, error) { return "", m.check() }})
	}
	return checks
}

// A mount is what /proc/self/mounts must say.
type mount struct{ target, fstype, options string }

// wantMounts is written out here rather than taken from the program's table: a
// wrong table must fail.
func wantMounts() []mount {
	return []mount{
		{"/proc", "proc", "rw,nosuid,nodev,noexec"},
		{"/sys", "sysfs", "rw,nosuid,nodev,noexec"},
		{"/dev", "devtmpfs", "rw,nosuid,noexec,mode=755"},
		{"/dev/pts", "devpts", "rw,nosuid,noexec,gid=5,mode=620,ptmxmode=666"},
		{"/dev/shm", "tmpfs", "rw,nosuid,nodev,noexec"},
		{"/run", "tmpfs", "rw,nosuid,nodev,mode=755"},
		{"/tmp", "tmpfs", "rw,nosuid,nodev"},
		{"/sys/fs/cgroup", "cgroup2", "rw,nosuid,nodev,noexec"},
	}
}

func (m mount) check() error {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	err = errors.New("not mounted")
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 4 || f[1] != m.target {
			continue
		}
		err = nil // the last of several is the one that is seen
		if f[2] != m.fstype {
			err = fmt.Errorf("is %s, want %s", f[2], m.fstype)
		}
		for _, o := range strings.Split(m.options, ",") {
			if !slices.Contains(strings.Split(f[3], ","), o) {
				err = errors.Join(err, fmt.Errorf("has %s: no %s", f[3], o))
			}
		}
	}
	return err
}

func loopback() (string, error) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		return "", err
	}
	if lo.Flags&net.FlagUp == 0 {
		return "", errors.New("lo is down")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	c, err := net.DialTimeout("tcp", l.Addr().String(), 3*time.Second)
	if err != nil {
		return "", err
	}
	return "", c.Close()
}

func sameText(path, want string) error {
	b, err := os.ReadFile(path)
	if err == nil && string(b) != want {
		err = fmt.Errorf("%s holds %q, want %q", path, b, want)
	}
	return err
}
