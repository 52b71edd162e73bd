//go:build linux

package initd_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/internal/sigaction"
	"golang.org/x/sys/unix"
)

// A soaked is one command of the soak, and what must come of it.
type soaked struct {
	seed, out, errs int // of its output: where the bytes begin, and how many
	status, signal  int // how it ends; a signal, if that is not 0
}

// soakNumber makes the commands so that each status and each signal comes in turn,
// with little output and, now and then, much.
func soakNumber(i int) soaked {
	s := soaked{seed: i, out: i % 700, errs: i % 300, status: i % 256}
	switch {
	case i%100 == 0:
		s.out, s.errs = 300_000+i%1000, 70_000
	case i%10 == 0:
		s.out = 20_000 + i%1000
	}
	if deadly := deadlySignals(); i%4 == 0 {
		s.status, s.signal = 0, deadly[i/4%len(deadly)]
	}
	return s
}

// deadlySignals are those that end a process by default.
func deadlySignals() (all []int) {
	for n := 1; n <= 64; n++ {
		switch unix.Signal(n) {
		case unix.SIGCHLD, unix.SIGCONT, unix.SIGURG, unix.SIGWINCH, unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU:
		default:
			all = append(all, n)
		}
	}
	return all
}

// soakBytes are n bytes that no other seed begins with, every value among them.
func soakBytes(seed, n int) []byte {
	b := make([]byte, n)
	x := uint64(seed)*0x9E3779B97F4A7C15 + 1
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x)
	}
	return b
}

func (s soaked) argv() []string {
	return strings.Fields(fmt.Sprintf("hfx soak %d %d %d %d %d", s.seed, s.out, s.errs, s.status, s.signal))
}

// soak is the tool that is such a command.
func soak(args []string) error {
	s := soaked{number(args[0]), number(args[1]), number(args[2]), number(args[3]), number(args[4])}
	_, _ = os.Stdout.Write(soakBytes(s.seed, s.out))
	_, _ = os.Stderr.Write(soakBytes(s.seed+1, s.errs))
	if s.signal != 0 {
		_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
		sigaction.Default(unix.Signal(s.signal))
		_ = unix.Kill(os.Getpid(), unix.Signal(s.signal))
		time.Sleep(time.Hour)
	}
	os.Exit(s.status)
	return nil
}

// check runs the command and says what is wrong with what came of it.
func (s soaked) check(g *guest) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var out, errs bytes.Buffer
	r, err := g.Exec(ctx, client.ExecRequest{Cmd: s.argv(), Stdout: &out, Stderr: &errs, Timeout: patience})
	if err != nil {
		return fmt.Errorf("%+v: %w", s, err)
	}
	want := s.status
	if s.signal != 0 {
		want = 128 + s.signal
	}
	if r.ExitCode != want || r.Signal != s.signal || r.TimedOut || r.OOMKilled || r.Truncated {
		return fmt.Errorf("%+v: %+v", s, *r)
	}
	if !bytes.Equal(out.Bytes(), soakBytes(s.seed, s.out)) || !bytes.Equal(errs.Bytes(), soakBytes(s.seed+1, s.errs)) {
		return fmt.Errorf("%+v: %d and %d bytes came, or not the same", s, out.Len(), errs.Len())
	}
	return nil
}

// A holding is what the agent and process 1 hold.
type holding struct{ agentFiles, agentThreads, agentKB, initFiles, initThreads, initKB int }

func (g *guest) holds() holding {
	of := func(pid int) (files, threads, kb int) {
		entries, err := os.ReadDir(g.path(fmt.Sprintf("/proc/%d/fd", pid)))
		if err != nil {
			g.t.Error(err)
		}
		status, _ := os.ReadFile(g.path(fmt.Sprintf("/proc/%d/status", pid)))
		field := func(name string) int {
			_, rest, _ := strings.Cut(string(status), "\n"+name+":")
			words := strings.Fields(rest)
			if len(words) == 0 {
				g.t.Fatalf("no %s in the status of %d", name, pid)
			}
			n, _ := strconv.Atoi(words[0])
			return n
		}
		return len(entries), field("Threads"), field("VmRSS")
	}
	var h holding
	h.agentFiles, h.agentThreads, h.agentKB = of(g.agent())
	h.initFiles, h.initThreads, h.initKB = of(1)
	return h
}

// soakers is how many commands the soak runs at once.
const soakers = 32

// TestSoak: commands that end in every way, beside orphans that process 1 must
// reap, lose no status and no byte of output, and nothing is left of them: no
// zombie, no open file, no thread, no cgroup, no memory. `make soak` runs its long
// form. (FAULTS.md 1.6; 2: 10,000 short commands, 10,000 orphans)
func TestSoak(t *testing.T) {
	commands, orphans := 2000, 200
	s := stage{Tools: executable(t)}
	if raced {
		commands, orphans = 300, 50
	} else {
		s.Binary = hf(t)
	}
	long := os.Getenv("HF_SOAK") != ""
	if long {
		commands, orphans = 100_000, 10_000
	}
	g := boot(t, s)
	var failed atomic.Int64
	begin := time.Now()
	runAll := func(first, last int) {
		var next atomic.Int64
		next.Store(int64(first))
		var wg sync.WaitGroup
		for range soakers {
			wg.Go(func() {
				for i := int(next.Add(1)); i <= last; i = int(next.Add(1)) {
					if err := soakNumber(i).check(g); err != nil {
						failed.Add(1)
						t.Errorf("command %d: %.300s", i, err)
					}
				}
			})
		}
		wg.Wait()
	}
	runAll(0, 2*soakers)
	before, processes, agent := g.holds(), len(g.processes()), g.agent()

	var littered sync.WaitGroup
	littered.Go(func() {
		for range orphans / 10 {
			g.run("hfx", "orphans", "10")
		}
	})
	const parts = 20
	var held []holding
	for part := range parts {
		runAll(commands*part/parts, commands*(part+1)/parts)
		held = append(held, g.holds())
		if long {
			t.Logf("%3d %%: %+v", (part+1)*100/parts, held[part])
		}
	}
	littered.Wait()

	eventually(t, "no process is left", func() bool { return len(g.processes()) <= processes })
	eventually(t, "the files are closed", func() bool {
		h := g.holds()
		return h.agentFiles <= before.agentFiles && h.initFiles <= before.initFiles
	})
	after := g.holds()
	// The runtime keeps threads that it once had use for, but not one per command.
	if after.agentThreads > before.agentThreads+2*soakers || after.initThreads > before.initThreads+soakers {
		t.Errorf("threads: %+v, before %+v", after, before)
	}
	if g.agent() != agent {
		t.Error("it is another agent")
	}
	took := time.Since(begin)
	t.Logf("%d commands and %d orphans in %v: %d wrong; before %+v, after %+v", commands, orphans, took, failed.Load(), before, after)
	if long {
		plateau(t, "the agent", held, func(h holding) int { return h.agentKB })
		plateau(t, "process 1", held, func(h holding) int { return h.initKB })
	}
}

// plateau holds the memory of the second half to that of the second quarter.
func plateau(t *testing.T, who string, held []holding, kb func(holding) int) {
	mean := func(part []holding) int {
		sum := 0
		for _, h := range part {
			sum += kb(h)
		}
		return sum / len(part)
	}
	n := len(held)
	level, end := mean(held[n/4:n/2]), mean(held[n/2:])
	t.Logf("%s: %d kB resident in the second quarter, %d kB in the second half", who, level, end)
	if end > level+level/20 {
		t.Errorf("%s grows: %d kB, then %d kB", who, level, end)
	}
}
