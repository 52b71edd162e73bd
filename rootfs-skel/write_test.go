package rootfsskel

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"
	"golang.org/x/sys/unix"
)

// tool returns the path of a program of this machine, or skips the test.
func tool(t *testing.T, name, pkg string) string {
	t.Helper()
	p, err := FindTool(name, pkg)
	if err != nil {
		t.Skip(err)
	}
	return p
}

// richConfig has an overlay with what a writer can get wrong.
func richConfig(t *testing.T) Config {
	t.Helper()
	dir := overlay(t, map[string]string{
		"odd/a \"quoted\" name": "quoted",
		"odd/<2>":               "looks like an inode number to debugfs",
		"odd/#x":                "looks like a comment",
		"odd/-d":                "looks like an option",
		"odd/b\\n":              "backslash",
		"odd/ümlaut":            "UTF-8",
		"odd/long-link":         "->/" + strings.Repeat("long/", 40),
		"links/one":             "shared",
		"empty":                 "",
		"ro/inside":             "in a directory that can't be written",
	})
	for _, err := range []error{
		os.Link(filepath.Join(dir, "links/one"), filepath.Join(dir, "links/two")),
		os.Link(filepath.Join(dir, "links/one"), filepath.Join(dir, "three")),
		unix.Chmod(filepath.Join(dir, "odd/<2>"), 0o4755),
		unix.Mkfifo(filepath.Join(dir, "fifo"), 0o640),
		sparse(filepath.Join(dir, "sparse"), 20<<20),
		os.Chmod(filepath.Join(dir, "ro"), 0o555),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() == 0 { // another user has no files of others to copy
		if err := os.Lchown(filepath.Join(dir, "empty"), 12, 100000); err != nil {
			t.Fatal(err)
		}
	}
	return config(t, dir)
}

// TestOwner checks the owner in each format; the fields are checked where the
// formats are.
func TestOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make a file of another user")
	}
	tree := build(t, richConfig(t))
	if got := entryAt(tree, "/empty"); !strings.Contains(got, " 12:100000 ") {
		t.Fatal(got)
	}
	dir := filepath.Join(t.TempDir(), "rootfs")
	if err := tree.WriteDir(dir, nil); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "empty"), &st); err != nil || st.Uid != 12 || st.Gid != 100000 {
		t.Errorf("directory: %d:%d, %v", st.Uid, st.Gid, err)
	}
	tool(t, "debugfs", "e2fsprogs")
	image := filepath.Join(t.TempDir(), "image")
	if err := tree.WriteExt4(image, 0); err != nil {
		t.Fatal(err)
	}
	got := strings.Join(strings.Fields(debugfs(t, image, "stat /empty")), " ")
	if !strings.Contains(got, "User: 12 Group: 100000") {
		t.Errorf("image: %s", got)
	}
}

func sparse(p string, size int64) error {
	f, err := os.Create(p)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("in the middle"), size/2); err != nil {
		return err
	}
	return f.Truncate(size)
}

func writeCPIO(t *testing.T, tree *Tree, compress string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := tree.WriteCPIO(&b, compress, func(s string) { t.Log("note:", s) }); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestCPIOReproducible(t *testing.T) {
	c := richConfig(t)
	for _, compress := range Compressions() {
		a, b := writeCPIO(t, build(t, c), compress), writeCPIO(t, build(t, c), compress)
		if !bytes.Equal(a, b) {
			t.Errorf("%s: two builds differ", compress)
		}
		if d := writeCPIO(t, build(t, config(t)), compress); bytes.Equal(a, d) {
			t.Errorf("%s: another tree gives the same bytes", compress)
		}
	}
	if err := build(t, c).WriteCPIO(io.Discard, "lzma", nil); err == nil {
		t.Error("an unknown compression was taken")
	}
}

// TestCPIORecords reads each compression back and compares every field.
func TestCPIORecords(t *testing.T) {
	tree := build(t, richConfig(t))
	unpack := map[string]func([]byte) io.Reader{
		"none": func(b []byte) io.Reader { return bytes.NewReader(b) },
		"gzip": func(b []byte) io.Reader { r, _ := gzip.NewReader(bytes.NewReader(b)); return r },
		"zstd": func(b []byte) io.Reader { r, _ := zstd.NewReader(bytes.NewReader(b)); return r },
	}
	for compress, open := range unpack {
		raw, err := io.ReadAll(open(writeCPIO(t, tree, compress)))
		if err != nil {
			t.Fatalf("%s: %v", compress, err)
		}
		records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(raw)))
		if err != nil {
			t.Fatalf("%s: %v", compress, err)
		}
		list := tree.Entries()
		if len(records) != len(list) {
			t.Fatalf("%s: %d records for %d entries", compress, len(records), len(list))
		}
		for i, r := range records {
			e := list[i]
			if want := strings.TrimPrefix(e.Path, "/"); r.Name != want && e.Path != "/" {
				t.Fatalf("%s: record %d is %q, want %q", compress, i, r.Name, want)
			}
			if uint32(r.Mode) != e.Mode || r.UID != uint64(e.UID) || r.GID != uint64(e.GID) || int64(r.MTime) != e.MTime {
				t.Errorf("%s: %v, want %v", compress, r.Info, e)
			}
			if e.isDevice() && (uint32(r.Rmajor) != e.Major || uint32(r.Rminor) != e.Minor) {
				t.Errorf("%s: %s is %d:%d", compress, e.Path, r.Rmajor, r.Rminor)
			}
		}
	}
}

