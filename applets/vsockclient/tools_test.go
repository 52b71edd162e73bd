//go:build linux

package vsockclient

import (
	"archive/tar"
	"bytes"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/internal/agenttest"
	"github.com/hyperfleet/init/applets/wire"
)

// tree makes a directory with all that cp copies and returns its path.
func tree(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	for _, f := range []struct {
		name string
		mode fs.FileMode
		text string
	}{
		{"plain", 0o644, "plain\n"}, {"sub/run", 0o755, "#!/bin/sh\n"}, {"sub/deep/empty", 0o600, ""},
		{"locked/secret", 0o400, strings.Repeat("0123456789", 100_000)},
	} {
		name := filepath.Join(dir, f.name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(f.text), f.mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{
		os.Chmod(filepath.Join(dir, "sub/run"), 0o755), os.Chmod(filepath.Join(dir, "locked"), 0o500),
		os.Symlink("sub/run", filepath.Join(dir, "link")), os.Symlink("/nowhere/at/all", filepath.Join(dir, "broken")),
		os.Chtimes(filepath.Join(dir, "plain"), time.Time{}, time.Unix(1e9, 123456789)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, "locked"), 0o700) })
	return dir
}

// describe tells all about a tree, for comparing.
func describeTree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, name)
		b.WriteString(info.Mode().String() + " " + rel)
		switch {
		case d.Type() == fs.ModeSymlink:
			target, _ := os.Readlink(name)
			b.WriteString(" -> " + target)
		case d.Type() == 0:
			content, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			b.Write(content)
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestCopyTreeThereAndBack(t *testing.T) {
	liveAgent(t)
	src := tree(t)
	work := t.TempDir()
	there, back := filepath.Join(work, "there"), filepath.Join(work, "back")
	for _, args := range [][]string{
		{"cp", "-r", src, "vm:" + there}, {"cp", "-r", "vm:" + there, back},
		{"cp", "-r", src, "vm:" + there}, {"cp", "-rp", "vm:" + there + "/tree", back}, // into what is there now
	} {
		if status, stdout, stderr := invoke("", args...); status != 0 || stdout+stderr != "" {
			t.Fatalf("%q: %d, %q, %q", args, status, stdout, stderr)
		}
	}
	want := describeTree(t, src)
	if got := describeTree(t, filepath.Join(back, "tree")); got != want {
		t.Errorf("a copy into a directory: %.2000s", got)
	}
	if err := os.RemoveAll(filepath.Join(back, "tree")); err != nil {
		t.Fatal(err)
	}
	if got := describeTree(t, back); got != want {
		t.Errorf("a copy to a new name: %.2000s", got)
	}
}

// Both sides sum up what passes of a tree, and a copy in which a byte changed on the
// way is no success.
func TestCopyTreeIsSummedUp(t *testing.T) {
	g := liveAgent(t)
	src, work := tree(t), t.TempDir()
	if err := os.WriteFile(filepath.Join(src, "marked"), []byte(strings.Repeat("MARK", 1000)), 0o644); err != nil {
		t.Fatal(err)
	}
	sock := agenttest.Listen(t, func(c net.Conn) {
		there, err := net.Dial("unix", g.sock)
		if err != nil {
			t.Error(err)
			return
		}
		defer there.Close()
		go func() { _, _ = io.Copy(there, &garbler{r: c}) }()
		_, _ = io.Copy(c, &garbler{r: there})
	})
	for _, args := range [][]string{{src, "vm:" + work + "/there"}, {"vm:" + src, work + "/here"}} {
		status, stdout, stderr := invoke("", append([]string{"--json", "cp", "-r"}, args...)...)
		if status != 0 || !regexp.MustCompile(`"sha256":"[0-9a-f]{64}"}\n$`).MatchString(stdout) || stderr != "" {
			t.Errorf("%q: %d, %q, %q", args, status, stdout, stderr)
		}
		status, _, stderr = invoke("", append([]string{"--unix", sock, "cp", "-r"}, args...)...)
		if status != 1 || !strings.Contains(stderr, "the archive has SHA-256 ") {
			t.Errorf("%q, with a wrong byte: %d, %q", args, status, stderr)
		}
	}
}

// A garbler changes a byte of what passes.
type garbler struct{ r io.Reader }

func (g *garbler) Read(p []byte) (int, error) {
	n, err := g.r.Read(p)
	if i := bytes.Index(p[:n], []byte("MARK")); i >= 0 {
		p[i] = 'X'
	}
	return n, err
}

func TestCopyFiles(t *testing.T) {
	liveAgent(t)
	src := tree(t)
	dir := t.TempDir()
	a, b, c := filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "c")
	const sum = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03" // of hello\n
	for _, test := range []struct {
		args   []string
		stdin  string
		status int
		stdout string
		stderr string // contains
	}{
		{[]string{"cp", "-", "vm:" + a}, "hello\n", 0, "", ""},
		{[]string{"cp", "vm:" + a, "-"}, "", 0, "hello\n", ""},
		{[]string{"cp", "--json", "vm:" + a, b}, "", 0, `{"from":"vm:` + a + `","to":"` + b + `","size":6,"sha256":"` + sum + `"}` + "\n", ""},
		{[]string{"cp", "-v", b, "vm:" + c}, "", 0, "", sum + "  " + b + "  6 B in "},
		{[]string{"cp", "vm:" + c, "vm:" + a + "2"}, "", 0, "", ""},
		{[]string{"cp", "-p", filepath.Join(src, "plain"), "vm:" + dir}, "", 0, "", ""},
		{[]string{"cp", src, "vm:" + dir}, "", 1, "", "is a directory (-r copies it)"},
		{[]string{"cp", a, b}, "", 1 + 1, "", "must be in the guest: vm:PATH"},
		{[]string{"cp", "vm:" + a, "vm:" + b, dir + "/none"}, "", 1, "", "there is no such directory"},
		{[]string{"cp", "vm:" + dir + "/none", c + "2"}, "", 1, "", "no such file"},
		{[]string{"hash", a, dir + "/none"}, "", 1, sum + "  " + a + "\n", "no such file"},
		{[]string{"cat", a, b}, "", 0, "hello\nhello\n", ""},
		{[]string{"tee", a}, "one\n", 0, "one\n", ""},
		{[]string{"tee", "-a", a}, "two\n", 0, "two\n", ""},
		{[]string{"cat", a}, "", 0, "one\ntwo\n", ""},
		{[]string{"mkdir", dir + "/x/y"}, "", 1, "", "(mkdir -p makes those above it too)"},
		{[]string{"mkdir", "-p", "-m", "700", dir + "/x/y"}, "", 0, "", ""},
		{[]string{"mkdir", dir + "/x"}, "", 1, "", "file exists (mkdir -p does not mind a directory)\n"},
		{[]string{"mkdir", "-p", a}, "", 1, "", "file exists\n"},
		{[]string{"mv", a, dir + "/x"}, "", 0, "", ""},
		{[]string{"mv", dir + "/x/a", dir + "/no/such"}, "", 1, "", dir + "/x/a to " + dir + "/no/such: no such file or directory\n"},
		{[]string{"mv", "-n", b, dir + "/x/a"}, "", 1, "", "file exists"},
		{[]string{"ls", "-R", dir + "/x"}, "", 0, "a\ny/\n", ""},
		{[]string{"ls", dir + "/x/a"}, "", 0, dir + "/x/a\n", ""},
		{[]string{"rm", dir + "/x"}, "", 1, "", "(rm -r removes what is in it too)"},
		{[]string{"rm", "-r", dir + "/x"}, "", 0, "", ""},
		{[]string{"rm", "-f", dir + "/x", c}, "", 0, "", ""},
	} {
		status, stdout, stderr := invoke(test.stdin, test.args...)
		if status != test.status || stdout != test.stdout || !strings.Contains(stderr, test.stderr) || (test.stderr == "") != (stderr == "") {
			t.Errorf("%q:\n got %d, %q, %q\nwant %d, %q, %q", test.args, status, stdout, stderr, test.status, test.stdout, test.stderr)
		}
	}
	kept, err := os.Stat(filepath.Join(dir, "plain"))
	if err != nil || !kept.ModTime().Equal(time.Unix(1e9, 123456789)) {
		t.Errorf("-p: %v, %v", kept, err)
	}
	if _, stdout, _ := invoke("", "ls", "-l", dir); !strings.Contains(stdout, "-rw-r--r--  0:0 ") && os.Getuid() == 0 {
		t.Errorf("ls -l: %q", stdout)
	}
	if _, err := os.Stat(c); err == nil {
		t.Error("rm -f left a file")
	}
}

