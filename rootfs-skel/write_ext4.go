package rootfsskel

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// block is the size of a block; mkfs would choose 1 KiB for a small image, and the
// image would differ from a big one in more than its size.
const block = 4096

// features are named one by one, so that neither mke2fs.conf nor the version of
// e2fsprogs decides: the newest ones need a kernel that not every guest has.
const features = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit," +
	"flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum"

// WriteExt4 writes the tree as an ext4 image to the file image, which must be
// empty, or not be there. A size of 0 means: what the tree needs, and room to work
// in.
//
// mkfs.ext4 makes it empty and debugfs fills it. (mkfs.ext4 -d would take owners,
// devices and change times from a staged copy, which only root can stage and
// nobody can date, and the order of directories from the filesystem it is staged
// on.)
func (t *Tree) WriteExt4(image string, size int64) error {
	list := t.Entries()
	need, inodes := estimate(list)
	if size == 0 {
		size = need + need/4 + 64<<20
		size = (size + 1<<20 - 1) &^ (1<<20 - 1)
	}
	if size < need {
		return fmt.Errorf("a size of %d bytes is too small: the tree needs about %d", size, need)
	}
	work, err := os.MkdirTemp("", "hf-rootfs.*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if err := makeSparse(image, size); err != nil {
		return err
	}
	e := ext4{list: list, work: work, env: append(os.Environ(),
		fmt.Sprintf("E2FSPROGS_FAKE_TIME=%d", t.mtime),
		"SOURCE_DATE_EPOCH=", // the newer ones would prefer it
		"MKE2FS_CONFIG="+filepath.Join(work, "none"), "LC_ALL=C")}
	if err := e.mkfs(image, max(inodes*2, size/16384)); err != nil {
		return err
	}
	if err := e.fill(image); err != nil {
		return err
	}
	return e.check(image)
}

// estimate returns about how many bytes and inodes the tree takes, the journal and
// the tables included.
func estimate(list []Entry) (bytes, inodes int64) {
	seen := make(map[*Inode]bool)
	for _, e := range list {
		bytes += 64 // its name in the directory
		if seen[e.Inode] {
			continue
		}
		seen[e.Inode] = true
		inodes++
		bytes += 512 // the inode, twice: half of them stay free
		switch {
		case e.isRegular():
			bytes += e.used()
		case e.isDir() || e.isSymlink() && len(e.Target) >= 60 || len(e.Xattrs) > 0:
			bytes += block
		}
	}
	// Extent tree and bitmaps, then the journal of a middling image.
	return bytes + bytes/50 + 20<<20, inodes
}

// used is how much of a disk the content takes: a hole takes nothing.
func (n *Inode) used() int64 {
	size := n.Size
	var st unix.Stat_t
	if n.Host != "" && unix.Lstat(n.Host, &st) == nil {
		size = min(size, st.Blocks*512)
	}
	return (size + block - 1) &^ (block - 1)
}

