//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/hyperfleet/init/applets/nsguest"
	"golang.org/x/sys/unix"
)

// orphans leaves 10,000 processes to PID 1, a hundred of which end at once, and
// looks for how long any waits to be reaped.
func (s *suite) orphans() error {
	const group, each = "reaping", 100
	n := 10_000
	if s.short {
		n = 2000
	}
	name := fmt.Sprintf("%d orphans: the oldest zombie", n)
	if !s.wants(group, name) {
		return nil
	}
	cmd := exec.Command(guestSelf, "orphans", strconv.Itoa(n/each), strconv.Itoa(each))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	w := watcher{seen: map[int]time.Time{}}
	var err error
	var last time.Time
	for {
		if err := w.look(); err != nil {
			return err
		}
		select {
		case err = <-done:
			done, last = nil, time.Now()
		default:
		}
		time.Sleep(time.Millisecond) // the processor is for the others, too
		if !last.IsZero() && len(w.seen) == 0 && time.Since(last) > 50*time.Millisecond {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("orphans: %w", err)
	}
	if len(w.ages) == 0 {
		w.ages = []float64{0}
	}
	all := summarize(w.ages)
	r := row{Where: s.where, Group: group, Name: name, Unit: "ms", Figure: stats{N: n, Median: all.Max, P10: all.Max, P90: all.Max, P99: all.Max, Min: all.Max, Max: all.Max}, Reach: atMost(10)}
	r.Note = fmt.Sprintf("all in %.1f s; seen as zombies: %d, %d at once; median %.2f ms, p99 %.2f ms; a look every %.2f ms",
		time.Since(w.began).Seconds(), len(w.ages), w.most, all.Median, all.P99, w.between().Seconds()*1e3)
	r.judge()
	return s.tell(r)
}

// A watcher looks at all processes again and again.
type watcher struct {
	seen  map[int]time.Time // the zombies that were seen at the last look, since when
	ages  []float64         // of those that are gone, in ms
	most  int               // at one look
	looks int
	began time.Time
	buf   [512]byte
}

func (w *watcher) between() time.Duration { return time.Since(w.began) / time.Duration(w.looks) }

func (w *watcher) look() error {
	if w.looks++; w.began.IsZero() {
		w.began = time.Now()
	}
	dir, err := os.Open("/proc")
	if err != nil {
		return err
	}
	names, err := dir.Readdirnames(-1)
	_ = dir.Close()
	if err != nil {
		return err
	}
	now := map[int]time.Time{}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || !w.zombie(name) {
			continue
		}
		if now[pid] = time.Now(); !w.seen[pid].IsZero() {
			now[pid] = w.seen[pid]
		}
	}
	for pid, since := range w.seen {
		if now[pid].IsZero() {
			w.ages = append(w.ages, float64(time.Since(since).Microseconds())/1e3)
		}
	}
	w.seen = now
	w.most = max(w.most, len(now))
	return nil
}

// zombie tells whether that is a child of PID 1 that waits to be reaped.
func (w *watcher) zombie(pid string) bool {
	fd, err := unix.Open("/proc/"+pid+"/stat", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	n, err := unix.Read(fd, w.buf[:])
	return err == nil && bytes.Contains(w.buf[:n], []byte(") Z 1 "))
}

// makeOrphans is `hf-bench orphans TIMES EACH`.
func makeOrphans(args []string) error {
	if len(args) != 2 {
		return errors.New("orphans: want two numbers")
	}
	n, err := strconv.Atoi(args[0])
	each, eachErr := strconv.Atoi(args[1])
	if err := errors.Join(err, eachErr); err != nil {
		return err
	}
	return nsguest.Orphans(n, each)
}
