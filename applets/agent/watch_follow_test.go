//go:build linux

package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/wire"
)

// TestWatchRenamedAtOnce: a directory that was renamed before its making could be
// looked at is watched under its new name, with what is in it.
func TestWatchRenamedAtOnce(t *testing.T) {
	for what, act := range map[string]func(p func(string) string) error{
		"itself": func(p func(string) string) error { return os.Rename(p("old"), p("new")) },
		"one in a known": func(p func(string) string) error {
			_ = os.Mkdir(p("kept/old"), 0o755)
			return os.Rename(p("kept/old"), p("new"))
		},
		"the one that it is in": func(p func(string) string) error {
			_ = os.Mkdir(p("kept/in"), 0o755)
			return os.Rename(p("kept"), p("new"))
		},
	} {
		dir := t.TempDir()
		p := func(name string) string { return filepath.Join(dir, name) }
		_ = os.Mkdir(p("kept"), 0o755)
		w, err := newWatch(wire.FileWatch{Path: dir, Recursive: true, Events: wire.WatchTypes()})
		if err != nil {
			t.Fatal(err)
		}
		defer w.notify.Close()
		_ = os.MkdirAll(p("old/in"), 0o755)
		if err := act(p); err != nil {
			t.Fatal(err)
		}
		_ = os.Mkdir(p("new/in"), 0o755)
		var told strings.Builder
		w.stream = &stream{FrameWriter: wire.NewFrameWriter(&told)}
		read := func() {
			_ = w.notify.SetReadDeadline(time.Now().Add(patience))
			if err := w.read(); err != nil {
				t.Fatal(what, err)
			}
		}
		read()
		_ = os.WriteFile(p("new/in/file"), nil, 0o644)
		for want := "new/in/file"; !strings.Contains(told.String(), want); {
			_ = os.WriteFile(p("last"), nil, 0o644) // so that there is something to read, whatever is watched
			read()
			if err := w.pending.flush(w.stream); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(told.String(), `"last"`) && !strings.Contains(told.String(), want) {
				t.Errorf("%s: it is not watched: %s", what, told.String())
				break
			}
		}
	}
}

// TestWatchForgets: a directory that left the tree while events were dropped is not
// told about any more.
func TestWatchForgets(t *testing.T) {
	dir := t.TempDir()
	top := filepath.Join(dir, "top")
	if err := os.MkdirAll(filepath.Join(top, "sub/below"), 0o755); err != nil {
		t.Fatal(err)
	}
	w, err := newWatch(wire.FileWatch{Path: top, Recursive: true, Events: wire.WatchTypes()})
	if err != nil {
		t.Fatal(err)
	}
	defer w.notify.Close()
	if err := os.Rename(filepath.Join(top, "sub"), filepath.Join(dir, "away")); err != nil {
		t.Fatal(err)
	}
	if err := w.dirs.renew(top); err != nil {
		t.Fatal(err)
	}
	if len(w.dirs.paths) != 1 {
		t.Error(w.dirs.paths)
	}
}

// TestWatchMovedAway: the stream ends when what is watched gets another name: what
// comes under its own is something else.
func TestWatchMovedAway(t *testing.T) {
	l := serve(t, testLimits())
	dir := t.TempDir()
	for _, path := range []string{filepath.Join(dir, "d"), filepath.Join(dir, "f")} {
		if strings.HasSuffix(path, "d") {
			_ = os.Mkdir(path, 0o755)
		} else {
			_ = os.WriteFile(path, nil, 0o644)
		}
		deleted := false
		watching(t, l, path, client.WatchOptions{Recursive: true}, func() { _ = os.Rename(path, path+".old") }, func(e client.WatchEvent) bool {
			deleted = deleted || e.Type == "delete" && e.Name == ""
			return false
		})
		if !deleted {
			t.Errorf("%s: its end was not told", path)
		}
	}
}

// TestWatchFrames: an end frame ends a watch, and any other is out of place.
func TestWatchFrames(t *testing.T) {
	l := serve(t, testLimits())
	request := `{"operation":"file_watch","path":"` + t.TempDir() + `"}` + "\n"
	for frame, want := range map[string]string{
		"\x05\x00\x00\x00\x00":  "\x09\x00\x00\x00\x02{}",
		"\x01\x00\x00\x00\x01x": `"code":"EPROTO"`,
		"\xff\x00\x00\x00\x00":  `"code":"EPROTO"`,
	} {
		if got := say(t, l.socket, request+frame); !strings.Contains(got, want) {
			t.Errorf("%q: %q", frame, got)
		}
	}
}