// TestCPIOTool has GNU cpio unpack the archive: the links, the content.
func TestCPIOTool(t *testing.T) {
	p := tool(t, "cpio", "cpio")
	raw := writeCPIO(t, build(t, richConfig(t)), "none")
	cmd := exec.Command(p, "-t", "--quiet")
	cmd.Stdin = bytes.NewReader(raw)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"init", "dev/console", "odd/a \"quoted\" name", "usr/sbin/hf-agent"} {
		if !strings.Contains("\n"+string(out), "\n"+want+"\n") {
			t.Errorf("cpio -t does not list %s", want)
		}
	}
	dir := t.TempDir()
	cmd = exec.Command(p, "-i", "-d", "--quiet", "links/*", "three", "init")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(raw)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	checkLinked(t, dir)
}

// checkLinked checks the hard links of richConfig in a directory.
func checkLinked(t *testing.T, dir string) {
	t.Helper()
	var st unix.Stat_t
	for _, name := range []string{"links/one", "links/two", "three"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(data) != "shared" {
			t.Errorf("%s: %q, %v", name, data, err)
		}
		if err := unix.Stat(filepath.Join(dir, name), &st); err != nil || st.Nlink != 3 {
			t.Errorf("%s: %d links, %v", name, st.Nlink, err)
		}
	}
}