// A program that reads what sha256sum prints reads this too, whatever a name holds.
func TestHashIsAsSha256sum(t *testing.T) {
	liveAgent(t)
	dir := t.TempDir()
	args := []string{"hash"}
	for _, name := range []string{"plain", "new\nline", `back\slash`, "carriage\r", "esc\x1b ü"} {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, name)
	}
	want, err := exec.Command("sha256sum", args[1:]...).Output()
	if err != nil {
		t.Fatal(err)
	}
	if status, stdout, stderr := invoke("", args...); status != 0 || stdout != string(want) {
		t.Errorf("%d, %q, %q, want %q", status, stdout, stderr, want)
	}
}

// What a guest says that its files are called, or leads its links to, does not make
// the host write elsewhere. (More of these: TestCopyFromHostile in package agent.)
func TestCopyDoesNotLeaveItsDirectory(t *testing.T) {
	outside := t.TempDir()
	link := tar.Header{Typeflag: tar.TypeSymlink, Name: "out", Linkname: outside}
	for name, entries := range map[string][]tar.Header{
		"a name that leads out": {{Name: "../evil"}},
		"an absolute name":      {{Name: outside + "/evil"}},
		"a link that leads out": {link, {Name: "out/evil"}},
		"a directory over it":   {link, {Typeflag: tar.TypeDir, Name: "out/"}, {Name: "out/evil"}},
	} {
		sock := agenttest.Listen(t, evilAgent(entries))
		dst := filepath.Join(t.TempDir(), "dst")
		status, _, stderr := invoke("", "--unix", sock, "cp", "-r", "vm:/src", dst)
		if status != 1 || !strings.Contains(stderr, "cp: vm:/src to "+dst+": ") {
			t.Errorf("%s: %d, %q", name, status, stderr)
		}
		for _, dir := range []string{outside, filepath.Dir(dst)} {
			entries, _ := os.ReadDir(dir)
			for _, e := range entries {
				if e.Name() != "dst" {
					t.Errorf("%s: wrote %s", name, filepath.Join(dir, e.Name()))
				}
			}
		}
	}
}

