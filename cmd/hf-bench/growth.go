//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/nsguest"
)

// A growth is how something changes with the number or the size of something else.
type growth struct {
	name   string
	unit   string // of the points
	reach  *reach // of the last point as a multiple of the first
	label  func(x float64) string
	points []point
}

// tellGrowth makes two rows of it: time, and the agent's memory.
func (s *suite) tellGrowth(g growth) error {
	first, last, most := g.points[0], g.points[len(g.points)-1], 0
	times := row{Where: s.where, Group: "growth", Name: g.name, Unit: "×", Figure: summarize([]float64{last.Y / first.Y}), Reach: g.reach, Points: g.points}
	for i, p := range g.points {
		times.Note += fmt.Sprintf("%s%s %s %s", separator(i), g.label(p.X), number(p.Y), g.unit)
		most = max(most, p.RSSKiB-first.RSSKiB)
	}
	memory := row{Where: s.where, Group: "growth", Name: g.name + ": agent's memory", Unit: "MB", Figure: summarize([]float64{float64(most) * 1024 / 1e6}), Reach: atMost(4)}
	for _, r := range []row{times, memory} {
		r.judge()
		if err := s.tell(r); err != nil {
			return err
		}
	}
	return nil
}

func separator(i int) string {
	if i == 0 {
		return ""
	}
	return ", "
}

func counted(x float64) string { return fmt.Sprintf("%.0f:", x) }
func sized(x float64) string   { return sizeName(int64(x)) + ":" }

// medianOf is the median of what an action takes, in µs, and what the agent then has
// in memory.
func (s *suite) medianOf(rounds int, do action) (float64, int, error) {
	rounds, limit := s.least(rounds, 3*time.Second)
	seconds, err := alternate(rounds, limit, do)
	if err != nil {
		return 0, 0, err
	}
	rss, err := nsguest.Field(fmt.Sprintf("/proc/%d/status", s.watched[1]), "VmRSS")
	return summarize(seconds[0]).Median * 1e6, rss, err
}

// growConnections pings beside ever more connections that wait.
func (s *suite) growConnections() error {
	const name = "connections, 1 to 1,000: ping"
	if !s.wants("growth", name) {
		return nil
	}
	var kept []*conn
	defer func() {
		for _, c := range kept {
			_ = c.Close()
		}
	}()
	var points []point
	for _, n := range []int{1, 10, 100, 990} { // and a few for who looks in
		for len(kept) < n {
			c, err := s.dial(s.agent)
			if err != nil {
				return err
			}
			kept = append(kept, c)
			if err := c.call(pingKept); err != nil {
				return err
			}
		}
		us, rss, err := s.medianOf(2000, timed(func() error { return kept[0].call(pingKept) }))
		if err != nil {
			return err
		}
		points = append(points, point{float64(n), us, rss})
	}
	return s.tellGrowth(growth{name, "µs", atMost(1.5), counted, points})
}

// growFiles moves ever larger files that hold nothing but holes.
func (s *suite) growFiles() error {
	ctx := context.Background()
	defer os.Remove(fileName)
	for _, way := range []struct {
		name string
		get  func() error
	}{
		{"file size, 1 KiB to 1 GiB: file_read, per byte", func() error { _, err := s.client.ReadFile(ctx, fileName, io.Discard); return err }},
		{"file size, 1 KiB to 1 GiB: file_get, per byte", func() error {
			_, err := s.client.Get(ctx, fileName, io.Discard, client.GetOptions{})
			return err
		}},
	} {
		if !s.wants("growth", way.name) {
			continue
		}
		var points []point
		for _, size := range []int64{1 << 10, 1 << 20, 32 << 20, 1 << 30} {
			if err := os.WriteFile(fileName, nil, 0o600); err != nil {
				return err
			}
			if err := os.Truncate(fileName, size); err != nil {
				return err
			}
			us, rss, err := s.medianOf(max(3, int(1<<25/size)), timed(way.get))
			if err != nil {
				return err
			}
			points = append(points, point{float64(size), us * 1e3 / float64(size), rss})
		}
		// What a connection takes is most of the smallest: time is linear in the large.
		if err := s.tellGrowth(growth{way.name, "ns", atMost(1.25), sized, points[1:]}); err != nil {
			return err
		}
	}
	return nil
}

// growProcesses runs commands and lists processes beside ever more of them.
func (s *suite) growProcesses() error {
	const exec, ps = "processes, 10 to 10,000: exec", "processes, 10 to 10,000: ps, per process"
	if !s.wants("growth", exec) && !s.wants("growth", ps) {
		return nil
	}
	var pids []int
	defer func() {
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		for _, pid := range pids {
			_, _ = syscall.Wait4(pid, nil, 0, nil)
		}
	}()
	c, err := s.dial(s.agent)
	if err != nil {
		return err
	}
	defer c.Close()
	var execs, lists []point
	steps := []int{10, 100, 1000, 10_000}
	if s.short {
		steps = steps[:3]
	}
	for _, n := range steps {
		for len(pids) < n {
			pid, err := syscall.ForkExec(guestSleep, []string{guestSleep}, nil)
			if err != nil {
				return fmt.Errorf("process %d: %w", len(pids), err)
			}
			pids = append(pids, pid)
		}
		us, rss, err := s.medianOf(300, timed(func() error { return c.call(execKept) }))
		if err != nil {
			return err
		}
		execs = append(execs, point{float64(n), us, rss})
		us, rss, err = s.medianOf(30, timed(func() error { _, err := s.client.Processes(context.Background()); return err }))
		if err != nil {
			return err
		}
		lists = append(lists, point{float64(n), us / float64(n), rss})
	}
	if err := s.tellGrowth(growth{exec, "µs", atMost(1.5), counted, execs}); err != nil {
		return err
	}
	return s.tellGrowth(growth{ps, "µs", atMost(1.5), counted, lists[1:]})
}
