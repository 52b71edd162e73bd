//go:build linux

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// names lists a directory.
func names(t *testing.T, c *client.Client, path string, o client.ListOptions) (names []string) {
	t.Helper()
	for e, err := range c.List(t.Context(), path, o) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, e.Name)
	}
	return names
}

// TestFileList: each kind of file is told of as what it is.
func TestFileList(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	err := errors.Join(
		os.WriteFile(in("file"), []byte("abc"), 0o600), os.Chmod(in("file"), 0o751|os.ModeSetuid), os.Mkdir(in("sub"), 0o700),
		os.WriteFile(in("sub/deep"), nil, 0o600), unix.Mkfifo(in("fifo"), 0o600), os.Symlink("sub", in("link")), os.Symlink("t\xffo", in("bytes")),
		os.WriteFile(in("b\xfft"), nil, 0o600), os.Symlink(".", in("loop")), os.Symlink("nowhere", in("dangling")))
	if err != nil {
		t.Fatal(err)
	}
	type row struct {
		mode   fs.FileMode
		target string
		size   int64
	}
	want := map[string]row{
		"file": {0o751 | fs.ModeSetuid, "", 3}, "sub": {0o700 | fs.ModeDir, "", -1}, "sub/deep": {0o600, "", 0}, "fifo": {0o600 | fs.ModeNamedPipe, "", 0},
		"link": {0o777 | fs.ModeSymlink, "sub", 3}, "bytes": {0o777 | fs.ModeSymlink, "t\xffo", 3}, "b\xfft": {0o600, "", 0},
		"loop": {0o777 | fs.ModeSymlink, ".", 1}, "dangling": {0o777 | fs.ModeSymlink, "nowhere", 7},
	}
	var order []string
	for e, err := range c.List(t.Context(), dir, client.ListOptions{Recursive: true}) {
		if err != nil {
			t.Fatal(err)
		}
		order = append(order, e.Name)
		w, ok := want[e.Name]
		st, statErr := os.Lstat(in(e.Name))
		if !ok || e.Mode != w.mode || e.Target != w.target || w.size >= 0 && e.Size != w.size || e.UID != os.Getuid() || e.Unlisted != "" || statErr != nil || !st.ModTime().Equal(e.ModTime) {
			t.Errorf("%+v, want %+v", e, w)
		}
	}
	if len(order) != len(want) || !slices.IsSorted(order) {
		t.Errorf("%q", order)
	}
	if got := names(t, c, dir, client.ListOptions{}); len(got) != len(want)-1 || slices.Contains(got, "sub/deep") {
		t.Errorf("%q", got)
	}
	if got := names(t, c, in("link"), client.ListOptions{}); len(got) != 1 {
		t.Errorf("the path itself may be a link: %q", got)
	}
	if got := names(t, c, in("sub"), client.ListOptions{Page: 1}); len(got) != 1 {
		t.Errorf("%q", got)
	}
	for path, want := range map[string]error{in("file"): unix.ENOTDIR, in("nosuch"): fs.ErrNotExist} {
		for _, err := range c.List(t.Context(), path, client.ListOptions{}) {
			if !errors.Is(err, want) {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
}

// TestFileListPages: whatever the size of a page, and however the directories are
// read, each name comes once and in the order of its components.
func TestFileListPages(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	dir := t.TempDir()
	var want []string
	add := func(path string, isDir bool) {
		want = append(want, path)
		if isDir {
			if err := os.Mkdir(filepath.Join(dir, path), 0o755); err != nil {
				t.Fatal(err)
			}
		} else if err := os.WriteFile(filepath.Join(dir, path), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 9 { // "d-0x" sorts between "d-0" and "d-0/…" as bytes, not as a path
		d := fmt.Sprintf("d-%d", i)
		add(d, true)
		add(d+"x", false)
		for j := range 150 { // more than a batch at this depth and below
			add(fmt.Sprintf("%s/%03d", d, j), j%50 == 0)
		}
	}
	deep := "z"
	add(deep, true)
	for range 40 {
		deep += "/z"
		add(deep, true)
	}
	for j := range 200 {
		add(fmt.Sprintf("%s/%d", deep, j), false)
	}
	slices.SortFunc(want, byComponent)
	for _, page := range []int{1, 7, 64, 1000, 10000} {
		if page == 1 && testing.Short() {
			continue
		}
		if got := names(t, c, dir, client.ListOptions{Recursive: true, Page: page}); !slices.Equal(got, want) {
			t.Errorf("pages of %d: %d names, want %d", page, len(got), len(want))
		}
	}
}

func byComponent(a, b string) int {
	return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/"))
}

// TestFileListChanges: names that come and go between two pages hide no others,
// not even the ones that the page ended with.
func TestFileListChanges(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	dir := t.TempDir()
	for i := range 100 {
		sub := filepath.Join(dir, fmt.Sprintf("%02d", i))
		if err := errors.Join(os.Mkdir(sub, 0o755), os.WriteFile(sub+"/f", nil, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	var seen []string
	for e, err := range c.List(t.Context(), dir, client.ListOptions{Recursive: true, Page: 3}) {
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, e.Name)
		// What has been told goes away, with all that is in it.
		if err := os.RemoveAll(filepath.Join(dir, e.Name[:2])); err != nil {
			t.Fatal(err)
		}
		_ = os.WriteFile(filepath.Join(dir, e.Name[:2]+"-new"), nil, 0o644)
	}
	for i := range 100 {
		if !slices.Contains(seen, fmt.Sprintf("%02d", i)) {
			t.Errorf("%02d is missing in %q", i, seen)
			break
		}
	}
	if !slices.IsSortedFunc(seen, byComponent) {
		t.Errorf("%q", seen)
	}
}

// TestFileListBounded: a page of long names ends before it is a line that clients
// refuse, and one of a large directory costs no memory.
func TestFileListBounded(t *testing.T) {
	a := spawn(t, prepare{}, nil)
	dir := shortDir(t)
	long := strings.Repeat("\xff", 240) // three bytes each in JSON, and base64 besides
	const files = 6000
	for i := range files {
		f, err := os.Create(fmt.Sprintf("%s/%05d%s", dir, i, long))
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	}
	before := a.kilobytes(t, "VmHWM")
	line := say(t, a.socket, object{"operation": "file_list", "path": dir, "limit": wire.MaxList}.line())
	var r struct{ Data wire.List }
	if err := json.Unmarshal([]byte(line), &r); err != nil || len(line) > 2*pageBytes || r.Data.Next == "" || len(r.Data.Entries) < 100 {
		t.Errorf("%d bytes, %d entries, next %q, %v", len(line), len(r.Data.Entries), r.Data.Next, err)
	}
	c := client.New(client.Unix(a.socket))
	if got := names(t, c, dir, client.ListOptions{Page: wire.MaxList}); len(got) != files {
		t.Errorf("%d names", len(got))
	}
	if after := a.kilobytes(t, "VmHWM"); after > before+8<<10 && !raceEnabled() {
		t.Errorf("%d kB, before %d", after, before)
	}
}

// TestFileListProc: a tree that changes while it is listed, as no other does.
func TestFileListProc(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	n := 0
	for _, err := range c.List(t.Context(), "/proc/self", client.ListOptions{Recursive: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n > 3000 {
			break
		}
	}
	if n < 100 {
		t.Errorf("%d names", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range c.List(ctx, "/proc", client.ListOptions{}) {
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}
