package rootfsskel

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// An Inode is a file of any type. Several paths of a [Tree] may share one: they
// are hard links.
type Inode struct {
	Mode   uint32 // type and permissions, as stat(2) has them
	UID    uint32
	GID    uint32
	MTime  int64  // seconds since 1970
	Target string // of a symbolic link
	Major  uint32 // of a device
	Minor  uint32

	// The content of a regular file is a file of this machine, read when it is
	// needed, or bytes in memory for what is small.
	Host string
	Data []byte
	Size int64

	Xattrs map[string][]byte
}

// Dir returns a directory of root's.
func Dir(perm uint32, mtime int64) *Inode {
	return &Inode{Mode: unix.S_IFDIR | perm&0o7777, MTime: mtime}
}

// File returns a regular file of root's with this content.
func File(perm uint32, mtime int64, data []byte) *Inode {
	return &Inode{Mode: unix.S_IFREG | perm&0o7777, MTime: mtime, Data: data, Size: int64(len(data))}
}

// HostFile returns a regular file of root's with the content of a file of this
// machine.
func HostFile(perm uint32, mtime int64, path string) (*Inode, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", path)
	}
	return &Inode{Mode: unix.S_IFREG | perm&0o7777, MTime: mtime, Host: path, Size: st.Size()}, nil
}

// Symlink returns a symbolic link.
func Symlink(target string, mtime int64) *Inode {
	return &Inode{Mode: unix.S_IFLNK | 0o777, MTime: mtime, Target: target}
}

// CharDev returns a character device of root's.
func CharDev(perm, major, minor uint32, mtime int64) *Inode {
	return &Inode{Mode: unix.S_IFCHR | perm&0o7777, Major: major, Minor: minor, MTime: mtime}
}

func (n *Inode) kind() uint32    { return n.Mode & unix.S_IFMT }
func (n *Inode) isDir() bool     { return n.kind() == unix.S_IFDIR }
func (n *Inode) isRegular() bool { return n.kind() == unix.S_IFREG }
func (n *Inode) isSymlink() bool { return n.kind() == unix.S_IFLNK }

func (n *Inode) isDevice() bool {
	return n.kind() == unix.S_IFCHR || n.kind() == unix.S_IFBLK
}

// content is a regular file's, open for reading.
type content interface {
	io.Reader
	io.ReaderAt
	io.Closer
}

// open opens the content. It fails if the file is no longer what it was when the
// tree was made: its size is already in a header.
func (n *Inode) open() (content, error) {
	if n.Host == "" {
		return memory{bytes.NewReader(n.Data)}, nil
	}
	f, err := os.OpenFile(n.Host, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && (!st.Mode().IsRegular() || st.Size() != n.Size) {
		err = fmt.Errorf("%s: changed while it was being read", n.Host)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

type memory struct{ *bytes.Reader }

func (memory) Close() error { return nil }

// typeLetters are those of ls -l.
var typeLetters = map[uint32]byte{
	unix.S_IFREG: '-', unix.S_IFDIR: 'd', unix.S_IFLNK: 'l',
	unix.S_IFCHR: 'c', unix.S_IFBLK: 'b', unix.S_IFIFO: 'p',
}

// String is a line as ls -l has it, with the permissions in octal.
func (n *Inode) String() string {
	letter, ok := typeLetters[n.kind()]
	if !ok {
		letter = '?'
	}
	what := fmt.Sprint(n.Size)
	switch {
	case n.isDevice():
		what = fmt.Sprintf("%d:%d", n.Major, n.Minor)
	case !n.isRegular():
		what = "-"
	}
	return fmt.Sprintf("%c%04o %d:%d %s", letter, n.Mode&0o7777, n.UID, n.GID, what)
}