func makeSparse(image string, size int64) error {
	f, err := os.OpenFile(image, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	if err := f.Truncate(size); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// ext4 is an image that is being made.
type ext4 struct {
	list []Entry
	work string // a directory for what has to pass through a file
	env  []string
}

// id is a UUID that follows from the listing: two guests' images that are attached
// to one machine can be told apart, and the same input has the same.
func (x *ext4) id(what string) string {
	h := sha256.New()
	io.WriteString(h, what)
	for _, e := range x.list {
		fmt.Fprintln(h, e, e.MTime)
	}
	sum := h.Sum(nil)
	sum[6], sum[8] = sum[6]&0x0f|0x80, sum[8]&0x3f|0x80 // version 8: made by a rule of one's own
	return fmt.Sprintf("%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}

func (x *ext4) mkfs(image string, inodes int64) error {
	_, err := x.run("mkfs.ext4", "-q", "-F", "-b", fmt.Sprint(block), "-I", "256", "-m", "0",
		"-N", fmt.Sprint(inodes), "-U", x.id("filesystem"), "-O", features,
		"-E", "root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard,hash_seed="+x.id("hash"),
		image)
	return err
}

// run runs a tool of e2fsprogs and returns its stderr.
func (x *ext4) run(tool string, args ...string) (string, error) {
	p, err := FindTool(tool, "e2fsprogs")
	if err != nil {
		return "", err
	}
	var stderr bytes.Buffer
	cmd := exec.Command(p, args...)
	cmd.Env, cmd.Stderr = x.env, &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", tool, err, oneLine(stderr.String()+" "+string(out)))
	}
	return stderr.String(), nil
}

// fill has debugfs make every entry. debugfs exits 0 whatever happened, so a word
// on stderr beside its banner is an error.
func (x *ext4) fill(image string) error {
	script := filepath.Join(x.work, "script")
	f, err := os.Create(script)
	if err != nil {
		return err
	}
	defer f.Close()
	w := &script4{w: bufio.NewWriter(f), work: x.work, shared: links(x.list), first: make(map[*Inode]bool)}
	for _, e := range x.list {
		if err := w.entry(e); err != nil {
			return fmt.Errorf("%s: %w", e.Path, err)
		}
	}
	if err := w.w.Flush(); err != nil {
		return err
	}
	stderr, err := x.run("debugfs", "-w", "-f", script, image)
	if err != nil {
		return err
	}
	var said []string
	for line := range strings.Lines(stderr) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "debugfs 1.") {
			said = append(said, line)
		}
	}
	if len(said) > 0 {
		return fmt.Errorf("debugfs: %s", oneLine(strings.Join(said[:min(3, len(said))], "; ")))
	}
	return nil
}

// check has e2fsck look over the image: what debugfs left half done shows here.
func (x *ext4) check(image string) error {
	_, err := x.run("e2fsck", "-fn", image)
	return err
}

// script4 writes debugfs's commands.
type script4 struct {
	w      *bufio.Writer
	work   string
	cwd    string
	spools int
	shared map[*Inode][]string
	first  map[*Inode]bool
}

// longestLine is below debugfs's buffer of 8 KiB.
const longestLine = 8000

func (s *script4) cmd(name string, args ...string) error {
	line := name
	for _, a := range args {
		// debugfs reads lines, and doubles a quote inside quotes.
		if strings.ContainsAny(a, "\n\r\x00") {
			return errors.New("debugfs can't take a line break in a name")
		}
		line += ` "` + strings.ReplaceAll(a, `"`, `""`) + `"`
	}
	if len(line) > longestLine {
		return errors.New("the name is too long for debugfs")
	}
	_, err := s.w.WriteString(line + "\n")
	return err
}

// entry makes one entry; its parent is there.
func (s *script4) entry(e Entry) error {
	name := path.Base(e.Path)
	if dir := path.Dir(e.Path); e.Path != "/" && dir != s.cwd {
		s.cwd = dir
		if err := s.cmd("cd", dir); err != nil {
			return err
		}
	}
	if s.first[e.Inode] && !e.isDir() {
		return s.link(s.shared[e.Inode][0], name)
	}
	s.first[e.Inode] = true
	var err error
	switch e.kind() {
	case unix.S_IFDIR:
		if e.Path != "/" && e.Path != "/lost+found" {
			err = s.cmd("mkdir", name)
		}
	case unix.S_IFLNK:
		err = s.cmd("symlink", name, e.Target)
	case unix.S_IFREG:
		err = s.write(e, name)
	case unix.S_IFCHR:
		err = s.cmd("mknod", name, "c", fmt.Sprint(e.Major), fmt.Sprint(e.Minor))
	case unix.S_IFBLK:
		err = s.cmd("mknod", name, "b", fmt.Sprint(e.Major), fmt.Sprint(e.Minor))
	case unix.S_IFIFO:
		err = s.cmd("mknod", name, "p")
	}
	if err != nil {
		return err
	}
	return s.dress(e)
}

// link makes another name for a file; its count of links was set with the first. ln
// fails where a directory's block is full, while symlink adds a block: so a link of
// the same name makes the room.
func (s *script4) link(old, name string) error {
	for _, c := range [][]string{{"symlink", name, "x"}, {"rm", name}, {"ln", old, name}} {
		if err := s.cmd(c[0], c[1:]...); err != nil {
			return err
		}
	}
	return nil
}

// write has the content copied from a file; what is in memory passes through one.
func (s *script4) write(e Entry, name string) error {
	host := e.Host
	if host == "" {
		s.spools++
		host = filepath.Join(s.work, fmt.Sprint(s.spools))
		if err := os.WriteFile(host, e.Data, 0o600); err != nil {
			return err
		}
	}
	host, err := filepath.Abs(host)
	if err != nil {
		return err
	}
	return s.cmd("write", host, name)
}

// dress sets what debugfs made up: owner, mode, time, links, attributes.
func (s *script4) dress(e Entry) error {
	fields := [][2]string{
		{"mode", fmt.Sprintf("0%o", e.Mode)},
		{"uid", fmt.Sprint(e.UID)},
		{"gid", fmt.Sprint(e.GID)},
		{"mtime", fmt.Sprintf("@%d", e.MTime)},
	}
	if n := len(s.shared[e.Inode]); n > 1 {
		fields = append(fields, [2]string{"links_count", fmt.Sprint(n)})
	}
	// From where debugfs is: it reads every directory on the way from the root anew.
	name := "./" + path.Base(e.Path)
	if e.Path == "/" {
		name = "/"
	}
	for _, f := range fields {
		if err := s.cmd("sif", name, f[0], f[1]); err != nil {
			return err
		}
	}
	for i, attr := range slices.Sorted(maps.Keys(e.Xattrs)) {
		value := filepath.Join(s.work, fmt.Sprintf("xattr%d.%d", s.spools, i))
		s.spools++
		if err := os.WriteFile(value, e.Xattrs[attr], 0o600); err != nil {
			return err
		}
		if err := s.cmd("ea_set", "-f", value, name, attr); err != nil {
			return err
		}
	}
	return nil
}

// oneLine folds white space.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
