//go:build linux

package initd_test

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// die sends a request that is the agent's end, and waits for that of the
// connection.
func (g *guest) die(operation string) {
	g.t.Helper()
	c := dial(g.t, g, socket)
	_, err := c.Write([]byte(`{"operation":"` + operation + `"}` + "\n"))
	if err != nil {
		g.t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		g.t.Fatalf("%s: the agent does not die: %d, %v", operation, n, err)
	}
}

// deaths are the ways in which the agent can die, and what the console tells.
var deaths = []struct{ operation, reason, status string }{
	{"", "", "killed by SIGKILL"},
	{"debug_panic", "panic: on request", "exit status 2"},
	{"debug_nil", "invalid memory address or nil pointer dereference", "exit status 2"},
	{"debug_map", "fatal error: concurrent map writes", "exit status 2"},
	{"debug_stack", "fatal error: stack overflow", "exit status 2"},
}

// However the agent dies, nobody is refused, its commands are ended and the next
// one serves (FAULTS.md 2: "the agent killed with KILL").
func TestAgentDeath(t *testing.T) {
	for _, death := range deaths {
		t.Run(death.status+" "+death.operation, func(t *testing.T) {
			t.Parallel()
			g := boot(t, stage{Binary: hfDebug(t), Tools: executable(t)})
			g.provoke = true
			g.launch("escape", "lost")
			eventually(t, "a daemon", func() bool { return len(g.find("hfx sleep daemon lost")) == 1 })
			first := g.agent()
			stop := g.connectAlways()
			if death.operation == "" {
				g.signal(first, unix.SIGKILL)
			} else {
				g.die(death.operation)
			}
			eventually(t, "another agent", func() bool { return g.agent() != first && g.agent() != 0 })
			g.ping()
			if n, err := stop(); err != nil || n == 0 {
				t.Errorf("connection %d: %v", n, err)
			}
			for _, line := range []string{"hfx escape lost", "hfx sleep daemon lost"} {
				eventually(t, line+" is ended", func() bool { return len(g.find(line)) == 0 })
			}
			g.await(`ERROR init: the agent ended status="` + death.status + `"`)
			g.await(death.reason)
			g.await("the agent is back")
			g.run("hfx", "exit", "0")
		})
	}
}

// connectAlways connects again and again until stop, which tells how often, and
// what the error was.
func (g *guest) connectAlways() (stop func() (int, error)) {
	var done atomic.Bool
	var n int
	var err error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ; !done.Load() && err == nil; n++ {
			var c net.Conn
			switch c, err = net.Dial("unix", g.path(socket)); {
			case err == nil:
				err = c.Close()
			case errors.Is(err, unix.EAGAIN): // an agent that is long in coming: all places to wait are taken
				err = nil
			}
			time.Sleep(time.Millisecond)
		}
	}()
	return func() (int, error) { done.Store(true); <-ended; return n, err }
}

// The last words of an agent do not wait for a console that nobody reads
// (FAULTS.md 2: "Console missing or blocked").
func TestAgentDeathBlockedConsole(t *testing.T) {
	_, w := fullPipe(t)
	g := start(t, stage{Binary: hfDebug(t), Tools: executable(t)}, func(cmd *exec.Cmd) { cmd.Stdout, cmd.Stderr = w, w })
	if err := g.Wait(soon(t)); err != nil {
		t.Fatal(err)
	}
	for _, death := range deaths[1:] {
		first := g.agent()
		g.die(death.operation)
		g.ping()
		if g.agent() == first {
			t.Errorf("%s: the agent is the same", death.operation)
		}
	}
}

// The binary that is delivered has none of the operations that end its agent.
func TestNoDebugOperations(t *testing.T) {
	g := boot(t, stage{Binary: hf(t), Tools: executable(t)})
	names := []string{"debug_nosuch"}
	for _, death := range deaths[1:] {
		names = append(names, death.operation)
	}
	for _, name := range names {
		c := dial(t, g, socket)
		_, _ = c.Write([]byte(`{"operation":"` + name + `"}` + "\n"))
		if reply := readLine(t, c); !strings.Contains(reply, `"code":"ENOSYS"`) {
			t.Errorf("%s: %s", name, reply)
		}
	}
	for path, want := range map[string]bool{hf(t): false, hfDebug(t): true} {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := bytes.Contains(b, []byte("debug_panic")); got != want {
			t.Errorf("%s contains debug_panic: %v", path, got)
		}
	}
}

// BenchmarkAgentKilled is how long it takes from the end of an agent that has
// served until the next one answers.
func BenchmarkAgentKilled(b *testing.B) {
	g := boot(b, stage{Binary: hf(b), Tools: executable(b), Args: []string{"--power-off=poweroff"}})
	var back []time.Duration
	for b.Loop() {
		pid := g.outside(g.agent())
		began := time.Now()
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			b.Fatal(err)
		}
		for g.Ping(soon(b)) != nil { // the one that is dying may still accept a connection
		}
		back = append(back, time.Since(began))
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(median(back).Microseconds())/1000, "back-ms")
	b.ReportMetric(float64(back[len(back)-1].Microseconds())/1000, "back-max-ms")
}
