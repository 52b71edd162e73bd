//go:build linux

package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// The suite gives the machine 96 MiB of memory: what is moved is larger.
const (
	bigSize   = 100 << 20
	bigFile   = "/srv/big"
	maxMemory = 16_000_000 // bytes that the agent may have had resident at its peak
)

// diskChecks move more than fits into memory, and leave a disk that is being
// written to for the shutdown to make clean.
func diskChecks() []check {
	return []check{
		{"root is the disk", func() (string, error) {
			m := mount{"/", "ext4", "rw"}
			return "", m.check()
		}},
		{"memory is scarce", func() (string, error) {
			total, err := kilobytes("/proc/meminfo", "MemTotal")
			if err == nil && total > 100<<10 {
				err = errors.New("there is plenty: this tests nothing")
			}
			return fmt.Sprintf("%d kB", total), err
		}},
		{"100 MiB there", bigWrite},
		{"100 MiB back", bigRead},
		{"the agent's memory", agentMemory},
		{"a write load starts", startLoad},
		{"what a shutdown has to find", hideWork},
	}
}

// stream returns size bytes that depend on nothing but the seed.
func stream() io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{1}), bigSize)
}

func streamSum() []byte {
	h := sha256.New()
	io.Copy(h, stream())
	return h.Sum(nil)
}

func bigWrite() (string, error) {
	begin := time.Now()
	cmd := exec.Command("hf-vsock-client", "write", "--timeout", "4m", bigFile)
	cmd.Stdin = stream()
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	note := fmt.Sprintf("%.1f s", time.Since(begin).Seconds())
	f, err := os.Open(bigFile)
	if err != nil {
		return note, err
	}
	defer f.Close()
	return note, sameSum(f)
}

func bigRead() (string, error) {
	begin := time.Now()
	cmd := exec.Command("hf-vsock-client", "read", "--timeout", "4m", bigFile)
	var errout strings.Builder
	cmd.Stderr = &errout
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	sum := sameSum(out)
	if err := cmd.Wait(); err != nil {
		return "", fmt.Errorf("%w: %s", err, errout.String())
	}
	return fmt.Sprintf("%.1f s", time.Since(begin).Seconds()), sum
}

func sameSum(r io.Reader) error {
	h := sha256.New()
	n, err := io.Copy(h, r)
	if err == nil && (n != bigSize || string(h.Sum(nil)) != string(streamSum())) {
		err = fmt.Errorf("%d bytes came, and not the ones that were sent", n)
	}
	return err
}

// agentMemory holds the agent to its bound. It must be the agent that did the
// work: one that was started anew would know nothing of the peak.
func agentMemory() (string, error) {
	pid, err := agent()
	if err != nil {
		return "", err
	}
	peak, err := kilobytes(fmt.Sprintf("/proc/%d/status", pid), "VmHWM")
	if err == nil && peak*1024 > maxMemory {
		err = fmt.Errorf("the peak was %d kB", peak)
	}
	first, _ := kilobytes("/proc/1/status", "VmHWM")
	return fmt.Sprintf("peak resident: agent %d kB, init %d kB", peak, first), err
}

// kilobytes reads one line of a file such as /proc/meminfo.
func kilobytes(path, field string) (int, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	m := regexp.MustCompile(`(?m)^` + field + `:\s+(\d+) kB`).FindSubmatch(b)
	if m == nil {
		return 0, fmt.Errorf("%s: no %s", path, field)
	}
	return strconv.Atoi(string(m[1]))
}

// startLoad leaves processes behind that write to the disk until they are ended.
func startLoad() (string, error) {
	for i := range 3 {
		cmd := exec.Command(self, "load", fmt.Sprintf("/srv/load%d", i))
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			return "", err
		}
	}
	return "", written("/srv/load*/*")
}

// written waits until there are files of that pattern.
func written(pattern string) error {
	return eventually(30*time.Second, func() error {
		if files, _ := filepath.Glob(pattern); len(files) < 10 {
			return fmt.Errorf("%d files are written", len(files))
		}
		return nil
	})
}

// hideWork leaves what a shutdown must undo to leave the disk clean, and makes it
// hard to find. PID 1 alone can tell it is there: hf-poweroff needs /proc.
func hideWork() (string, error) {
	if err := swapOn(); err != nil {
		return "", err
	}
	return "", syscall.Mount("hidden", "/proc", "tmpfs", 0, "")
}

// swapOn makes a swap file and has it used.
func swapOn() error {
	const swap = "/srv/swap file"
	page := make([]byte, os.Getpagesize())
	copy(page[1024:], []byte{1, 0, 0, 0, 255, 0, 0, 0}) // version 1, the last page: see mkswap(8)
	copy(page[len(page)-10:], "SWAPSPACE2")
	if err := os.WriteFile(swap, append(page, make([]byte, 255*len(page))...), 0o600); err != nil {
		return err
	}
	path, err := syscall.BytePtrFromString(swap)
	if err != nil {
		return err
	}
	if _, _, errno := syscall.Syscall(syscall.SYS_SWAPON, uintptr(unsafe.Pointer(path)), 0, 0); errno != 0 {
		return fmt.Errorf("swapon: %w", errno)
	}
	return nil
}

// load writes, renames and removes files, and never syncs.
func load(args []string, _ io.Reader, _, stderr io.Writer) int {
	dir := args[0]
	if err := os.MkdirAll(dir, 0o755); err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	for i := 0; ; i++ {
		name := filepath.Join(dir, strconv.Itoa(i%50))
		os.WriteFile(name+".new", allBytes(1000*(i%100)), 0o644)
		os.Rename(name+".new", name)
		if i%7 == 0 {
			os.Remove(name)
		}
	}
}
