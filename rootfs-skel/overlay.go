package rootfsskel

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// marker is the file by which the directory writer knows a directory that it made.
const marker = "/.hf-rootfs"

// putOverlay adds a directory of this machine to the tree, over what is there.
// Links are taken as links and never followed on this machine.
func (b *builder) putOverlay(dir string) error {
	// The user may name a link to the tree; below it nothing is followed.
	top, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	seen := make(map[[2]uint64]*Inode)
	return filepath.WalkDir(top, func(host string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		p := "/" + strings.TrimPrefix(strings.TrimPrefix(host, top), "/")
		if p == marker {
			return nil
		}
		var st unix.Stat_t
		if err := unix.Lstat(host, &st); err != nil {
			return fmt.Errorf("%s: %w", host, err)
		}
		if p == "/" {
			if st.Mode&unix.S_IFMT != unix.S_IFDIR {
				return unix.ENOTDIR
			}
			// Its mode and owner are those of whatever directory the user
			// unpacked into, often 0700: the guest's root stays 0755 and root's.
			return nil
		}
		id := [2]uint64{uint64(st.Dev), st.Ino}
		n, ok := seen[id]
		if !ok {
			if n, err = b.inodeOf(host, &st); err != nil || n == nil {
				return err
			}
		}
		if st.Nlink > 1 && !n.isDir() {
			seen[id] = n
		}
		_, err = b.t.Put(p, n)
		return err
	})
}

// inodeOf returns what the tree has for a file of this machine; nil for what is
// not copied.
func (b *builder) inodeOf(host string, st *unix.Stat_t) (*Inode, error) {
	n := &Inode{Mode: st.Mode, MTime: b.times.Found(st.Mtim.Sec)}
	// Who is not root can't have unpacked the owners, only the files.
	if os.Geteuid() == 0 {
		n.UID, n.GID = st.Uid, st.Gid
	}
	switch n.kind() {
	case unix.S_IFREG:
		n.Host, n.Size = host, st.Size
	case unix.S_IFLNK:
		target, err := os.Readlink(host)
		if err != nil {
			return nil, err
		}
		n.Target = target
	case unix.S_IFCHR, unix.S_IFBLK:
		n.Major, n.Minor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))
	case unix.S_IFDIR, unix.S_IFIFO:
	default:
		b.note("%s: a socket, left out", host)
		return nil, nil
	}
	var err error
	n.Xattrs, err = xattrsOf(host)
	return n, err
}

// xattrsOf returns the extended attributes that mean the same on another machine:
// file capabilities and the user's own.
func xattrsOf(host string) (map[string][]byte, error) {
	size, err := unix.Llistxattr(host, nil)
	if err == unix.ENOTSUP || size == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: extended attributes: %w", host, err)
	}
	names := make([]byte, size)
	if size, err = unix.Llistxattr(host, names); err != nil {
		return nil, fmt.Errorf("%s: extended attributes: %w", host, err)
	}
	var attrs map[string][]byte
	for name := range strings.SplitSeq(string(names[:size]), "\x00") {
		if name != "security.capability" && !strings.HasPrefix(name, "user.") {
			continue
		}
		value := make([]byte, 64<<10) // the kernel's own limit
		got, err := unix.Lgetxattr(host, name, value)
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", host, name, err)
		}
		if attrs == nil {
			attrs = make(map[string][]byte)
		}
		attrs[name] = value[:got:got]
	}
	return attrs, nil
}
