package rootfsskel

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write the golden files")

func TestResolve(t *testing.T) {
	tree := NewTree(0)
	for _, e := range []struct {
		path string
		n    *Inode
	}{
		{"/usr/bin", Dir(0o755, 0)},
		{"/bin", Symlink("usr/bin", 0)},
		{"/abs", Symlink("/usr", 0)},
		{"/usr/abs", Symlink("/opt", 0)},
		{"/out", Symlink("../../../etc", 0)},
		{"/usr/up", Symlink("../../../bin", 0)},
		{"/loop", Symlink("loop", 0)},
		{"/file", File(0o644, 0, nil)},
		{"/gone", Symlink("run/no/where", 0)},
	} {
		if _, err := tree.Fill(e.path, e.n); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		path string
		last bool
		want string
		err  error
	}{
		{"/bin/sh", false, "/usr/bin/sh", nil},
		{"/bin", false, "/bin", nil},
		{"/bin", true, "/usr/bin", nil},
		{"/abs/bin/x", false, "/usr/bin/x", nil},
		{"/usr/abs/x", false, "/opt/x", nil},
		{"/out/passwd", false, "/etc/passwd", nil},
		{"/usr/up/x", false, "/usr/bin/x", nil},
		{"/../../x", false, "/x", nil},
		{"/gone/y", false, "/run/no/where/y", nil},
		{"/gone", true, "/run/no/where", nil},
		{"/loop/x", false, "", unix.ELOOP},
		{"/loop", true, "", unix.ELOOP},
		{"/file/x", false, "", unix.ENOTDIR},
		{"/", true, "/", nil},
	} {
		got, err := tree.resolve(c.path, c.last)
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("resolve(%q, %v) = %q, %v; want %q, %v", c.path, c.last, got, err, c.want, c.err)
		}
	}
}

func TestPutAndFill(t *testing.T) {
	tree := NewTree(0)
	put := func(p string, n *Inode) {
		t.Helper()
		if _, err := tree.Put(p, n); err != nil {
			t.Fatal(err)
		}
	}
	put("/d/a/b", File(0o600, 0, []byte("old")))
	put("/dx", File(0o600, 0, nil))
	put("/d", Dir(0o700, 0)) // merged: what is in it stays
	if _, ok := tree.Lookup("/d/a/b"); !ok {
		t.Error("a directory put over a directory took what was in it")
	}
	if done, err := tree.Fill("/d/a/b", File(0o644, 0, []byte("new"))); done || err != nil {
		t.Errorf("Fill over a file: %v, %v", done, err)
	}
	put("/d", File(0o644, 0, nil)) // replaces the whole directory
	for _, gone := range []string{"/d/a", "/d/a/b"} {
		if _, ok := tree.nodes[gone]; ok {
			t.Errorf("%s is left below a file", gone)
		}
	}
	if _, ok := tree.nodes["/dx"]; !ok {
		t.Error("/dx went with /d")
	}
	if _, err := tree.Fill("/d/x", File(0o644, 0, nil)); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("Fill below a file: %v, want ENOTDIR", err)
	}
	if _, err := tree.Put("/", File(0o644, 0, nil)); err == nil {
		t.Error("the root became a file")
	}
}

func TestEntriesOrder(t *testing.T) {
	tree := NewTree(0)
	for _, p := range []string{"/a-b", "/a/c", "/a.b/c", "/ab"} {
		if _, err := tree.Fill(p, File(0o644, 0, nil)); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, e := range tree.Entries() {
		got = append(got, e.Path)
	}
	want := []string{"/", "/a", "/a/c", "/a-b", "/a.b", "/a.b/c", "/ab"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// program returns one with the links of the real one.
func program(t *testing.T) Program {
	t.Helper()
	host := filepath.Join(t.TempDir(), "hf")
	if err := os.WriteFile(host, []byte("the binary"), 0o700); err != nil {
		t.Fatal(err)
	}
	return Program{Host: host, Path: "/init", Links: []string{
		"/sbin/init", "/usr/sbin/hf-agent", "/usr/sbin/poweroff", "/usr/bin/hf-vsock-client"}}
}

// config is one for a small tree with everything of the skeleton.
func config(t *testing.T, overlays ...string) Config {
	t.Helper()
	times, err := TimesFrom("")
	if err != nil {
		t.Fatal(err)
	}
	return Config{
		Program:     program(t),
		MountPoints: []MountPoint{{"/proc", 0o555}, {"/run", 0o755}, {"/tmp", 0o1777}, {"/sys/fs/cgroup", 0o555}},
		Devices: []Device{
			{"/dev/console", 0o600, 5, 1}, {"/dev/full", 0o666, 1, 7}, {"/dev/null", 0o666, 1, 3}, {"/dev/random", 0o666, 1, 8},
			{"/dev/tty", 0o666, 5, 0}, {"/dev/urandom", 0o666, 1, 9}, {"/dev/zero", 0o666, 1, 5},
		},
		Overlays: overlays,
		Times:    times,
		Note:     func(s string) { t.Log("note:", s) },
	}
}

func build(t *testing.T, c Config) *Tree {
	t.Helper()
	tree, err := Build(c)
	if err != nil {
		t.Fatal(err)
	}
	checkShape(t, tree)
	return tree
}

// checkShape checks what the writers rely on.
func checkShape(t *testing.T, tree *Tree) {
	t.Helper()
	for p := range tree.nodes {
		if p == "/" {
			continue
		}
		if dir, ok := tree.nodes[filepath.Dir(p)]; !ok || !dir.isDir() || p != filepath.Clean(p) {
			t.Errorf("%s: its parent is no directory of the tree", p)
		}
	}
}

func TestGoldenListing(t *testing.T) {
	var got strings.Builder
	if err := build(t, config(t)).WriteList(&got); err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "list.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("the skeleton changed (go test -update writes %s):\n%s", golden, got.String())
	}
}

func TestTimes(t *testing.T) {
	for _, c := range []struct {
		env         string
		made        int64
		found, want int64
	}{
		{"", defaultMTime, 1e9, 1e9},
		{"", defaultMTime, -5, 0},
		{"", defaultMTime, 1 << 40, maxMTime},
		{"1000", 1000, 1e9, 1000},
		{"1000", 1000, 999, 999},
		{"0", 0, 999, 0},
	} {
		times, err := TimesFrom(c.env)
		if err != nil {
			t.Fatal(err)
		}
		if got := times.Made(); got != c.made {
			t.Errorf("SOURCE_DATE_EPOCH=%q: made at %d, want %d", c.env, got, c.made)
		}
		if got := times.Found(c.found); got != c.want {
			t.Errorf("SOURCE_DATE_EPOCH=%q: found at %d becomes %d, want %d", c.env, c.found, got, c.want)
		}
	}
	for _, bad := range []string{"x", "-1", "1.5", "99999999999"} {
		if _, err := TimesFrom(bad); err == nil {
			t.Errorf("SOURCE_DATE_EPOCH=%q was taken", bad)
		}
	}
}
