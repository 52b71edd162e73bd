//go:build linux

package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestStreamsLeaveRoom: streams, which may be silent for ever, do not take all of the
// connections that there may be. One more is refused before it does anything, whatever
// its operation; what is no stream is served. (FAULTS.md 2: more streams than there may be)
func TestStreamsLeaveRoom(t *testing.T) {
	limits := testLimits()
	limits.Conns = 8
	l := serve(t, limits)
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(path("there"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// A request that fails before its stream begins takes no place.
	asks := keep(t, l.socket)
	for range limits.Conns {
		asks.send(object{"operation": "file_get", "path": path("nosuch"), "keep_alive": true}.line())
		if r := parseReply(t, asks.receive()); r.Code != "ENOENT" {
			t.Fatalf("%+v", r)
		}
	}
	_ = asks.Close()
	var open []*session
	for range limits.streams() {
		s := keep(t, l.socket)
		s.send(object{"operation": "file_watch", "path": dir}.line())
		if r := parseReply(t, s.receive()); !r.Success {
			t.Fatalf("%+v", r)
		}
		open = append(open, s)
	}
	touch := []string{"touch", path("made")}
	requests := []object{
		{"operation": "exec", "stream": true, "cmd": touch},
		{"operation": "exec", "stream": true, "detach": true, "cmd": touch},
		{"operation": "session_attach", "session": "1"},
		{"operation": "forward", "network": "unix", "address": l.socket},
		{"operation": "listen", "network": "unix", "address": path("made")},
		{"operation": "accept", "listener": "1", "connection": "1"},
		{"operation": "logs"},
		{"operation": "stats", "interval_ms": 1000},
		{"operation": "file_get", "path": path("there")},
		{"operation": "file_put", "path": path("made")},
		{"operation": "file_watch", "path": dir},
		{"operation": "tar_get", "path": dir},
		{"operation": "tar_put", "path": path("made"), "make": true},
	}
	for _, request := range requests {
		if r := parseReply(t, say(t, l.socket, request.line())); r.Code != "EAGAIN" || !strings.HasPrefix(r.Error, "busy: ") {
			t.Errorf("%v: %+v", request, r)
		}
	}
	if names := readDir(t, dir); len(names) != 1 {
		t.Errorf("they did something: %v", names)
	}
	for _, request := range []object{
		{"operation": "ping"}, {"operation": "stats"}, {"operation": "exec", "cmd": []string{"true"}},
		{"operation": "file_put", "path": path("there"), "partial": "x", "discard": true},
	} {
		if r := parseReply(t, say(t, l.socket, request.line())); !r.Success {
			t.Errorf("%v: %+v", request, r)
		}
	}
	_ = open[0].Close()
	eventually(t, "there is a place again", func() bool {
		return strings.HasPrefix(say(t, l.socket, object{"operation": "tar_get", "path": dir}.line()), `{"success":true`)
	})
}

// TestStreamsAtMost: there may be some streams, and not only, however few connections.
func TestStreamsAtMost(t *testing.T) {
	for conns, want := range map[int]int{1: 1, 2: 1, 3: 2, 8: 4, 64: 60, 1000: 938} {
		if got := (Limits{Conns: conns}).streams(); got != want {
			t.Errorf("of %d connections %d, want %d", conns, got, want)
		}
	}
}
