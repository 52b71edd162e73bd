//go:build linux

package initd_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// logs returns the lines of the guest's logs as "source level message".
func logs(t *testing.T, c *client.Client, o client.LogOptions) (list []string) {
	t.Helper()
	last := map[string]float64{} // a line that is written late is behind another source's
	for line, err := range c.Logs(soon(t), o) {
		if err != nil {
			t.Fatal(err)
		}
		if line.TimeMS < last[line.Source] || line.TimeMS == 0 {
			t.Errorf("%+v comes after %v ms", line, last[line.Source])
		}
		last[line.Source] = line.TimeMS
		list = append(list, fmt.Sprintf("%s %s %s", line.Source, line.Level, line.Message))
	}
	return list
}

// TestLogs: PID 1's own log is kept from its first line on, and so is what an
// agent said before it died.
func TestLogs(t *testing.T) {
	t.Parallel()
	g := bootWith(t, "-d")
	unreadable := map[string]string{}
	all := logs(t, g.Client, client.LogOptions{Unreadable: func(source, why string) { unreadable[source] = why }})
	if len(all) == 0 || !strings.HasPrefix(all[0], "init debug starting version=") {
		t.Errorf("the first of %d lines is not init's first", len(all))
	}
	text := strings.Join(all, "\n")
	for _, want := range []string{"init debug boot: mount -t proc", "init info ready in ", "agent debug serving listeners=1"} {
		if !strings.Contains(text, want) {
			t.Errorf("no line %q", want)
		}
	}
	if len(unreadable) != 1 || !strings.Contains(unreadable[wire.LogKernel], "container") {
		t.Errorf("unreadable: %q", unreadable)
	}
	for _, name := range []string{"init.log", "agent.log"} {
		if st, err := os.Stat(g.path("/run/hyperfleet/" + name)); err != nil || st.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", name, st, err)
		}
	}
	g.signal(g.agent(), unix.SIGABRT)
	g.await("the agent is back")
	text = strings.Join(logs(t, g.Client, client.LogOptions{}), "\n")
	report, ended := strings.Index(text, "agent err SIGABRT: abort"), strings.Index(text, "init err the agent ended status=")
	if report < 0 || ended < 0 {
		t.Errorf("Go's report is at %d, its end at %d", report, ended)
	}
	g.signal(1, unix.SIGTERM)
	g.end()
	if strings.Contains(g.console.String(), "still in use") {
		t.Error("a log kept a filesystem from being unmounted")
	}
}

// TestFollowShutdown: whoever follows the log sees the shutdown begin, and does
// not hold it up.
func TestFollowShutdown(t *testing.T) {
	t.Parallel()
	g := bootWith(t, "--power-off=poweroff")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var last error
	for line, err := range g.Logs(ctx, client.LogOptions{Follow: true}) {
		last = err
		if strings.Contains(line.Message, "ready in ") {
			g.signal(1, unix.SIGTERM)
		}
	}
	if !errors.Is(last, unix.ESHUTDOWN) {
		t.Errorf("it ended with %v", last)
	}
	g.wantEnd("power off")
	if strings.Contains(g.console.String(), "killing what did not end in time") {
		t.Error("it held up the shutdown")
	}
}

// TestLogsDegraded: without a place for files nothing is kept; that is told, and
// nothing waits for it.
func TestLogsDegraded(t *testing.T) {
	t.Run("read-only root", func(t *testing.T) {
		t.Parallel()
		g := boot(t, stage{ReadOnly: true, Without: []string{"/proc"}})
		if text := strings.Join(logs(t, g.Client, client.LogOptions{Sources: []string{wire.LogInit}}), "\n"); !strings.Contains(text, "init warn boot: mount -t proc") {
			t.Errorf("%q", text)
		}
	})
	t.Run("no /run", func(t *testing.T) {
		t.Parallel()
		const socket = "/dev/socket"
		g := boot(t, stage{ReadOnly: true, Without: []string{"/run"}, Args: []string{"--listen=unix:" + socket, "--power-off=poweroff"}})
		g.wantConsole("WARN  init: boot: keep the log in /run/hyperfleet err=")
		c := client.New(client.Unix(g.path(socket)))
		n := 0
		for _, err := range c.Logs(soon(t), client.LogOptions{}) {
			if n++; !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EPERM) {
				t.Error(err)
			}
		}
		if n != 1 {
			t.Errorf("%d lines", n)
		}
		g.signal(1, unix.SIGTERM)
		g.wantEnd("power off")
	})
}
