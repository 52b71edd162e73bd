//go:build linux

package agent

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/internal/agenttest"
	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// TestCopyTree: a tree goes to the guest and comes back as a copy keeps it.
func TestCopyTree(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	tree := makeTree(t)
	guest, back := filepath.Join(t.TempDir(), "guest"), filepath.Join(t.TempDir(), "back")
	var passed int64
	o := client.CopyOptions{Progress: func(n int64) { passed = n }}
	to, err := c.CopyTo(t.Context(), tree, guest, o)
	if err != nil || to.Bytes != passed || to.Bytes > 2<<20 { // less the holes
		t.Fatal(to, passed, err)
	}
	if skipped := strings.Join(to.Skipped, " "); !strings.Contains(skipped, "fifo") {
		t.Error(skipped)
	}
	from, err := c.CopyFrom(t.Context(), guest, back, o)
	if err != nil || from.Bytes < 33<<20 || from.Entries != to.Entries-1 || len(from.Skipped) != 0 {
		t.Fatal(from, to, err)
	}
	plain := func(top string) (lines []string) {
		for _, line := range describeTree(t, top)[1:] {
			f := strings.Fields(line)
			// Less owners, special bits, names for one file, and what is skipped.
			if strings.HasPrefix(line, `"fifo"`) || strings.HasPrefix(line, `"null"`) || strings.HasPrefix(line, `"disk"`) {
				continue
			}
			i := slices.IndexFunc(f, func(s string) bool { return strings.Contains(s, ":") })
			mode := f[i-1]
			if strings.Contains(line, " -> ") {
				f[i+1] = "" // nor the times of links
			}
			lines = append(lines, fmt.Sprint(f[:i-1], mode[:len(mode)-4], mode[len(mode)-3:], f[i+1:min(len(f), i+4)]))
		}
		return lines
	}
	w := plain(tree)
	for i, g := range plain(back) {
		if g, w := strings.TrimSuffix(g, " is]"), strings.TrimSuffix(at(w, i), " is]"); !strings.HasPrefix(w, strings.TrimSuffix(g, "]")) {
			t.Errorf("\n got %s\nwant %s", g, w)
		}
	}
}

// TestCopyFromHostile: a guest that sends an archive of its own making changes
// nothing outside of the directory that it is for.
func TestCopyFromHostile(t *testing.T) {
	for _, row := range []struct {
		what    string
		archive []*tar.Header
		refused bool
	}{
		{"absolute", []*tar.Header{file("/tmp/x")}, true},
		{"parent", []*tar.Header{file("../outside/file")}, true},
		{"parent behind something", []*tar.Header{file("real/../../outside/file")}, true},
		{"through a link that is there", []*tar.Header{file("out/file")}, true},
		{"through its own link", []*tar.Header{symlink("l", "../outside"), file("l/file")}, true},
		{"into a link", []*tar.Header{symlink("l", "../outside/file"), file("l")}, false},
		{"by the name of the partial file", []*tar.Header{symlink(".hf-partial", "../outside/file"), file("x"), file(".hf-partial")}, false},
		{"a directory that becomes a link", []*tar.Header{folder("d"), symlink("d", "../outside"), file("d/file")}, true},
		{"a link that becomes a directory", []*tar.Header{symlink("l", "../outside"), folder("l")}, true},
		{"hard link to the parent", []*tar.Header{hardLink("l", "../outside/file"), file("l")}, true},
		{"hard link through a link", []*tar.Header{hardLink("l", "out/file")}, true},
		{"hard link to a link, and through it", []*tar.Header{hardLink("l", "outfile"), file("l")}, false},
		{"itself", []*tar.Header{file(".")}, false},
		{"a very deep name", []*tar.Header{file(strings.Repeat("d/", 3000) + "f")}, true},
	} {
		dir, target := hostile(t)
		beside := append(describeTree(t, dir+"/outside"), readDir(t, dir)...)
		socket := agenttest.Listen(t, func(c net.Conn) {
			_, _ = bufio.NewReader(c).ReadString('\n')
			_, _ = io.WriteString(c, `{"success":true,"data":{}}`+"\n")
			archive, _ := io.ReadAll(tarOf(row.archive...))
			frames := wire.NewFrameWriter(c)
			_, _ = frames.Bytes(wire.KindData, archive)
			_ = frames.Empty(wire.KindEnd)
			_ = frames.Encode(wire.KindExit, wire.TarResult{})
		})
		_, err := client.New(client.Unix(socket)).CopyFrom(t.Context(), "/x", target, client.CopyOptions{})
		if (err != nil) != row.refused {
			t.Errorf("%s: %v", row.what, err)
		}
		if now := append(describeTree(t, dir+"/outside"), readDir(t, dir)...); !slices.Equal(now, beside) {
			t.Errorf("%s: outside there is now\n%s\nbefore\n%s", row.what, strings.Join(now, "\n"), strings.Join(beside, "\n"))
		}
	}
}

