//go:build linux

package agent

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/hyperfleet/init/applets/client"
	"golang.org/x/sys/unix"
)

// TestSessionMakesRoom: the session that ended first makes room, not the one that
// began first and may have ended just now.
func TestSessionMakesRoom(t *testing.T) {
	limits := testLimits()
	limits.Sessions = 2
	l := serve(t, limits)
	c := client.New(client.Unix(l.socket))
	detach := func(cmd ...string) string {
		t.Helper()
		s, err := c.Detach(t.Context(), client.Command{Cmd: cmd})
		if err != nil {
			t.Fatal(err)
		}
		return s.Session
	}
	long, short := detach("sleep", "300"), detach("true")
	if _, err := c.WaitSession(t.Context(), short); err != nil {
		t.Fatal(err)
	}
	if err := c.SignalSession(t.Context(), long, int(unix.SIGTERM)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.WaitSession(t.Context(), long); err != nil {
		t.Fatal(err)
	}
	detach("sleep", "300")
	if exit, err := c.WaitSession(t.Context(), long); err != nil || exit.Signal != int(unix.SIGTERM) {
		t.Error("the one that ended last is gone: ", err)
	}
}

// TestSessionRefused: a command for which there is no room does nothing at all, and
// one that can't be started takes none.
func TestSessionRefused(t *testing.T) {
	limits := testLimits()
	limits.Sessions = 1
	l := serve(t, limits)
	c := client.New(client.Unix(l.socket))
	for range 3 {
		if _, err := c.Detach(t.Context(), client.Command{Cmd: []string{"nosuch"}}); !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	}
	if _, err := c.Detach(t.Context(), client.Command{Cmd: []string{"sleep", "300"}}); err != nil {
		t.Fatal(err)
	}
	trace := filepath.Join(t.TempDir(), "trace")
	for range 20 {
		_, err := c.Detach(t.Context(), client.Command{Cmd: shell("> " + trace)})
		var refused *client.Error
		if !errors.Is(err, unix.EAGAIN) || !errors.As(err, &refused) || !strings.HasPrefix(refused.Message, "busy: ") {
			t.Error(err)
		}
	}
	if _, err := os.Stat(trace); err == nil {
		t.Error("a command that was refused ran")
	}
}

// TestSessionOutline: a session does not hold a command line of any length.
func TestSessionOutline(t *testing.T) {
	long := strings.Repeat("x", maxOutline)
	for _, row := range []struct{ cmd, want []string }{
		{[]string{"a", "", "b"}, []string{"a", "", "b"}},
		{[]string{long[1:]}, []string{long[1:]}},
		{[]string{long}, []string{long + "…"}},
		{[]string{long[1:], "", "c"}, []string{long[1:], "…"}},
		{[]string{long[2:], "é", "c"}, []string{long[2:], "…"}},
		{make([]string, 5000), append(make([]string, maxOutline), "…")},
	} {
		if got := outline(row.cmd); !reflect.DeepEqual(got, row.want) {
			t.Errorf("%.20q…: %d words, %.20q", row.cmd, len(got), got[len(got)-1])
		}
	}
}
