//go:build linux

package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// watching watches a path while act runs, until seen has seen enough.
func watching(t *testing.T, l *live, path string, o client.WatchOptions, act func(), seen func(client.WatchEvent) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	o.Begin = func() { go act() }
	for e, err := range client.New(client.Unix(l.socket)).Watch(ctx, path, o) {
		if err != nil {
			t.Error(err)
			return
		}
		if seen(e) {
			return
		}
	}
}

// TestWatchEvents: each kind of event, in order.
func TestWatchEvents(t *testing.T) {
	l := serve(t, testLimits())
	for _, row := range []struct {
		o    client.WatchOptions
		want string
	}{
		{client.WatchOptions{Recursive: true}, "create new; create dir/; create dir/in; delete new; rename old>moved; rename sub/>sub2/; create sub2/x; attrib kept; modify kept; delete gone/; delete \xff; create came; create last"},
		{client.WatchOptions{}, "create new; create dir/; delete new; rename old>moved; rename sub/>sub2/; attrib kept; modify kept; delete gone/; delete \xff; create came; create last"},
		{client.WatchOptions{Events: []string{"create", "delete"}, Recursive: true}, "create new; create dir/; create dir/in; delete new; create sub2/x; delete gone/; delete \xff; create came; create last"},
	} {
		base := t.TempDir()
		dir := filepath.Join(base, "watched")
		p := func(name string) string { return filepath.Join(dir, name) }
		for _, name := range []string{"sub", "gone", "../elsewhere"} {
			_ = os.MkdirAll(p(name), 0o755)
		}
		for _, name := range []string{"old", "kept", "\xff", "gone/f"} {
			_ = os.WriteFile(p(name), nil, 0o644)
		}
		_ = os.WriteFile(p("../came"), nil, 0o644)
		act := func() {
			_ = os.WriteFile(p("new"), []byte("x"), 0o644)
			_ = os.Mkdir(p("dir"), 0o755)
			_ = os.WriteFile(p("dir/in"), []byte("x"), 0o644)
			_ = os.Remove(p("new"))
			_ = os.Rename(p("old"), p("moved"))
			_ = os.Rename(p("sub"), p("sub2"))
			_ = os.WriteFile(p("sub2/x"), nil, 0o644)
			_ = os.Chmod(p("kept"), 0o600)
			_ = os.WriteFile(p("kept"), []byte("x"), 0o644)
			_ = os.Rename(p("gone"), p("../elsewhere/gone"))
			_ = os.Remove(p("\xff"))
			_ = os.Rename(p("../came"), p("came"))
			_ = os.WriteFile(p("../elsewhere/gone/f2"), nil, 0o644) // nobody's business any more
			_ = os.WriteFile(p("last"), nil, 0o644)
		}
		var got []string
		told := map[string]bool{}
		watching(t, l, dir, row.o, act, func(e client.WatchEvent) bool {
			slash := map[bool]string{true: "/"}[e.IsDir]
			text := e.Type + " " + e.Name + slash
			if e.From != "" {
				text = e.Type + " " + e.From + slash + ">" + e.Name + slash
			}
			// What is made in a new directory may be told of twice, and a change to
			// what is new be told if it comes in another frame.
			if !told[text] && !(e.Type == "modify" && e.Name != "kept") && !(e.Type == "attrib" && e.Name != "kept") {
				got = append(got, text)
			}
			told[text] = true
			return e.Name == "last"
		})
		if all := strings.Join(got, "; "); all != row.want {
			t.Errorf("%+v:\n got %q\nwant %q", row.o, all, row.want)
		}
	}
}

// TestWatchNewDirectories: of a thousand files that are made at once in
// directories that are themselves new, none is missed.
func TestWatchNewDirectories(t *testing.T) {
	l := serve(t, testLimits())
	dir := t.TempDir()
	missing := map[string]bool{}
	for i := range 1000 {
		missing[fmt.Sprintf("d%d/e/f%d/file%d", i%10, i%50, i)] = true
	}
	names := make([]string, 0, len(missing))
	for name := range missing {
		names = append(names, name)
	}
	act := func() {
		for _, name := range names {
			_ = os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755)
			if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o644); err != nil {
				t.Error(err)
			}
		}
	}
	watching(t, l, dir, client.WatchOptions{Recursive: true}, act, func(e client.WatchEvent) bool {
		if e.Type == "create" {
			delete(missing, e.Name)
		}
		if e.Overflow {
			t.Error("overflow")
		}
		return len(missing) == 0
	})
	if len(missing) > 0 {
		t.Errorf("%d files were not told of", len(missing))
	}
}

