//go:build linux

package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/hyperfleet/init/applets/client"
)

// large is the size of the files for which memory is to be flat. Where a processor
// is emulated, a hundred megabytes would be all that a run has time for.
func (s *suite) large() int64 {
	if s.scale > 1 {
		return 8 << 20
	}
	return 100 << 20
}

// What the agent and the floors read and write.
const (
	fileName  = "/tmp/hf-bench"
	floorName = "/tmp/hf-bench-floor"
)

func sizeName(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 1<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d KiB", n>>10)
}

// pattern is content of no pattern that anything could make use of.
func pattern(n int64) []byte {
	const whole = 1 << 20 // and again
	b := make([]byte, n)
	x := uint64(n)*0x9E3779B97F4A7C15 + 1
	for i := range min(n, whole) {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x)
	}
	for done := int64(whole); done < n; done *= 2 {
		copy(b[done:], b[:done])
	}
	return b
}

// files is of version 1's: content as base64 in one line.
func (s *suite) files() error {
	for _, c := range []struct {
		size   int64
		rounds int
		limit  time.Duration
	}{{1 << 10, 3000, 4 * time.Second}, {1 << 20, 300, 4 * time.Second}, {s.large(), 15, 12 * time.Second}} {
		if !s.wants("file_write", sizeName(c.size)) && !s.wants("file_read", sizeName(c.size)) {
			continue
		}
		if err := s.filesOf(c.size, c.rounds, c.limit); err != nil {
			return err
		}
	}
	return nil
}

func (s *suite) filesOf(size int64, rounds int, limit time.Duration) error {
	encoded := base64.StdEncoding.EncodeToString(pattern(size))
	defer s.remove(fileName)
	defer s.remove(floorName)
	write := []byte(`{"operation":"file_write","path":"` + fileName + `","content":"` + encoded + `"}` + "\n")
	read := []byte(`{"operation":"file_read","path":"` + fileName + `"}` + "\n")
	cat := s.floor["cat"]
	catTo := append(fmt.Appendf(nil, "w %d %s\n", len(encoded), floorName), encoded...)
	catFrom := fmt.Appendf(nil, "r 0 %s\n", floorName)
	c := contest{group: "file_write", name: sizeName(size), bytes: size, rounds: rounds, limit: limit, reach: atLeast(0.7)}
	c.figure = timed(func() error { return s.once(s.agent, func(c *conn) error { return c.call(write) }) })
	c.floors = []named{{"cat of the base64", timed(func() error {
		return s.once(cat, func(c *conn) error {
			if _, err := c.Write(catTo); err != nil {
				return err
			}
			return c.full(1)
		})
	})}}
	if err := s.contest(c); err != nil {
		return err
	}
	if err := errors.Join(s.place(fileName, pattern(size)), s.place(floorName, []byte(encoded))); err != nil {
		return err
	}
	c.group = "file_read"
	c.figure = timed(func() error { return s.once(s.agent, func(c *conn) error { return c.call(read) }) })
	c.floors = []named{{"cat of the base64", timed(func() error {
		return s.once(cat, func(c *conn) error {
			if _, err := c.Write(catFrom); err != nil {
				return err
			}
			return c.full(int64(len(encoded)))
		})
	})}}
	return s.contest(c)
}

// streams is of file_get and file_put by the Go client, as a host has it.
func (s *suite) streams() error {
	const target = fileName + "-put"
	large := s.large()
	if !s.wants("file_get", sizeName(large)) && !s.wants("file_put", sizeName(large)) {
		return nil
	}
	source, err := os.CreateTemp("", "hf-bench-") // on this side
	if err != nil {
		return err
	}
	defer os.Remove(source.Name())
	defer source.Close()
	_, err = source.Write(pattern(large))
	if err := errors.Join(err, s.place(fileName, pattern(large))); err != nil {
		return err
	}
	for _, path := range []string{fileName, floorName, target} {
		defer s.remove(path)
	}
	ctx := context.Background()
	c := contest{group: "file_get", name: sizeName(large), bytes: large, rounds: 40, limit: 8 * time.Second, reach: atLeast(0.9)}
	c.figure = timed(func() error {
		_, err := s.client.Get(ctx, fileName, io.Discard, client.GetOptions{})
		return err
	})
	c.floors = []named{{"sendfile", timed(func() error { return s.getFloor() })}}
	if err := s.contest(c); err != nil {
		return err
	}
	c.group = "file_put"
	c.figure = timed(func() error {
		_, err := source.Seek(0, io.SeekStart)
		if err == nil {
			_, err = s.client.Put(ctx, target, source, client.PutOptions{})
		}
		return err
	})
	c.floors = []named{{"sendfile and splice", timed(func() error { return s.putFloor(source) })}}
	return s.contest(c)
}

// getFloor has the kernel send the file, and reads it as the client does.
func (s *suite) getFloor() error {
	return s.once(s.floor["copy"], func(c *conn) error {
		if _, err := fmt.Fprintf(c, "g %d %s\n", s.large(), fileName); err != nil {
			return err
		}
		return c.full(s.large())
	})
}

// putFloor has the kernel send it, and the kernel write it on the other side.
func (s *suite) putFloor(source *os.File) error {
	return s.once(s.floor["copy"], func(c *conn) error {
		if _, err := source.Seek(0, io.SeekStart); err != nil {
			return err
		}
		if _, err := c.Write(fmt.Appendf(nil, "p %d %s\n", s.large(), floorName)); err != nil {
			return err
		}
		if err := c.full(1); err != nil {
			return err
		}
		if err := c.sendfile(source, int(s.large())); err != nil {
			return err
		}
		return c.full(1)
	})
}

// peaks sums up what memory the largest rows took.
func (s *suite) peaks() error {
	group, name := "memory", "peak above idle, files of "+sizeName(s.large())
	if s.peak == 0 || !s.wants(group, name) {
		return nil
	}
	r := row{Where: s.where, Group: group, Name: name, Unit: "MB", Figure: summarize([]float64{float64(s.peak) * 1024 / 1e6}), Reach: atMost(4)}
	r.judge()
	return s.tell(r)
}
