//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	api "github.com/hyperfleet/init/applets/client"
	"golang.org/x/sys/unix"
)

// trafficChecks are Firecracker's cases for vsock, over the guest's loopback and
// smaller: hf-vm's nested machine has the full numbers, over the host's vhost.
//
// They want --peers=any, and leave the source port to the kernel, as a host does.
// There are only so many ports that prove a caller to be root, and vsock knows no
// TIME_WAIT: where an agent closes a connection after its client, the kernel sends
// a reset that ends the next connection from the same port, if that is there yet.
func trafficChecks() []check {
	var before int
	return []check{
		{"the agent's descriptors before", func() (_ string, err error) {
			before, err = agentFiles()
			return fmt.Sprint(before), err
		}},
		{"5 × 4 MiB there and back, by checksum", transfers},
		{"100 connections closed midway", midway},
		{"a storm of 64 × 30 connections", storm},
		{"the agent's descriptors afterwards", func() (string, error) {
			return fmt.Sprint(before), eventually(30*time.Second, func() error {
				now, err := agentFiles()
				if err == nil && now > before {
					err = fmt.Errorf("%d are open, %d were before", now, before)
				}
				return err
			})
		}},
	}
}

// agentFiles counts the agent's open descriptors.
func agentFiles() (int, error) {
	pid, err := agent()
	if err != nil {
		return 0, err
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return len(fds), err
}

// transfers moves contents that differ, at once, so that mixing any two up shows.
func transfers() (string, error) {
	const files, size = 5, 4 << 20
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	c := api.New(api.Vsock(unix.VMADDR_CID_LOCAL, api.DefaultPort))
	errs := make([]error, files)
	begin := time.Now()
	var wg sync.WaitGroup
	for i := range files {
		wg.Go(func() {
			content := make([]byte, size)
			_, _ = rand.NewChaCha8([32]byte{byte(i)}).Read(content)
			path := fmt.Sprintf("/tmp/transfer%d", i)
			defer os.Remove(path)
			if _, errs[i] = c.WriteFile(ctx, path, bytes.NewReader(content)); errs[i] != nil {
				return
			}
			back := sha256.New()
			n, err := c.ReadFile(ctx, path, back)
			if sum := sha256.Sum256(content); err == nil && !bytes.Equal(back.Sum(nil), sum[:]) {
				err = fmt.Errorf("%d bytes came back, and not the ones that were sent", n)
			}
			errs[i] = err
		})
	}
	wg.Wait()
	return fmt.Sprintf("%.1f s", time.Since(begin).Seconds()), errors.Join(errs...)
}

// midway leaves in the middle of requests and of replies, one after the other.
func midway() (string, error) {
	const file = "/tmp/midway"
	if err := os.WriteFile(file, allBytes(1<<20), 0o600); err != nil {
		return "", err
	}
	defer os.Remove(file)
	for i := range 100 {
		request := `{"operation":"file_write","path":"/tmp/never","content":"QUJD`
		if i%2 == 0 {
			request = `{"operation":"file_read","path":"` + file + `"}` + "\n"
		}
		if err := leave(request, i%2 == 0); err != nil {
			return "", fmt.Errorf("connection %d: %w", i, err)
		}
	}
	if _, err := os.Stat("/tmp/never"); err == nil {
		return "", errors.New("half a request was run")
	}
	return "", plainPing("--cid", "1")
}

// leave sends a request and closes the connection, once the reply has begun if it
// is to wait for that.
func leave(request string, wait bool) error {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_LOCAL, Port: 52}); err != nil {
		return os.NewSyscallError("connect", err)
	}
	if _, err := unix.Write(fd, []byte(request)); err != nil {
		return os.NewSyscallError("write", err)
	}
	if wait {
		n, err := unix.Read(fd, make([]byte, 1000))
		if err == nil && n <= 0 {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	return nil
}

// storm has 64 callers connect 30 times each. None may be refused.
func storm() (string, error) {
	const callers, calls = 64, 30
	errs := make([]error, callers)
	begin := time.Now()
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for range calls {
				n, err := call(unix.VMADDR_CID_LOCAL)
				if err == nil && n == 0 {
					err = errors.New("no answer")
				}
				if err != nil {
					errs[i] = err
					return
				}
			}
		})
	}
	wg.Wait()
	err := errors.Join(errs...)
	if err != nil {
		err = fmt.Errorf("%.300s", err.Error())
	}
	return fmt.Sprintf("%.0f connections per second", callers*calls/time.Since(begin).Seconds()), err
}
