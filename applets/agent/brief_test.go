//go:build linux

package agent

import (
	"io"
	"slices"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/internal/agenttest"
	"github.com/hyperfleet/init/applets/wire"
)

// TestBrief: a command that ends soon is collected, with all of its output, by the
// thread that started it; one that lasts, floods or has lost its client is left to
// others in time.
func TestBrief(t *testing.T) {
	l := serve(t, testLimits())
	far, near := agenttest.Pair(t)
	client := newConn(near, testLimits(), &share{})
	// try tells what brief found: whether the command has ended, and its output.
	try := func(script string, limit time.Duration) (over, ended bool, said string, took time.Duration) {
		plan, err := resolve(wire.Exec{Cmd: []string{"/bin/sh", "-c", script}})
		if err != nil {
			t.Fatal(err)
		}
		defer plan.close()
		if plan.stdin, err = stdin(nil); err != nil {
			t.Fatal(err)
		}
		out, errs := newOutput(1<<20, nil, nil), newOutput(1<<20, nil, nil)
		defer out.close()
		defer errs.close()
		c, err := l.commands.start(plan, out, errs)
		if err != nil {
			t.Fatal(err)
		}
		defer l.commands.release(c)
		defer func() { c.kill(); l.commands.follow(c); <-c.done; l.commands.finish(c, 0) }()
		began := time.Now()
		l.commands.brief(c, client, limit)
		b, _ := io.ReadAll(out.reader())
		return c.over(), out.ended && errs.ended, string(b), time.Since(began)
	}
	eventually(t, "a command ends within a moment", func() bool {
		over, ended, said, _ := try("echo a; echo b", 0)
		return over && ended && said == "a\nb\n"
	})
	eventually(t, "a command whose pipe is held ends within a moment", func() bool {
		over, ended, said, _ := try("echo a; sleep 1000 &", 0)
		return over && !ended && said == "a\n"
	})
	flood := "dd if=/dev/zero bs=1M 2>/dev/null"
	for _, script := range []string{"sleep 1000", "timeout 5 " + flood + " & exec timeout 5 " + flood} {
		if over, _, _, took := try(script, 0); over || took > time.Second {
			t.Errorf("%s: over %v, after %v", script, over, took)
		}
	}
	_ = far.Close()
	var waits []time.Duration
	for range 15 {
		_, _, _, took := try("sleep 1000", 0)
		waits = append(waits, took)
	}
	if slices.Sort(waits); waits[len(waits)/2] > briefly/5 {
		t.Error("what has lost its client was waited for", waits)
	}
	if n := l.commands.briefs.Load(); n != 0 {
		t.Errorf("%d are under way", n)
	}
	l.commands.briefs.Store(mostBriefs)
	for range 10 {
		if over, _, _, took := try("exit", 0); over {
			t.Error("more threads wait than may", took)
		}
	}
}