// evilAgent serves a directory with these entries.
func evilAgent(entries []tar.Header) func(net.Conn) {
	return func(c net.Conn) {
		line, _ := agenttest.ReadLine(c)
		if strings.Contains(line, wire.OpFileStat) {
			_, _ = io.WriteString(c, `{"success":true,"data":{"path":"/src","size":0,"mode":"755","mod_time":"2026-11-23T12:00:00Z","is_dir":true}}`+"\n")
			agenttest.Linger(c)
			return
		}
		_, _ = io.WriteString(c, `{"success":true,"data":{}}`+"\n")
		var archive bytes.Buffer
		w := tar.NewWriter(&archive)
		for _, h := range entries {
			_ = w.WriteHeader(&h)
		}
		_ = w.Close()
		frames := wire.NewFrameWriter(c)
		_, _ = frames.Bytes(wire.KindData, archive.Bytes())
		_ = frames.Empty(wire.KindEnd)
		_ = frames.Encode(wire.KindExit, wire.TarResult{})
		agenttest.Linger(c)
	}
}

func TestJoinedFlags(t *testing.T) {
	for _, test := range []struct{ args, want string }{
		{"-it -e A=1 -- ls -la", "-i -t -e A=1 -- ls -la"},
		{"-tid --timeout 3s ls -it", "-t -i -d --timeout 3s ls -it"},
		{"-u it -it ls", "-u it -i -t ls"},
		{"-w=/x -ie ls", "-w=/x -ie ls"}, // -e takes a value
		{"--it ls", "--it ls"},
		{"- -it", "- -it"},
	} {
		cmd, _, _ := find([]string{"exec"})
		if got := strings.Join(split(new(options).flags(cmd), strings.Fields(test.args)), " "); got != test.want {
			t.Errorf("%s: %s, want %s", test.args, got, test.want)
		}
	}
}

func TestParseForward(t *testing.T) {
	for _, test := range []struct{ spec, here, there string }{
		{"80", "127.0.0.1:80", "127.0.0.1:80"},
		{"8080:80", "127.0.0.1:8080", "127.0.0.1:80"},
		{"0:80", "127.0.0.1:0", "127.0.0.1:80"},
		{"8080:db:5432", "127.0.0.1:8080", "db:5432"},
		{"0.0.0.0:8080:80", "0.0.0.0:8080", "127.0.0.1:80"},
		{":8080:80", ":8080", "127.0.0.1:80"},
		{"*:8080:db:80", ":8080", "db:80"},
		{"[::1]:8080:[fe80::1]:80", "[::1]:8080", "[fe80::1]:80"},
		{"/a/b:80", "/a/b", "127.0.0.1:80"},
		{"/a/b:db:80", "/a/b", "db:80"},
		{"8080:/c:d", "127.0.0.1:8080", "/c:d"},
		{"localhost:8080:/c", "localhost:8080", "/c"},
		{"/a:/b", "/a", "/b"},
		{"x", "", ""}, {"", "", ""}, {"80:0", "", ""}, {"65536:1", "", ""}, {"a:b:c", "", ""}, {"1:2:3:4:5", "", ""}, {"[::1:80", "", ""}, {"80:", "", ""},
	} {
		here, there, err := parseForward(test.spec)
		if (err != nil) != (test.here == "") || err == nil && (here.address != test.here || there.address != test.there) {
			t.Errorf("%q: %v, %v, %v", test.spec, here, there, err)
		}
	}
}