func TestDir(t *testing.T) {
	out := filepath.Join(t.TempDir(), "sub", "rootfs")
	tree := build(t, richConfig(t))
	for range 2 { // the second replaces the first
		if err := tree.WriteDir(out, func(s string) { t.Log("note:", s) }); err != nil {
			t.Fatal(err)
		}
	}
	checkLinked(t, out)
	for _, e := range tree.Entries() {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(out, e.Path), &st); err != nil {
			if !e.isDevice() || os.Geteuid() == 0 {
				t.Errorf("%s: %v", e.Path, err)
			}
			continue
		}
		if st.Mode != e.Mode || st.Mtim.Sec != e.MTime {
			t.Errorf("%s: mode %o, time %d; want %o, %d", e.Path, st.Mode, st.Mtim.Sec, e.Mode, e.MTime)
		}
		if e.Path == "/sparse" && st.Blocks > 1000 {
			t.Errorf("the sparse file takes %d blocks", st.Blocks)
		}
	}
	data := make([]byte, 13)
	f, err := os.Open(filepath.Join(out, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadAt(data, 10<<20); err != nil || string(data) != "in the middle" {
		t.Errorf("sparse: %q, %v", data, err)
	}
	left, err := os.ReadDir(filepath.Dir(out))
	if err != nil || len(left) != 1 {
		t.Errorf("left beside the directory: %v, %v", left, err)
	}
}

func TestDirLeavesOthersAlone(t *testing.T) {
	out := t.TempDir()
	tree := build(t, config(t))
	mine := filepath.Join(out, "mine")
	if err := os.WriteFile(mine, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := tree.WriteDir(out, nil); err == nil || !strings.Contains(err.Error(), "not made by hf-rootfs") {
		t.Errorf("a directory of someone else: %v", err)
	}
	if names, _ := os.ReadDir(out); len(names) != 1 {
		t.Errorf("it has %v now", names)
	}
	if err := tree.WriteDir(mine, nil); err == nil {
		t.Error("a file was taken for a directory")
	}
}

// debugfs runs one command on an image.
func debugfs(t *testing.T, image, command string) string {
	t.Helper()
	out, err := exec.Command(tool(t, "debugfs", "e2fsprogs"), "-R", command, image).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestExt4(t *testing.T) {
	fsck := tool(t, "e2fsck", "e2fsprogs")
	c := richConfig(t)
	var images [2][]byte
	image := filepath.Join(t.TempDir(), "image")
	for i := range images {
		// A name that exists, as the command gives it one, and another directory
		// for what passes through a file.
		t.Setenv("TMPDIR", t.TempDir())
		if err := os.WriteFile(image, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := build(t, c).WriteExt4(image, 0); err != nil {
			t.Fatal(err)
		}
		var err error
		if images[i], err = os.ReadFile(image); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("two builds differ")
	}
	if out, err := exec.Command(fsck, "-fn", image).CombinedOutput(); err != nil {
		t.Errorf("e2fsck -fn: %v\n%s", err, out)
	}
	for command, wants := range map[string][]string{
		`stat "/odd/<2>"`:              {"Mode:  04755", "User:     0"},
		`cat "/odd/a ""quoted"" name"`: {"quoted"},
		`cat "/odd/#x"`:                {"looks like a comment"},
		`cat "/odd/-d"`:                {"looks like an option"},
		`cat /three`:                   {"shared"},
		`stat /three`:                  {"Links: 3"},
		`stat /dev/console`:            {"character special", "Mode:  0600", " 05:01 "},
		`stat /odd/long-link`:          {"Size: 201"},
		`stat /fifo`:                   {"Type: FIFO"},
		`stat /etc/passwd`:             {"ctime: 0x12cea600:0", "atime: 0x12cea600:0", "crtime: 0x12cea600:0"},
		`stat /tmp`:                    {"Mode:  01777", "mtime: 0x12cea600"},
		`stat /`:                       {"Mode:  0755", "mtime: 0x12cea600"},
		`stat /usr/sbin/init`:          {`Fast link dest: "../../init"`},
		`stat /sparse`:                 {"Size: 20971520", "Blockcount: 8"},
	} {
		got := debugfs(t, image, command)
		for _, want := range wants {
			if !strings.Contains(got, want) {
				t.Errorf("%s: no %q in\n%s", command, want, got)
			}
		}
	}
	for p := range build(t, c).nodes {
		if strings.HasPrefix(p, "/dev/") || strings.HasPrefix(p, "/etc/") {
			if got := debugfs(t, image, "stat "+p); !strings.Contains(got, "Inode:") {
				t.Errorf("%s is not in the image", p)
			}
		}
	}
}

// TestExt4BigDirectory has more entries and links in one directory than a block
// holds.
func TestExt4BigDirectory(t *testing.T) {
	tool(t, "debugfs", "e2fsprogs")
	c := config(t)
	tree := build(t, c)
	shared := File(0o644, 0, []byte("x"))
	for i := range 300 {
		for p, n := range map[string]*Inode{
			fmt.Sprintf("/big/%0100d", i):      Symlink("x", 0),
			fmt.Sprintf("/big/hard-%0100d", i): shared,
		} {
			if _, err := tree.Fill(p, n); err != nil {
				t.Fatal(err)
			}
		}
	}
	image := filepath.Join(t.TempDir(), "image")
	if err := tree.WriteExt4(image, 0); err != nil {
		t.Fatal(err)
	}
	if got := debugfs(t, image, fmt.Sprintf("stat /big/hard-%0100d", 299)); !strings.Contains(got, "Links: 300") {
		t.Error(got)
	}
}

func TestExt4Errors(t *testing.T) {
	tool(t, "debugfs", "e2fsprogs")
	image := filepath.Join(t.TempDir(), "image")
	tree := build(t, config(t))
	if err := tree.WriteExt4(image, 1<<20); err == nil || !strings.Contains(err.Error(), "too small") {
		t.Errorf("an image that is too small: %v", err)
	}
	if _, err := tree.Fill("/line\nbreak", File(0o644, 0, nil)); err != nil {
		t.Fatal(err)
	}
	if err := tree.WriteExt4(image, 0); err == nil || !strings.Contains(err.Error(), "line break") {
		t.Errorf("a line break in a name: %v", err)
	}
}

// TestExt4RefusesSilentLoss has debugfs refuse a command: it exits 0 all the same, and
// e2fsck finds nothing wrong with a file that is not there.
func TestExt4RefusesSilentLoss(t *testing.T) {
	tool(t, "debugfs", "e2fsprogs")
	tree := build(t, config(t))
	if _, err := tree.Fill("/dev/odd", CharDev(0o600, 5, 1<<19, 0)); err != nil {
		t.Fatal(err)
	}
	err := tree.WriteExt4(filepath.Join(t.TempDir(), "image"), 0)
	if err == nil || !strings.Contains(err.Error(), "mknod") {
		t.Errorf("debugfs can't make this device, and nobody said so: %v", err)
	}
}

func TestExt4Xattrs(t *testing.T) {
	tool(t, "debugfs", "e2fsprogs")
	tree := build(t, config(t))
	n := File(0o755, 0, []byte("x"))
	n.Xattrs = map[string][]byte{"security.capability": {1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, "user.note": []byte("hello")}
	if _, err := tree.Fill("/ping", n); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "image")
	if err := tree.WriteExt4(image, 0); err != nil {
		t.Fatal(err)
	}
	got := debugfs(t, image, "ea_list /ping")
	for _, want := range []string{"security.capability (20)", `user.note (5) = "hello"`} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in %s", want, got)
		}
	}
	var notes []string
	if err := tree.WriteCPIO(io.Discard, "none", func(s string) { notes = append(notes, s) }); err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(notes, func(s string) bool { return strings.Contains(s, "2 extended attributes") }) {
		t.Errorf("the attributes were lost without a word: %q", notes)
	}
}

func TestFindTool(t *testing.T) {
	_, err := FindTool("no-such-tool-here", "some-package")
	if err == nil || !strings.Contains(err.Error(), "no-such-tool-here is missing") || !strings.Contains(err.Error(), "apt-get install some-package") {
		t.Error(err)
	}
}

// TestChangedFile has a file grow after the tree was made: its size is in a header.
func TestChangedFile(t *testing.T) {
	c := config(t)
	tree := build(t, c)
	if err := os.WriteFile(c.Program.Host, []byte("another size"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := tree.WriteCPIO(io.Discard, "none", nil); err == nil || !strings.Contains(err.Error(), "changed") {
		t.Error(err)
	}
}
