//go:build linux

package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/client"
	"golang.org/x/sys/unix"
)

// TestRemoveAll: a tree goes, and nothing that links in it lead to does.
func TestRemoveAll(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	outside := in("outside")
	var err error
	for _, d := range []string{"outside", "tree", "tree/empty", "tree/a", "tree/a/b", "tree/full"} {
		err = errors.Join(err, os.Mkdir(in(d), 0o755))
	}
	err = errors.Join(err, os.WriteFile(in("outside/f"), nil, 0o600), os.Symlink(outside, in("tree/a/b/link")), os.Symlink("..", in("tree/up")),
		unix.Mkfifo(in("tree/fifo"), 0o600), os.WriteFile(in("tree/b\xff"), nil, 0o400), os.Symlink(outside, in("link")), os.Symlink("tree", in("way")))
	for i := range 1000 {
		err = errors.Join(err, os.WriteFile(in(fmt.Sprintf("tree/full/%d", i)), nil, 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		path    string
		removed int64
		want    error
	}{
		{in("nosuch"), 0, fs.ErrNotExist}, {in("outside") + "/f/", 0, unix.ENOTDIR}, {in("link") + "/", 1, nil}, {dir + "/tree/.", 0, unix.EINVAL},
		{dir + "/tree/a/..", 0, unix.EINVAL}, {"/", 0, nil}, {in("way/full"), 1001, nil}, {in("way"), 1, nil}, {in("tree"), 8, nil},
	} {
		if row.path == "/" {
			if err := new(removal).tree(t.Context(), "/"); !errors.Is(err, unix.EINVAL) {
				t.Fatal(err)
			}
			continue
		}
		if n, err := c.RemoveAll(t.Context(), row.path); !errors.Is(err, row.want) && row.path != in("outside")+"/f/" || n != row.removed && row.want == nil {
			t.Errorf("%s: %d, %v", row.path, n, err)
		}
		if row.path == in("outside")+"/f/" { // as file_delete has it, slashes do not count
			if err := os.WriteFile(in("outside/f"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if left := strings.Join(readDir(t, dir), " "); left != "outside" || len(readDir(t, outside)) != 1 {
		t.Errorf("left %s, %v", left, readDir(t, outside))
	}
}

// TestRemoveDeep: a tree deeper than a path may be long, with no more open files.
func TestRemoveDeep(t *testing.T) {
	a := spawn(t, prepare{Open: 40}, nil)
	c := client.New(client.Unix(a.socket))
	dir := t.TempDir()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	name := strings.Repeat("n", 100)
	for range 300 {
		if err := unix.Mkdirat(fd, name, 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		_ = unix.Close(fd)
		fd = next
	}
	_ = unix.Close(fd)
	// What is too deep for a path is told, not left out.
	unlisted := ""
	n := 0
	for e, err := range c.List(t.Context(), dir, client.ListOptions{Recursive: true}) {
		if err != nil {
			t.Fatal(err)
		}
		unlisted, n = e.Unlisted, n+1
	}
	if unlisted != "ENAMETOOLONG" || n < 30 {
		t.Errorf("%d directories, then %q", n, unlisted)
	}
	if n, err := c.RemoveAll(t.Context(), filepath.Join(dir, name)); err != nil || n != 300 {
		t.Errorf("%d, %v", n, err)
	}
	if left := readDir(t, dir); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

// TestRemoveMount: what is mounted in the tree is not touched.
func TestRemoveMount(t *testing.T) {
	needRoot(t)
	dir, other := shortDir(t), shortDir(t)
	for _, path := range []string{dir + "/tree", dir + "/tree/m", dir + "/tree/n"} {
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(other+"/f", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, m := range []testMount{{"tmpfs", dir + "/tree/m", "tmpfs", ""}, {other, dir + "/tree/n", "", "bind"}} {
		a := spawn(t, prepare{Mounts: []testMount{m}}, nil)
		c := client.New(client.Unix(a.socket))
		if m.Type == "tmpfs" {
			if _, err := c.Put(t.Context(), m.Target+"/f", strings.NewReader("x"), client.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		for _, path := range []string{dir + "/tree", m.Target} {
			if _, err := c.RemoveAll(t.Context(), path); !errors.Is(err, unix.EBUSY) {
				t.Errorf("%s with %+v: %v", path, m, err)
			}
		}
		if _, err := os.Stat(a.root() + m.Target + "/f"); err != nil {
			t.Error(err)
		}
		_ = os.Mkdir(dir+"/tree/m", 0o755)
		_ = os.Mkdir(dir+"/tree/n", 0o755)
	}
}

// TestRemoveSwapped: a directory that is swapped for a link again and again never
// leads the removal out of the tree.
func TestRemoveSwapped(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(os.Mkdir(in("outside"), 0o755), os.WriteFile(in("outside/f"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	stop, swapped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(swapped)
		for {
			select {
			case <-stop:
				return
			default:
				_ = os.MkdirAll(in("tree/d"), 0o755)
				_ = os.WriteFile(in("tree/d/x"), nil, 0o600)
				_ = os.Symlink(in("outside"), in("tree/s"))
				_ = unix.Renameat2(unix.AT_FDCWD, in("tree/d"), unix.AT_FDCWD, in("tree/s"), unix.RENAME_EXCHANGE)
			}
		}
	}()
	for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); {
		_, _ = c.RemoveAll(t.Context(), in("tree")) // whatever comes of it
		if _, err := os.Stat(in("outside/f")); err != nil {
			t.Error("it left the tree")
			break
		}
	}
	close(stop)
	<-swapped
}

// TestRemovalMoved: a directory that is moved elsewhere while it is being emptied
// takes nothing there with it.
func TestRemovalMoved(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.MkdirAll(dir+"/tree/a", 0o755), os.MkdirAll(dir+"/other/tree", 0o755), os.WriteFile(dir+"/other/f", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	top, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	r := removal{dir: top}
	defer func() { _ = r.dir.Close() }()
	if err := errors.Join(r.down("tree"), r.down("a"), os.Rename(dir+"/tree/a", dir+"/other/a")); err != nil {
		t.Fatal(err)
	}
	if err := r.up(); !errors.Is(err, unix.EBUSY) {
		t.Error(err)
	}
	if left := strings.Join(readDir(t, dir+"/other"), " "); left != "a f tree" {
		t.Error(left)
	}
}
