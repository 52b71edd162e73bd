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
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// hostBig is how much is moved at once.
const hostBig = 20 << 20

// random returns the bytes of one transfer: no other has the same.
func random(seed byte) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{seed}), hostBig)
}

func sumOf(r io.Reader) [sha256.Size]byte {
	s := sha256.New()
	io.Copy(s, r)
	return [sha256.Size]byte(s.Sum(nil))
}

const hostFile = "/tmp/host-big"

// transfers moves 20 MiB to the guest and back, by checksum, again and again.
func (h *hostVM) transfers() (string, error) {
	var there, back time.Duration
	for i := range h.rounds {
		ctx, cancel := soon()
		defer cancel()
		begin := time.Now()
		if _, err := h.guest.WriteFile(ctx, hostFile, random(byte(i))); err != nil {
			return "", fmt.Errorf("round %d, there: %w", i, err)
		}
		there += time.Since(begin)
		begin = time.Now()
		got := sha256.New()
		if _, err := h.guest.ReadFile(ctx, hostFile, got); err != nil {
			return "", fmt.Errorf("round %d, back: %w", i, err)
		}
		back += time.Since(begin)
		if [sha256.Size]byte(got.Sum(nil)) != sumOf(random(byte(i))) {
			return "", fmt.Errorf("round %d: not the bytes that were sent", i)
		}
	}
	mib := float64(h.rounds) * hostBig / (1 << 20)
	return fmt.Sprintf("%.1f MiB/s there, %.1f MiB/s back", mib/there.Seconds(), mib/back.Seconds()), nil
}

// pause reads large replies but for the end, waits for longer than any VMM would,
// and reads the end: a file's and a command's.
func (h *hostVM) pause() (string, error) {
	ctx, cancel := soon()
	defer cancel()
	const size = 512 << 10
	if _, err := h.guest.WriteFile(ctx, hostFile, bytes.NewReader(allBytes(size))); err != nil {
		return "", err
	}
	return "", inParallel(2, 2, func(i int) error {
		request := []map[string]any{
			{"operation": "file_read", "path": hostFile},
			{"operation": "exec", "cmd": []string{self, "bytes", strconv.Itoa(size)}},
		}[i]
		r, err := h.pausing(object(request))
		if err == nil && !bytes.Equal(append(r.Data.Content, r.Data.Stdout...), allBytes(size)) {
			err = fmt.Errorf("%v: success %v, %d and %d bytes", request, r.Success, len(r.Data.Content), len(r.Data.Stdout))
		}
		return err
	})
}

// pausing asks twice: first to learn how long the reply is, and then to read it
// with a pause before its end. What is left fits the sockets between, so the
// agent has done its part and only has to stay.
func (h *hostVM) pausing(request string) (*rawReply, error) {
	var length int
	for _, pause := range []bool{false, true} {
		c, err := h.dial()
		if err != nil {
			return nil, err
		}
		defer c.Close()
		if _, err := io.WriteString(c, request); err != nil {
			return nil, err
		}
		var head []byte
		if pause {
			head = make([]byte, length-100<<10)
			if _, err := io.ReadFull(c.lines, head); err != nil {
				return nil, err
			}
			time.Sleep(5 * time.Second)
		}
		line, err := c.lines.ReadBytes('\n')
		length = len(head) + len(line)
		if err != nil {
			return nil, fmt.Errorf("after %d bytes of a reply: %w", length, err)
		}
		if pause {
			return parseReply(append(head, line...))
		}
	}
	panic("not reached")
}

// closes breaks connections off in the middle of everything, some at a time, and
// looks at what is left in the guest.
func (h *hostVM) closes() (string, error) {
	ctx, cancel := soon()
	defer cancel()
	files, processes, err := h.census(ctx)
	if err != nil {
		return "", err
	}
	if _, err := h.guest.WriteFile(ctx, hostFile, random(0)); err != nil {
		return "", err
	}
	big := object(map[string]any{"operation": "file_write", "path": hostFile, "content": allBytes(300_000)})
	requests := []string{
		object(map[string]any{"operation": "exec", "cmd": []string{self, "nap", "600000"}}),
		object(map[string]any{"operation": "file_read", "path": hostFile}),
		big,
		big[:len(big)/2],
		object(map[string]any{"operation": "exec", "cmd": []string{self, "litter", "3"}}),
	}
	if err := inParallel(8, 100, func(i int) error {
		c, err := h.dial()
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Duration(i%10) * 20 * time.Millisecond))
		if _, err := io.WriteString(c, requests[i%len(requests)]); err == nil {
			_, _ = c.Read(make([]byte, 1000))
		}
		return nil
	}); err != nil {
		return "", err
	}
	begin := time.Now()
	for {
		f, p, err := h.census(ctx)
		if err != nil {
			return "", err
		}
		if f <= files && p <= processes {
			return fmt.Sprintf("back to %d files, %d processes after %d ms", f, p, time.Since(begin).Milliseconds()), nil
		}
		if time.Since(begin) > time.Minute {
			return "", fmt.Errorf("%d files and %d processes, there were %d and %d", f, p, files, processes)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// census counts what a client that comes and goes must not leave behind.
func (h *hostVM) census(ctx context.Context) (files, processes int, err error) {
	out, err := h.run(ctx, "census")
	if err == nil {
		_, err = fmt.Sscan(out, &files, &processes)
	}
	return files, processes, err
}

// inParallel calls f with 0 to n-1, some of them at a time.
func inParallel(workers, n int, f func(int) error) error {
	var wg sync.WaitGroup
	work := make(chan int)
	errs := make([]error, n)
	for range workers {
		wg.Go(func() {
			for i := range work {
				errs[i] = f(i)
			}
		})
	}
	for i := range n {
		work <- i
	}
	close(work)
	wg.Wait()
	failed := 0
	for _, err := range errs {
		if err != nil {
			failed++
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d: %.500s", failed, n, errors.Join(errs...).Error())
	}
	return nil
}

// storm has 64 connections at every moment, each of which must be served.
func (h *hostVM) storm() (string, error) {
	const workers, each = 64, 30
	begin := time.Now()
	err := inParallel(workers, workers*each, func(int) error { return expectSuccess(h.say(`{"operation":"ping"}` + "\n")) })
	return fmt.Sprintf("%.0f connections/s", workers*each/time.Since(begin).Seconds()), err
}

// paused has a call meet a guest that stands still for longer than the kernel tries
// to connect to it.
func (h *hostVM) paused() (string, error) {
	ctx, cancel := soon()
	defer cancel()
	if err := h.machine.Signal(unix.SIGSTOP); err != nil {
		return "", err
	}
	answered := make(chan error, 1)
	go func() { answered <- h.guest.Ping(ctx) }()
	var early error
	select {
	case err := <-answered:
		early = fmt.Errorf("it did not wait: %v", err)
	case <-time.After(5 * time.Second):
	}
	if err := h.machine.Signal(unix.SIGCONT); err != nil || early != nil {
		return "", errors.Join(early, err)
	}
	return "", <-answered
}