// TestWatchVeryDeep: a directory whose path is too long to be watched does not keep the
// others from being.
func TestWatchVeryDeep(t *testing.T) {
	l := serve(t, testLimits())
	top := t.TempDir()
	dir, err := os.OpenRoot(top)
	for i := 0; err == nil && i < 20; i++ { // 255 bytes each
		name := strings.Repeat("d", 255)
		if err = dir.Mkdir(name, 0o755); err != nil {
			break
		}
		above := dir
		dir, err = dir.OpenRoot(name)
		_ = above.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = dir.Close()
	act := func() { _ = os.WriteFile(filepath.Join(top, strings.Repeat("d", 255), "seen"), nil, 0o644) }
	watching(t, l, top, client.WatchOptions{Recursive: true}, act, func(e client.WatchEvent) bool {
		return strings.HasSuffix(e.Name, "/seen")
	})
}

// TestWatchEnds: the stream ends when what is watched has gone, with a directory
// or a file.
func TestWatchEnds(t *testing.T) {
	l := serve(t, testLimits())
	dir := t.TempDir()
	for _, path := range []string{filepath.Join(dir, "d"), filepath.Join(dir, "f")} {
		if strings.HasSuffix(path, "d") {
			_ = os.Mkdir(path, 0o755)
		} else {
			_ = os.WriteFile(path, nil, 0o644)
		}
		deleted := false
		watching(t, l, path, client.WatchOptions{Recursive: true}, func() { _ = os.Remove(path) }, func(e client.WatchEvent) bool {
			deleted = deleted || e.Type == "delete" && e.Name == ""
			return false
		})
		if !deleted {
			t.Errorf("%s: its end was not told", path)
		}
	}
	for _, err := range client.New(client.Unix(l.socket)).Watch(t.Context(), dir+"/nosuch", client.WatchOptions{}) {
		if !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	}
}

// TestWatchClient: a client that goes away ends its watch; so does an agent that
// stops.
func TestWatchClient(t *testing.T) {
	l := serve(t, testLimits())
	dir := t.TempDir()
	watches := func() (n int) {
		for _, fd := range readDir(t, "/proc/self/fd") {
			if to, _ := os.Readlink("/proc/self/fd/" + fd); strings.Contains(to, "inotify") {
				n++
			}
		}
		return n
	}
	ctx, cancel := context.WithCancel(t.Context())
	for _, err := range client.New(client.Unix(l.socket)).Watch(ctx, dir, client.WatchOptions{Begin: func() {
		if watches() != 1 {
			t.Error("there is no watch")
		}
		cancel()
	}}) {
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	eventually(t, "the watch has ended", func() bool { return watches() == 0 })
	for _, err := range client.New(client.Unix(l.socket)).Watch(t.Context(), dir, client.WatchOptions{Begin: l.Stop}) {
		if !errors.Is(err, unix.ESHUTDOWN) {
			t.Error(err)
		}
	}
}

// TestWatchOverflow: that events were lost is told, and what comes afterwards too,
// also in directories whose making was lost.
func TestWatchOverflow(t *testing.T) {
	b, err := os.ReadFile("/proc/sys/fs/inotify/max_queued_events")
	var limit int
	if _, scanErr := fmt.Sscan(string(b), &limit); err != nil || scanErr != nil || limit > 20000 {
		t.Skip("the kernel's queue is too long to overflow it here", limit)
	}
	dir := t.TempDir()
	w, err := newWatch(wire.FileWatch{Path: dir, Recursive: true, Events: wire.WatchTypes()})
	if err != nil {
		t.Fatal(err)
	}
	defer w.notify.Close()
	flood := func(n int) {
		for i := range n {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%d", i%2)), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			_ = os.Remove(filepath.Join(dir, fmt.Sprintf("f%d", i%2)))
		}
	}
	flood(limit)
	if err := os.MkdirAll(filepath.Join(dir, "lost/below"), 0o755); err != nil {
		t.Fatal(err)
	}
	var told strings.Builder
	w.stream = &stream{FrameWriter: wire.NewFrameWriter(&told)}
	for range 1000 {
		_ = w.notify.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if err := w.read(); err != nil {
			break
		}
	}
	if !strings.Contains(told.String(), `{"overflow":true}`) {
		t.Error("it was not told")
	}
	_ = os.WriteFile(filepath.Join(dir, "lost/below/file"), nil, 0o644)
	_ = w.notify.SetReadDeadline(time.Now().Add(patience))
	if err := w.read(); err != nil {
		t.Fatal(err)
	}
	if err := w.pending.flush(w.stream); err != nil || !strings.Contains(told.String(), "lost/below/file") {
		t.Error("a directory whose making was lost is not watched", err)
	}
}
