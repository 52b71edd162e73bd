//go:build linux

package agent

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/wire"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// hostile makes a directory with a target in it and something beside that which an
// archive would like to reach.
func hostile(t testing.TB) (dir, target string) {
	t.Helper()
	dir = t.TempDir()
	target = filepath.Join(dir, "target")
	for _, d := range []string{"target/real", "outside"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{"outside/file": "outside", "target/file": "old"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"out": "../outside", "abs": dir + "/outside", "in": "real", "outfile": "../outside/file"} {
		if err := os.Symlink(to, filepath.Join(target, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir, target
}

func file(name string) *tar.Header {
	return &tar.Header{Name: name, Typeflag: tar.TypeReg, Size: 3, Mode: 0o666}
}

func symlink(name, to string) *tar.Header {
	return &tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
}

func hardLink(name, to string) *tar.Header {
	return &tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to}
}

func folder(name string) *tar.Header {
	return &tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: 0o700}
}

// TestTarPutHostile: whatever an archive says, nothing outside of the target is
// changed, made or linked to. Those that can be told from honest ones are refused.
func TestTarPutHostile(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	long := strings.Repeat("d/", 3000)
	for _, row := range []struct {
		what    string
		archive []*tar.Header
		want    error // nil: it is harmless
	}{
		{"absolute", []*tar.Header{file("/outside/file")}, unix.EXDEV},
		{"parent", []*tar.Header{file("../outside/file")}, unix.EXDEV},
		{"parent behind something", []*tar.Header{file("real/../../outside/file")}, unix.EXDEV},
		{"parent at the end", []*tar.Header{file("real/..")}, unix.EXDEV},
		{"parent of the target as a directory", []*tar.Header{folder("..")}, unix.EXDEV},
		{"itself", []*tar.Header{file(".")}, unix.EISDIR},
		{"through a link that is there", []*tar.Header{file("out/file")}, unix.ELOOP},
		{"through an absolute link", []*tar.Header{file("abs/file")}, unix.ELOOP},
		{"through a link that stays inside", []*tar.Header{file("in/file")}, unix.ELOOP},
		{"a directory through a link", []*tar.Header{folder("out/new")}, unix.ELOOP},
		{"a directory that is a link", []*tar.Header{folder("out")}, unix.ELOOP},
		{"through its own link", []*tar.Header{symlink("l", "../outside"), file("l/file")}, unix.ELOOP},
		{"through its own link, further down", []*tar.Header{folder("d"), symlink("d/l", "../../outside"), file("d/l/new/file")}, unix.ELOOP},
		{"through a link to a link", []*tar.Header{symlink("a", "out"), symlink("b", "a"), file("b/file")}, unix.ELOOP},
		{"through a link to /proc", []*tar.Header{symlink("p", "/proc/self/cwd"), file("p/file")}, unix.ELOOP},
		{"into a link", []*tar.Header{symlink("l", "../outside/file"), file("l")}, nil},
		{"into a link that is there", []*tar.Header{file("outfile")}, nil},
		{"into a dangling link", []*tar.Header{symlink("l", "../outside/new"), file("l")}, nil},
		{"a directory that becomes a link", []*tar.Header{folder("d"), symlink("d", "../outside"), file("d/file")}, unix.EISDIR},
		{"a directory that is there becomes a link", []*tar.Header{symlink("real", "../outside"), file("real/file")}, unix.EISDIR},
		{"a link that becomes a directory", []*tar.Header{symlink("l", "../outside"), folder("l"), file("l/file")}, unix.ELOOP},
		{"hard link to the parent", []*tar.Header{hardLink("l", "../outside/file")}, unix.EXDEV},
		{"hard link, absolute", []*tar.Header{hardLink("l", "/outside/file")}, unix.EXDEV},
		{"hard link through a link", []*tar.Header{hardLink("l", "out/file")}, unix.ELOOP},
		{"hard link through its own link", []*tar.Header{symlink("s", "../outside"), hardLink("l", "s/file")}, unix.ELOOP},
		{"hard link to a link, and through it", []*tar.Header{hardLink("l", "outfile"), file("l")}, nil},
		{"hard link to nothing", []*tar.Header{hardLink("l", "nosuch")}, unix.ENOENT},
		{"hard link to the target", []*tar.Header{hardLink("l", ".")}, unix.EXDEV},
		{"hard link to a directory", []*tar.Header{hardLink("l", "real")}, unix.EPERM},
		{"hard link to itself", []*tar.Header{hardLink("file", "file")}, nil},
		{"a mode through a link", []*tar.Header{{Name: "outfile", Typeflag: tar.TypeSymlink, Linkname: "../outside/file", Mode: 0o777}}, nil},
		{"a file where a directory is", []*tar.Header{file("real")}, unix.EISDIR},
		{"a directory where a file is", []*tar.Header{folder("file")}, unix.ENOTDIR},
		{"below a file", []*tar.Header{file("file/x")}, unix.ENOTDIR},
		{"a name twice", []*tar.Header{file("x"), file("x")}, nil},
		{"a long name", []*tar.Header{file(strings.Repeat("n", 256))}, unix.ENAMETOOLONG},
		{"a deep name", []*tar.Header{file(long + "f")}, unix.ENAMETOOLONG},
		{"an unknown kind", []*tar.Header{{Name: "x", Typeflag: 'V'}}, unix.EBADMSG},
		{"an empty link", []*tar.Header{symlink("x", "")}, unix.EBADMSG},
	} {
		dir, target := hostile(t)
		beside := append(describeTree(t, dir+"/outside"), readDir(t, dir)...)
		_, err := c.TarPut(t.Context(), target, tarOf(row.archive...), client.TarPutOptions{})
		if !errors.Is(err, row.want) || (err != nil) != (row.want != nil) {
			t.Errorf("%s: %v, want %v", row.what, err, row.want)
		}
		if now := append(describeTree(t, dir+"/outside"), readDir(t, dir)...); !slices.Equal(now, beside) {
			t.Errorf("%s: outside there is now\n%s\nbefore\n%s", row.what, strings.Join(now, "\n"), strings.Join(beside, "\n"))
		}
		for _, name := range readDir(t, target) {
			if strings.HasPrefix(name, ".hf-") {
				t.Errorf("%s: %s is left", row.what, name)
			}
		}
	}
}

// TestTarPutBroken: an archive that is cut off or damaged is an error; what came
// before stays, and of what did not come whole there is nothing.
func TestTarPutBroken(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	whole, err := io.ReadAll(tarOf(file("one"), &tar.Header{Name: "two", Typeflag: tar.TypeReg, Size: 300000, Mode: 0o600}))
	if err != nil {
		t.Fatal(err)
	}
	damaged := gzipped(whole)
	damaged[len(damaged)-5] ^= 1 // in the checksum
	spoilt := zstded(t, whole)
	spoilt[len(spoilt)-1] ^= 1
	cut := zstded(t, whole, zstd.WithWindowSize(1<<10))
	cut = cut[:len(cut)-100]
	for _, row := range []struct {
		what    string
		archive []byte
		want    error
		left    string
	}{
		{"nothing at all", nil, unix.EBADMSG, ""},
		{"nothing, compressed", gzipped(nil), unix.EBADMSG, ""},
		{"empty", make([]byte, 1024), nil, ""},
		{"whole", whole, nil, "one two"},
		{"compressed", gzipped(whole), nil, "one two"},
		{"with more behind it", append(slices.Clone(whole), make([]byte, 100000)...), nil, "one two"},
		{"without its end", whole[:len(whole)-1024], unix.EBADMSG, "one two"},
		{"cut between two files", whole[:1024], unix.EBADMSG, "one"},
		{"cut between two files, compressed", gzipped(whole[:1024]), unix.EBADMSG, "one"},
		{"cut in a file", whole[:200000], unix.EBADMSG, "one"},
		{"cut in a header", whole[:1200], unix.EBADMSG, "one"},
		{"compressed and cut", gzipped(whole)[:300], unix.EBADMSG, ""},
		{"a wrong checksum at the end", damaged, unix.EBADMSG, "one two"},
		{"not an archive", bytes.Repeat([]byte("hello"), 1000), unix.EBADMSG, ""},
		{"zstd", zstded(t, whole), nil, "one two"},
		{"zstd and cut", cut, unix.EBADMSG, "one"},
		{"zstd with a wrong checksum", spoilt, unix.EBADMSG, "one"},
	} {
		dir := t.TempDir()
		_, err := c.TarPut(t.Context(), dir, bytes.NewReader(row.archive), client.TarPutOptions{})
		if !errors.Is(err, row.want) || (err != nil) != (row.want != nil) {
			t.Errorf("%s: %v, want %v", row.what, err, row.want)
		}
		left := strings.Join(readDir(t, dir), " ")
		if row.what == "compressed and cut" {
			left = strings.TrimPrefix(left, "one") // as far as it came
		}
		if left != row.left {
			t.Errorf("%s: left %q", row.what, left)
		}
	}
}

// TestTarPutGone: a client that goes away, or breaks the rules, in the middle of a
// file leaves nothing of that.
func TestTarPutGone(t *testing.T) {
	l := serve(t, testLimits())
	whole, err := io.ReadAll(tarOf(file("one"), &tar.Header{Name: "two", Typeflag: tar.TypeReg, Size: 300000, Mode: 0o600}))
	if err != nil {
		t.Fatal(err)
	}
	for _, rude := range []bool{false, true} {
		dir := t.TempDir()
		conn := dial(t, l.socket)
		fmt.Fprintf(conn, `{"operation":"tar_put","path":%q}`+"\n", dir)
		frames := wire.NewFrameWriter(conn)
		if _, err := frames.Bytes(wire.KindData, whole[:100000]); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the first file is there", func() bool { return slices.Contains(readDir(t, dir), "one") })
		if rude {
			_ = frames.Empty(wire.KindStdin)
			if all, _ := io.ReadAll(conn); !bytes.Contains(all, []byte("EPROTO")) {
				t.Errorf("%q", all)
			}
		}
		_ = conn.Close()
		eventually(t, "nothing else is", func() bool { return slices.Equal(readDir(t, dir), []string{"one"}) })
	}
}

// TestTarPutFull: a full disk is ENOSPC; what was complete stays.
func TestTarPutFull(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	a := spawn(t, prepare{Mounts: []testMount{{"tmpfs", dir, "tmpfs", "size=1m"}}}, nil)
	_, err := client.New(client.Unix(a.socket)).TarPut(t.Context(), dir,
		tarOf(file("one"), &tar.Header{Name: "two", Typeflag: tar.TypeReg, Size: 2 << 20, Mode: 0o600}), client.TarPutOptions{})
	if !errors.Is(err, unix.ENOSPC) {
		t.Error(err)
	}
	if r := call(t, a.socket, object{"operation": "exec", "cmd": []string{"ls", "-A", dir}}); r.Data.Stdout != "one\n" {
		t.Errorf("%+v", r)
	}
}

// TestTarPutStrip: names lose components, and so do those that hard links are to.
func TestTarPutStrip(t *testing.T) {
	l := serve(t, testLimits())
	dir := filepath.Join(t.TempDir(), "new")
	c := client.New(client.Unix(l.socket))
	if _, err := c.TarPut(t.Context(), dir, tarOf(file("x")), client.TarPutOptions{}); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	got, err := c.TarPut(t.Context(), dir, tarOf(folder("v1"), file("v1/a"), file("lost"), file("./v1/b/c"), hardLink("v1/d", "v1/a")), client.TarPutOptions{Strip: 1, Make: true})
	if err != nil || got.Entries != 5 {
		t.Error(got, err)
	}
	if left := readDir(t, dir); !slices.Equal(left, []string{"a", "b", "d"}) {
		t.Error(left)
	}
}

// FuzzTarPut: no archive changes anything beside its target.
func FuzzTarPut(f *testing.F) {
	for _, headers := range [][]*tar.Header{
		{file("a"), folder("d"), file("d/f"), hardLink("h", "a"), symlink("s", "../outside"), file("s/file")},
		{file("../outside/file")}, {hardLink("x", "../outside/file"), file("x")},
		{{Name: "p", Typeflag: tar.TypeReg, Size: 10, Format: tar.FormatPAX, PAXRecords: map[string]string{attributePrefix + "user.x": "y"}}},
		{file("/outside/file"), file("a/../../outside/file"), file("out/file"), file("abs/file"), file("outfile")},
		{hardLink("h", "out/file"), hardLink("h", "../outside/file"), hardLink("file", "outfile"), file("h")},
		{folder("out"), folder(".."), folder("in/../.."), symlink("real", "../outside"), file("real/file")},
		{file(strings.Repeat("long/", 60) + "../../outside/file"), symlink("l", strings.Repeat("../", 100)+"outside")},
		{{Name: "g", Typeflag: tar.TypeReg, Size: 3, Format: tar.FormatGNU, Mode: 0o6777}, {Name: "fifo", Typeflag: tar.TypeFifo}},
	} {
		b, _ := io.ReadAll(tarOf(headers...))
		f.Add(b)
		f.Add(gzipped(b))
		f.Add(zstded(f, b))
	}
	f.Fuzz(func(t *testing.T, archive []byte) {
		dir, target := hostile(t)
		beside := append(describeTree(t, dir+"/outside"), readDir(t, dir)...)
		u := &unpacking{put: wire.TarPut{Path: target}, buf: make([]byte, streamBuffer), gone: func() bool { return true }, window: 1 << 20}
		if err := u.open(); err != nil {
			t.Fatal(err)
		}
		defer u.close()
		_ = u.archive(bytes.NewReader(archive))
		_ = u.archive(bytes.NewReader(mended(archive)))
		if now := append(describeTree(t, dir+"/outside"), readDir(t, dir)...); !slices.Equal(now, beside) {
			t.Fatalf("outside there is now\n%s", strings.Join(now, "\n"))
		}
		for _, name := range readDir(t, target) {
			if strings.HasPrefix(name, ".hf-") {
				t.Errorf("%s is left", name)
			}
		}
	})
}

// mended corrects the checksums of headers: a fuzzer that changes one byte of an
// archive would not get past them.
func mended(archive []byte) []byte {
	const block, sum, magic = 512, 148, 257
	whole := bytes.Clone(archive)
	for b := whole; len(b) >= block; b = b[block:] {
		if !bytes.HasPrefix(b[magic:], []byte("ustar")) {
			continue
		}
		copy(b[sum:], "        ")
		n := 0
		for _, c := range b[:block] {
			n += int(c)
		}
		copy(b[sum:], fmt.Sprintf("%06o\x00 ", n))
	}
	return whole
}