func TestKeyboardFindsDetachKeys(t *testing.T) {
	for _, test := range []struct {
		keys, typed, passed string
		detached            bool
	}{
		{"ctrl-p,ctrl-q", "ab\x10\x11cd", "ab", true},
		{"ctrl-p,ctrl-q", "ab\x10c\x10\x10\x11", "ab\x10c\x10", true},
		{"ctrl-p,ctrl-q", "\x10\x10\x10x", "\x10\x10\x10x", false},
		{"ctrl-p,ctrl-q", "\x10", "", false}, // held back: more may come
		{"none", "\x10\x11", "\x10\x11", false},
		{"~,.", "a~b~.c", "a~b", true},
		{"ctrl-]", "ab\x1d", "ab", true},
	} {
		keys, err := parseKeys(test.keys)
		if err != nil {
			t.Fatal(err)
		}
		for _, atOnce := range []bool{true, false} {
			k := keyboard{sequence: keys}
			var passed []byte
			if atOnce {
				passed = k.filter([]byte(test.typed))
			}
			for i := 0; i < len(test.typed) && !atOnce && !k.detached; i++ {
				passed = append(passed, k.filter([]byte{test.typed[i]})...)
			}
			if string(passed) != test.passed || k.detached != test.detached {
				t.Errorf("%s: %q: %q, detached %v", test.keys, test.typed, passed, k.detached)
			}
		}
	}
	for _, bad := range []string{"ctrl-", "ctrl-P", "ab", "a,,b", "ctrl-p ctrl-q"} {
		if keys, err := parseKeys(bad); err == nil {
			t.Errorf("%q: %q", bad, keys)
		}
	}
}

func TestTexts(t *testing.T) {
	for got, want := range map[string]string{
		size(0): "0 B", size(999): "999 B", size(1000): "1.0 KiB", size(1536): "1.5 KiB", size(10 << 20): "10 MiB", size(1 << 50): "1024 TiB",
		clock(0): "0:00", clock(61_999): "1:01", clock(3_600_000): "1:00:00", clock(90_061_000): "1-01:01:01",
		lsMode(fs.ModeDir | fs.ModeSticky | 0o777): "drwxrwxrwt", lsMode(fs.ModeSetuid | 0o4755): "-rwsr-xr-x",
		lsMode(fs.ModeSetgid | 0o644): "-rw-r-Sr--", lsMode(fs.ModeSymlink | 0o777): "lrwxrwxrwx",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	p := progress{name: "vm:/a/long/path/to/a/file", total: 200 << 20, done: 50 << 20, columns: 60}
	if got, want := p.line(10*time.Second), "file [#####...............]  25%  50 MiB  5.0 MiB/s  0:30"; got != "ong/path/to/a/"+want && !strings.HasSuffix(got, want) || len(got) > 59 {
		t.Errorf("%q, want …%q", got, want)
	}
	for _, columns := range []int{1, 10, 30} {
		if p.columns = columns; len(p.line(time.Second)) > columns {
			t.Errorf("%q on %d columns", p.line(time.Second), columns)
		}
	}
}

func TestSignalNames(t *testing.T) {
	for s, want := range map[string]int{"INT": 2, "sigterm": 15, "9": 9, "USR1": 10, "CONT": 18, "64": 64, "65": 0, "0": 0, "NOPE": 0} {
		if n, err := parseSignal(s); n != want || (err == nil) != (want != 0) {
			t.Errorf("%s: %d, %v", s, n, err)
		}
	}
}

// An agent of version 1 does not know what a stream is: it runs the command, once,
// and is asked before only where that would be another command.
func TestOldAgent(t *testing.T) {
	a, _ := agent(t)
	var requests atomic.Int32
	sock := agenttest.Listen(t, func(c net.Conn) {
		requests.Add(1)
		a.Serve(c)
	})
	for args, want := range map[string]int32{"exec echo hello": 1, "exec -i echo hello": 2} {
		requests.Store(0)
		status, stdout, stderr := invoke("", append([]string{"--unix", sock}, strings.Fields(args)...)...)
		if status != 0 || stdout != "hello\n" || stderr != "" || requests.Load() != want {
			t.Errorf("%s: %d, %q, %q, %d requests", args, status, stdout, stderr, requests.Load())
		}
	}
	for _, args := range []string{"exec -t true", "exec -d true", "exec --keep true"} {
		status, _, stderr := invoke("", append([]string{"--unix", sock}, strings.Fields(args)...)...)
		if status != 125 || !strings.Contains(stderr, "(version v1.0.0) is too old for -t, -d and --keep") {
			t.Errorf("%s: %d, %q", args, status, stderr)
		}
	}
	unknown := agenttest.Listen(t, agenttest.Script(`{"success":false,"error":"operation: there is none named \"ps\"","code":"ENOSYS"}`+"\n"))
	if status, _, stderr := invoke("", "--unix", unknown, "ps"); status != 1 || !strings.Contains(stderr, "older than this client") {
		t.Errorf("%d, %q", status, stderr)
	}
}
