//go:build linux

package agent

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// describeTree says all of a tree that an archive keeps, one line a name.
func describeTree(t testing.TB, top string) []string {
	t.Helper()
	var lines []string
	first := map[uint64]string{}
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		name, _ := filepath.Rel(top, path)
		line := fmt.Sprintf("%q %o %d:%d %d.%09d", name, st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %x", len(b), sha256.Sum256(b))
		case unix.S_IFLNK:
			to, _ := os.Readlink(path)
			line += fmt.Sprintf(" -> %q", to)
		case unix.S_IFCHR, unix.S_IFBLK:
			line += fmt.Sprintf(" %d", st.Rdev)
		}
		if st.Nlink > 1 && !d.IsDir() {
			if first[st.Ino] == "" {
				first[st.Ino] = name
			}
			line += fmt.Sprintf(" is %q", first[st.Ino])
		}
		var attributes []string
		_ = eachAttribute(path, func(key string, value []byte) { attributes = append(attributes, fmt.Sprintf("%s=%q", key, value)) })
		slices.Sort(attributes)
		lines = append(lines, line+" "+strings.Join(attributes, " "))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// makeTree makes a tree with one of everything that an archive keeps. What this
// user or filesystem can't make is not in it.
func makeTree(t testing.TB) string {
	t.Helper()
	top := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	p := func(name string) string { return filepath.Join(top, name) }
	must(os.MkdirAll(p("a/b/c"), 0o755))
	must(os.Mkdir(p("empty"), 0o755))
	must(os.WriteFile(p("a/nothing"), nil, 0o600))
	must(os.WriteFile(p("a/text"), []byte("hello\n"), 0o644))
	must(os.WriteFile(p("a/b/block"), make([]byte, 512), 0o640))
	big, _ := io.ReadAll(noise(3, 1<<20+7))
	must(os.WriteFile(p("a/b/big"), big, 0o755))
	must(os.WriteFile(p("a/b/\xff not UTF-8\n"), []byte("x"), 0o644))
	long := "long-" + strings.Repeat("é", 100)
	must(os.MkdirAll(p(filepath.Join(long, long)), 0o755))
	must(os.WriteFile(p(filepath.Join(long, long, long)), []byte("deep"), 0o644))
	must(os.Link(p("a/text"), p("a/b/other name")))
	must(os.Symlink("../nowhere", p("a/link")))
	must(os.Symlink("/"+strings.Repeat("far/", 60), p("a/long link")))
	must(unix.Mkfifo(p("fifo"), 0o600))
	must(os.Chmod(p("a/b/c"), 0o555))
	must(os.Chmod(p("fifo"), 0o622))
	sparse, err := os.Create(p("sparse"))
	must(err)
	_, err = sparse.WriteAt([]byte("in the middle"), 5<<20)
	must(err)
	must(sparse.Truncate(32<<20 + 1))
	must(sparse.Close())
	must(os.Truncate(p("a/nothing"), 0))
	hole, err := os.Create(p("hole"))
	must(err)
	must(hole.Truncate(1 << 20))
	must(hole.Close())
	_ = unix.Setxattr(p("a/text"), "user.name", []byte("v\x00\xff\nalue"), 0)
	_ = unix.Setxattr(p("a"), "user.dir", []byte("d"), 0)
	if os.Getuid() == 0 {
		must(os.Chown(p("a/b/block"), 1234, 4_000_000))
		must(os.Lchown(p("a/link"), 12, 34))
		must(unix.Chmod(p("a/b/block"), 0o6750))
		must(unix.Chmod(p("empty"), 0o3777))
		_ = unix.Mknod(p("null"), unix.S_IFCHR|0o620, int(unix.Mkdev(1, 3)))
		_ = unix.Mknod(p("disk"), unix.S_IFBLK|0o600, int(unix.Mkdev(259, 70000)))
	}
	for name, when := range map[string]time.Time{
		"a/text": time.Unix(1e9, 123456789), "a/b/big": time.Unix(-5, 500), "a/b/block": time.Unix(1<<34, 0), "a/b/c": time.Unix(7, 0), "a": time.Unix(8, 1),
	} {
		must(os.Chtimes(p(name), when, when))
	}
	return top
}

func sameTree(t *testing.T, got, want string) {
	t.Helper()
	g, w := describeTree(t, got), describeTree(t, want)
	if len(w) < 15 {
		t.Fatalf("only %d names", len(w))
	}
	for i := range max(len(g), len(w)) {
		if i >= len(g) || i >= len(w) || g[i] != w[i] {
			t.Errorf("name %d of %d and %d:\n got %s\nwant %s", i, len(g), len(w), at(g, i), at(w, i))
		}
	}
}

func at(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "nothing"
}

// TestTarRoundTrip: what goes out comes back in as it was.
func TestTarRoundTrip(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	tree := makeTree(t)
	for _, o := range []client.TarGetOptions{{}, {Compress: wire.Gzip}, {Compress: wire.Zstd}, {Sparse: true}, {Sparse: true, Compress: wire.Gzip, Top: true}, {Sparse: true, Compress: wire.Zstd}} {
		t.Run(fmt.Sprintf("%+v", o), func(t *testing.T) {
			var archive bytes.Buffer
			sent, err := c.TarGet(t.Context(), tree, &archive, o)
			if err != nil || sent.Warned != 0 {
				t.Fatal(sent, err)
			}
			if size := archive.Len(); (o.Sparse || o.Compress != "") && size > 4<<20 {
				t.Errorf("holes went out as %d bytes", size)
			}
			target := filepath.Join(t.TempDir(), "new", "target")
			got, err := c.TarPut(t.Context(), target, &archive, client.TarPutOptions{Make: true, Owners: os.Getuid() == 0})
			if err != nil || got.Warned != 0 || got.Entries != sent.Entries {
				t.Fatal(got, sent, err)
			}
			if o.Top {
				target = filepath.Join(target, filepath.Base(tree))
			}
			sameTree(t, target, tree)
			var st unix.Stat_t
			if err := unix.Stat(filepath.Join(target, "sparse"), &st); o.Sparse && (err != nil || st.Blocks*512 > 1<<20) {
				t.Error("the holes were filled:", st.Blocks, err)
			}
		})
	}
}

// TestTarOthers: GNU tar, where there is one, reads what tar_get writes, and the
// other way round.
func TestTarOthers(t *testing.T) {
	tarProgram, err := exec.LookPath("tar")
	if version, _ := exec.Command("tar", "--version").Output(); err != nil || !bytes.Contains(version, []byte("GNU tar")) {
		t.Skip("needs GNU tar")
	}
	needRoot(t)
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	tree := makeTree(t)
	for _, sparse := range []bool{false, true} {
		theirs := t.TempDir()
		var archive, messages bytes.Buffer
		if _, err := c.TarGet(t.Context(), tree, &archive, client.TarGetOptions{Sparse: sparse}); err != nil {
			t.Fatal(err)
		}
		tar := exec.Command(tarProgram, "-xp", "--numeric-owner", "--same-owner", "--xattrs", "--xattrs-include=*", "-C", theirs)
		tar.Stdin, tar.Stderr = &archive, &messages
		if err := tar.Run(); err != nil {
			t.Fatal(err, messages.String())
		}
		sameTree(t, theirs, tree)
	}
	for _, flags := range [][]string{
		{"--format=pax", "--xattrs"}, {"--format=gnu", "--sparse"}, {"--format=pax", "--sparse"}, {"--format=pax", "--sparse", "--sparse-version=0.0"}, {"--format=pax", "--sparse", "--sparse-version=0.1", "-z"},
	} {
		var archive, messages bytes.Buffer
		tar := exec.Command(tarProgram, append(flags, "-c", "-C", tree, ".")...)
		tar.Stdout, tar.Stderr = &archive, &messages
		if err := tar.Run(); err != nil {
			t.Fatal(err, messages.String())
		}
		target := t.TempDir()
		result, err := c.TarPut(t.Context(), target, &archive, client.TarPutOptions{Owners: true})
		if err != nil || result.Warned != 0 {
			t.Fatal(flags, result, err)
		}
		got, want := describeTree(t, target), describeTree(t, tree)
		for i := range want[1:] {
			// Of what the old format can't say, and of attributes, this is not about.
			if strings.HasPrefix(flags[0], "--format=pax") && flags[1] == "--xattrs" && got[i+1] != want[i+1] || strings.Fields(at(got, i+1))[0] != strings.Fields(want[i+1])[0] {
				t.Errorf("%v:\n got %s\nwant %s", flags, at(got, i+1), want[i+1])
			}
		}
		for _, name := range []string{"sparse", "a/b/big"} {
			if g, _ := checksumFile(t, filepath.Join(target, name)); true {
				if w, _ := checksumFile(t, filepath.Join(tree, name)); g != w {
					t.Errorf("%v: %s differs", flags, name)
				}
			}
		}
	}
}

// archiveNames returns the names in an archive.
func archiveNames(t testing.TB, r io.Reader) (names []string) {
	t.Helper()
	for archive := tar.NewReader(r); ; {
		h, err := archive.Next()
		if err == io.EOF {
			slices.Sort(names)
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
}

// TestTarGetNames: what is in an archive, and how it is called.
func TestTarGetNames(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	dir := filepath.Join(t.TempDir(), "top")
	for _, name := range []string{"a/x.o", "a/b/y.c", "b/y.o", "z"} {
		_ = os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755)
		_ = os.WriteFile(filepath.Join(dir, name), nil, 0o644)
	}
	_ = os.Symlink("top", dir+"-link")
	_ = os.Symlink("nowhere", dir+"-dangling")
	for _, row := range []struct {
		path string
		o    client.TarGetOptions
		want string
	}{
		{dir, client.TarGetOptions{}, "./ a/ a/b/ a/b/y.c a/x.o b/ b/y.o z"},
		{dir + "/", client.TarGetOptions{Top: true}, "top/ top/a/ top/a/b/ top/a/b/y.c top/a/x.o top/b/ top/b/y.o top/z"},
		{dir, client.TarGetOptions{Exclude: []string{"*.o"}}, "./ a/ a/b/ a/b/y.c b/ z"},
		{dir, client.TarGetOptions{Exclude: []string{"b"}}, "./ a/ a/x.o z"},
		{dir, client.TarGetOptions{Exclude: []string{"a/b", "*/*.o"}, Top: true}, "top/ top/a/ top/b/ top/z"},
		{dir + "/a/x.o", client.TarGetOptions{}, "x.o"},
		{dir + "-link", client.TarGetOptions{}, "./ a/ a/b/ a/b/y.c a/x.o b/ b/y.o z"},
		{dir + "-dangling", client.TarGetOptions{}, "top-dangling"},
	} {
		var archive bytes.Buffer
		if _, err := c.TarGet(t.Context(), row.path, &archive, row.o); err != nil {
			t.Error(err)
		}
		if got := strings.Join(archiveNames(t, &archive), " "); got != row.want {
			t.Errorf("%s %+v: %s", row.path, row.o, got)
		}
	}
	if _, err := c.TarGet(t.Context(), dir+"/nosuch", io.Discard, client.TarGetOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// TestTarGetUnreadable: what can't be read is left out with a warning, and the
// other names of such a file are not links to it.
func TestTarGetUnreadable(t *testing.T) {
	needRoot(t)
	name := filepath.Join(t.TempDir(), "f")
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := errors.Join(os.WriteFile(name, nil, 0), os.Link(name, name+"2"), unix.Chmod(dir.Name(), 0o755)); err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Setfsuid(65534); err != nil { // this thread's alone
		t.Fatal(err)
	}
	defer func() { _ = unix.Setfsuid(0) }()
	p := packing{links: map[inode]link{}, w: io.Discard}
	if err := p.directory(dir, "", "", 0); err != nil || p.result.Entries != 0 || p.result.Warned != 2 {
		t.Errorf("%+v %v", p.result, err)
	}
}

// TestTarGetWhileItChanges: a file that shrinks, one that grows and one that goes
// while they are sent leave the archive as whole as it can be.
func TestTarGetWhileItChanges(t *testing.T) {
	l := serve(t, testLimits())
	dir := t.TempDir()
	const size = 8 << 20 // more than a socket holds
	for _, name := range []string{"shrinks", "grows"} {
		if err := os.WriteFile(filepath.Join(dir, name), bytes.Repeat([]byte("x"), size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, change := range map[string]func(string) error{
		"shrinks": func(p string) error { return os.Truncate(p, 5) },
		"grows":   func(p string) error { return os.Truncate(p, size+5) },
	} {
		path := filepath.Join(dir, name)
		var archive bytes.Buffer
		var once bool
		w := writerFunc(func(p []byte) (int, error) {
			if !once { // by now the agent has begun, and waits for us
				once = true
				if err := change(path); err != nil {
					t.Error(err)
				}
			}
			return archive.Write(p)
		})
		got, err := client.New(client.Unix(l.socket)).TarGet(t.Context(), path, w, client.TarGetOptions{})
		if err != nil || got.Warned != 1 || !strings.Contains(got.Warnings[0], name) {
			t.Errorf("%s: %+v %v", name, got, err)
		}
		r := tar.NewReader(&archive)
		h, err := r.Next()
		if err != nil || h.Size != size {
			t.Fatal(h, err)
		}
		if n, err := io.Copy(io.Discard, r); n != size || err != nil {
			t.Error(n, err)
		}
		if _, err := r.Next(); err != io.EOF {
			t.Error(err)
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestTarPutRights: without owners an archive gives nobody rights.
func TestTarPutRights(t *testing.T) {
	needRoot(t)
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	archive := func() io.Reader {
		return tarOf(&tar.Header{
			Name: "f", Mode: 0o6755, Uid: 1234, Gid: 1235, Typeflag: tar.TypeReg, Format: tar.FormatPAX,
			PAXRecords: map[string]string{attributePrefix + "user.x": "y", attributePrefix + "trusted.x": "y"},
		})
	}
	for _, owners := range []bool{false, true} {
		dir := t.TempDir()
		if _, err := c.TarPut(t.Context(), dir, archive(), client.TarPutOptions{Owners: owners}); err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(dir, "f"), &st); err != nil {
			t.Fatal(err)
		}
		want := unix.Stat_t{Mode: unix.S_IFREG | 0o755}
		if owners {
			want = unix.Stat_t{Mode: unix.S_IFREG | 0o6755, Uid: 1234, Gid: 1235}
		}
		if st.Mode != want.Mode || st.Uid != want.Uid || st.Gid != want.Gid {
			t.Errorf("owners %v: %o %d:%d", owners, st.Mode, st.Uid, st.Gid)
		}
		_, err := unix.Getxattr(filepath.Join(dir, "f"), "trusted.x", nil)
		if (err == nil) != owners && !errors.Is(err, unix.EOPNOTSUPP) {
			t.Errorf("owners %v: trusted.x: %v", owners, err)
		}
	}
}

// tarOf makes an archive; what its headers say of a size is filled with x.
func tarOf(headers ...*tar.Header) io.Reader {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if err := w.WriteHeader(h); err != nil {
			panic(err)
		}
		_, _ = w.Write(bytes.Repeat([]byte("x"), int(h.Size)))
	}
	_ = w.Close()
	return &b
}

// gzipped compresses.
func gzipped(b []byte) []byte {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	_, _ = w.Write(b)
	_ = w.Close()
	return z.Bytes()
}

// TestTarMemory: an archive costs the agent at most 4 MB beyond what it has when it
// idles, whatever passes. (Issue 4: figures)
func TestTarMemory(t *testing.T) {
	dir := t.TempDir()
	many := 2000
	if testing.Short() || raceEnabled() {
		many = 200
	}
	for i := range many {
		name := filepath.Join(dir, fmt.Sprintf("d%d/file %d", i%20, i))
		_ = os.MkdirAll(filepath.Dir(name), 0o755)
		if err := errors.Join(os.WriteFile(name, []byte(name), 0o600), os.Link(name, name+" again")); err != nil {
			t.Fatal(err)
		}
	}
	big := filepath.Join(dir, "big")
	if err := errors.Join(os.WriteFile(big, nil, 0o600), os.Truncate(big, 32<<20)); err != nil {
		t.Fatal(err)
	}
	for _, how := range []string{"none", wire.Gzip, wire.Zstd} {
		archive, err := os.Create(filepath.Join(t.TempDir(), "archive"))
		if err != nil {
			t.Fatal(err)
		}
		defer archive.Close()
		var sent, got client.TarResult
		peaks := func(way string, pass func(*client.Client) error) {
			a := spawn(t, prepare{}, nil)
			c := client.New(client.Unix(a.socket))
			if err := c.Ping(t.Context()); err != nil {
				t.Fatal(err)
			}
			idle := a.kilobytes(t, "VmHWM")
			if err := pass(c); err != nil {
				t.Error(how, way, err)
			}
			peak := a.kilobytes(t, "VmHWM")
			t.Logf("%s, %s: %d kB, %d when idle", how, way, peak, idle)
			if peak > idle+4<<10 && !raceEnabled() {
				t.Errorf("%s, %s: %d kB, %d when idle", how, way, peak, idle)
			}
		}
		peaks("out", func(c *client.Client) (err error) {
			sent, err = c.TarGet(t.Context(), dir, archive, client.TarGetOptions{Compress: how})
			return err
		})
		_, _ = archive.Seek(0, io.SeekStart)
		peaks("in", func(c *client.Client) (err error) {
			got, err = c.TarPut(t.Context(), filepath.Join(t.TempDir(), "new"), archive, client.TarPutOptions{Make: true})
			return err
		})
		if sent.Warned != 0 || sent.Entries < int64(2*many) || got.Entries != sent.Entries {
			t.Errorf("%s: %+v went out, %+v in", how, sent, got)
		}
	}
}
