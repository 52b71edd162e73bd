package rootfsskel

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// overlay makes a directory: a name that ends in "/" is a directory, a value that
// begins with "->" a link, anything else a file.
func overlay(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch target, isLink := strings.CutPrefix(content, "->"); {
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(p, 0o755)
		case isLink:
			err = os.Symlink(target, p)
		default:
			err = os.WriteFile(p, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// entryAt is the entry as the listing has it; empty if there is none.
func entryAt(tree *Tree, p string) string {
	if n, ok := tree.nodes[p]; ok {
		return Entry{p, n}.String()
	}
	return ""
}

func TestOverlay(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		want  map[string]string // path → the end of its line; "" for none
	}{
		{"its files win", map[string]string{"etc/hostname": "mine", "sbin/init": "systemd", "usr/sbin/hf-agent": "not ours"},
			map[string]string{
				"/etc/hostname":      " 4 /etc/hostname",
				"/sbin/init":         " 7 /sbin/init",
				"/usr/sbin/hf-agent": "/usr/sbin/hf-agent -> ../../init",
				"/etc/passwd":        " /etc/passwd",
				"/bin":               "/bin -> usr/bin",
			}},
		{"the binary is ours", map[string]string{"init": "another"},
			map[string]string{"/init": " 10 /init"}},
		{"the binary replaces a directory", map[string]string{"init/x": "y"},
			map[string]string{"/init": " 10 /init", "/init/x": ""}},
		{"merged usr", map[string]string{"usr/sbin/": "", "usr/bin/": "", "bin": "->usr/bin", "sbin": "->/usr/sbin"},
			map[string]string{"/usr/sbin/init": "/usr/sbin/init -> ../../init", "/sbin": "/sbin -> /usr/sbin", "/sbin/init": ""}},
		{"a link that leads out stays inside", map[string]string{"etc": "->/../../tmp/elsewhere", "var": "->../../../../v"},
			map[string]string{"/tmp/elsewhere/passwd": " /tmp/elsewhere/passwd", "/v/log": " /v/log", "/etc": "/etc -> /../../tmp/elsewhere"}},
		{"a dangling link for a file stays", map[string]string{"etc/resolv.conf": "->../run/systemd/resolve/stub-resolv.conf"},
			map[string]string{"/etc/resolv.conf": "-> ../run/systemd/resolve/stub-resolv.conf", "/run/systemd": ""}},
		{"a dangling link for a directory gets it", map[string]string{"tmp": "->private/tmp"},
			map[string]string{"/private/tmp": "d1777 0:0 - /private/tmp"}},
		{"a file in the way is told", map[string]string{"var": "a file", "usr/sbin": "->usr/sbin"},
			map[string]string{"/var": " 6 /var", "/var/log": "", "/init": " 10 /init"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			tree := build(t, config(t, overlay(t, c.files)))
			for p, want := range c.want {
				got := entryAt(tree, p)
				if (want == "") != (got == "") || !strings.HasSuffix(got, want) {
					t.Errorf("%s: %q, want …%q", p, got, want)
				}
			}
		})
	}
}

func TestOverlaysInOrder(t *testing.T) {
	low := overlay(t, map[string]string{"usr/bin/a": "low", "bin": "->usr/bin", "x/y": "low", "keep": "low"})
	high := overlay(t, map[string]string{"bin/a": "higher", "x": "a file now"})
	tree := build(t, config(t, low, high))
	for p, want := range map[string]string{"/usr/bin/a": " 6 /usr/bin/a", "/bin": "-> usr/bin", "/x": " 10 /x", "/keep": " 3 /keep"} {
		if got := entryAt(tree, p); !strings.HasSuffix(got, want) {
			t.Errorf("%s: %q, want …%q", p, got, want)
		}
	}
}

func TestOverlayKeeps(t *testing.T) {
	dir := overlay(t, map[string]string{"suid": "s", "one": "linked", marker: "of an earlier run"})
	if err := unix.Chmod(filepath.Join(dir, "suid"), 0o4711); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(dir, "one"), filepath.Join(dir, "two")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	tree := build(t, config(t, dir))
	if got := entryAt(tree, "/"); got != "d0755 0:0 - /" {
		t.Errorf("the root: %q", got)
	}
	if got := entryAt(tree, "/suid"); !strings.HasPrefix(got, "-4711 ") {
		t.Errorf("set-user-ID: %q", got)
	}
	if got := entryAt(tree, "/fifo"); !strings.HasPrefix(got, "p0") {
		t.Errorf("fifo: %q", got)
	}
	if tree.nodes["/one"] != tree.nodes["/two"] {
		t.Error("hard links are two files")
	}
	if _, ok := tree.nodes[marker]; ok {
		t.Error("the marker of a directory that hf-rootfs made was copied")
	}
}

func TestNoteForReplacedInit(t *testing.T) {
	var notes []string
	c := config(t, overlay(t, map[string]string{"init": "another", "usr/sbin/poweroff": "busybox"}))
	c.Note = func(s string) { notes = append(notes, s) }
	build(t, c)
	all := strings.Join(notes, "\n")
	for _, want := range []string{"/init: the overlay's is replaced", "/usr/sbin/poweroff: the overlay's is kept"} {
		if !strings.Contains(all, want) {
			t.Errorf("no note %q in:\n%s", want, all)
		}
	}
}

func TestOverlayMissing(t *testing.T) {
	c := config(t, filepath.Join(t.TempDir(), "none"))
	if _, err := Build(c); err == nil || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an overlay that is not there: %v", err)
	}
}