// TestCopiesAtOnce: two copies of a tree into one directory leave each file whole, and
// a file of any name is one.
func TestCopiesAtOnce(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	guest, back := t.TempDir(), t.TempDir()
	for name, size := range map[string]int{"big": 1 << 20, ".hf-partial": 5, "last": 5} {
		if err := os.WriteFile(filepath.Join(guest, name), bytes.Repeat([]byte("x"), size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mine := filepath.Join(back, ".hf-partial")
	if err := os.WriteFile(mine, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	again := sync.OnceFunc(func() {
		o := client.CopyOptions{Exclude: []string{".hf-partial"}}
		if _, err := c.CopyFrom(t.Context(), guest, back, o); err != nil {
			t.Error("the other:", err)
		}
		if b, err := os.ReadFile(mine); err != nil || len(b) < 4 {
			t.Errorf("a file that was there: %q, %v", b, err)
		}
	})
	o := client.CopyOptions{Progress: func(n int64) {
		if n > 5 { // in the middle of the big one
			again()
		}
	}}
	if _, err := c.CopyFrom(t.Context(), guest, back, o); err != nil {
		t.Error(err)
	}
	for name, size := range map[string]int{"big": 1 << 20, ".hf-partial": 5, "last": 5} {
		if b, err := os.ReadFile(filepath.Join(back, name)); err != nil || len(b) != size {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
	if names := readDir(t, back); len(names) != 3 {
		t.Error(names)
	}
}

// TestCopyOfShrinking: a file that becomes shorter while it is sent is told of, and
// the rest is not affected.
func TestCopyOfShrinking(t *testing.T) {
	c := client.New(client.Unix(serve(t, testLimits()).socket))
	tree, guest := t.TempDir(), filepath.Join(t.TempDir(), "guest")
	for name, size := range map[string]int{"a": 10, "log": 8 << 20, "z": 10} {
		if err := os.WriteFile(filepath.Join(tree, name), bytes.Repeat([]byte("x"), size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	shrink := sync.OnceFunc(func() { _ = os.Truncate(filepath.Join(tree, "log"), 100) })
	o := client.CopyOptions{Progress: func(n int64) {
		if n > 10 {
			shrink()
		}
	}}
	result, err := c.CopyTo(t.Context(), tree, guest, o)
	if err != nil || len(result.Skipped) != 1 || !strings.HasPrefix(result.Skipped[0], "log: it became shorter") {
		t.Errorf("%+v, %v", result, err)
	}
	b, err := os.ReadFile(filepath.Join(guest, "log"))
	if err != nil || len(b) != 8<<20 || b[99] != 'x' || b[len(b)-1] != 0 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if names := strings.Join(readDir(t, guest), " "); names != "a log z" {
		t.Error(names)
	}
}

// TestCopyErrors: what can't be read here, and what the guest refuses.
func TestCopyErrors(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	dir := t.TempDir()
	if _, err := c.CopyTo(t.Context(), dir+"/nosuch", dir+"/x", client.CopyOptions{}); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if _, err := c.CopyFrom(t.Context(), dir+"/nosuch", dir+"/x/y", client.CopyOptions{}); !errors.Is(err, os.ErrNotExist) || len(readDir(t, dir)) > 0 {
		t.Error(err, readDir(t, dir))
	}
	if _, err := c.CopyFrom(t.Context(), dir, "/dev/null/x", client.CopyOptions{}); !errors.Is(err, unix.ENOTDIR) {
		t.Error(err)
	}
	_ = os.MkdirAll(dir+"/tree/a/b", 0o755)
	_ = os.WriteFile(dir+"/tree/a/b/c.o", nil, 0o644)
	if _, err := c.CopyTo(t.Context(), dir+"/tree", dir+"/copy", client.CopyOptions{Exclude: []string{"*.o"}}); err != nil || len(readDir(t, dir+"/copy/a/b")) != 0 {
		t.Error("exclude:", err)
	}
	if _, err := c.CopyTo(t.Context(), dir+"/tree", dir+"/copy", client.CopyOptions{Exclude: []string{"["}}); err == nil {
		t.Error("what is no pattern was taken")
	}
	_ = os.WriteFile(dir+"/f", nil, 0o644)
	if _, err := c.CopyTo(t.Context(), dir, dir+"/f", client.CopyOptions{}); err == nil {
		t.Error("a tree was copied into a file")
	}
}
