//go:build linux

package agent

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// A target is where a file_write goes: a name in a directory, links followed.
type target struct {
	path string // as the client said it
	err  error  // why there is no target
	dir  *os.File
	name string
	old  *unix.Stat_t // what is there now, or nil
	temp string       // a temporary file in dir that has a name

	exclusive bool // nothing may be replaced
}

// maxLinks is how many links are followed; the kernel's own limit, see
// path_resolution(7).
const maxLinks = 40

// openTarget finds where path leads. Writing through a link must replace the
// file and keep the link, so the last component is followed by hand.
func openTarget(path string) *target {
	t := &target{path: path}
	t.err = t.resolve(path)
	return t
}

func (t *target) resolve(path string) error {
	if len(path) >= pathMax {
		return unix.ENAMETOOLONG
	}
	for range maxLinks + 1 {
		dir, name := filepath.Split(path)
		if name == "" || name == "." || name == ".." {
			return unix.EISDIR
		}
		if err := t.enter(dir); err != nil {
			return err
		}
		t.name = name
		fd := int(t.dir.Fd())
		var st unix.Stat_t
		switch err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); {
		case errors.Is(err, unix.ENOENT):
			return nil
		case err != nil:
			return err
		case st.Mode&unix.S_IFMT == unix.S_IFDIR:
			return unix.EISDIR
		case st.Mode&unix.S_IFMT != unix.S_IFLNK, pseudo(fd):
			// A link in /proc may lead to what has no path; the kernel knows.
			t.old = &st
			return nil
		case !mayFollow(fd, &st):
			return unix.EACCES
		}
		link, err := readlinkat(fd, name)
		if err != nil {
			return err
		}
		path = link
	}
	return unix.ELOOP
}

// mayFollow tells whether a link is one that the kernel follows with
// fs.protected_symlinks, see proc_sys_fs(5): who follows it by hand has to ask.
// In /tmp and its like anybody can put a link where the host is about to write.
func mayFollow(dir int, link *unix.Stat_t) bool {
	var st unix.Stat_t
	if unix.Fstat(dir, &st) != nil {
		return false
	}
	const shared = unix.S_ISVTX | unix.S_IWOTH
	return st.Mode&shared != shared || link.Uid == uint32(os.Geteuid()) || link.Uid == st.Uid
}

// enter makes dir the target's directory: seen from the one before, as a link is
// that was found there, unless it is absolute.
func (t *target) enter(dir string) error {
	from := unix.AT_FDCWD
	if t.dir != nil {
		from = int(t.dir.Fd())
	}
	if dir == "" {
		dir = "."
	}
	fd, err := retry(func() (int, error) {
		return unix.Openat(from, dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return err
	}
	t.close()
	t.dir = os.NewFile(uintptr(fd), dir)
	return nil
}

func readlinkat(dir int, name string) (string, error) {
	buf := make([]byte, pathMax)
	n, err := unix.Readlinkat(dir, name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// pathMax is PATH_MAX.
const pathMax = 4096

// pseudo tells whether a directory is in a filesystem whose files are the
// kernel's own: they are written in place, and can't be replaced.
func pseudo(dir int) bool {
	var st unix.Statfs_t
	if unix.Fstatfs(dir, &st) != nil {
		return false
	}
	switch uint32(st.Type) {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.DEBUGFS_MAGIC,
		unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC, unix.SELINUX_MAGIC, unix.SMACK_MAGIC, unix.BPF_FS_MAGIC,
		unix.EFIVARFS_MAGIC, unix.BINFMTFS_MAGIC, configfsMagic:
		return true
	}
	return false
}

const configfsMagic = 0x62656570 // CONFIGFS_MAGIC, which x/sys/unix lacks

// inPlace tells whether the target is written as it stands, not replaced: a
// device, a FIFO, a file of the kernel's.
func (t *target) inPlace() bool {
	return t.old != nil && t.old.Mode&unix.S_IFMT != unix.S_IFREG || pseudo(int(t.dir.Fd()))
}

// spool returns how content on its way to t is held: on the target's own
// filesystem where a rename can then put it in place.
func (t *target) spool(elsewhere func() (*os.File, error)) func() (*os.File, error) {
	return func() (*os.File, error) {
		if t.err != nil {
			return nil, t.err
		}
		if t.inPlace() {
			return elsewhere()
		}
		return t.create()
	}
}

// create makes the temporary file that will become the target: without a name,
// so that nothing is left of it whatever happens, or with one on the filesystems
// that can't do that (overlayfs before Linux 6.0).
func (t *target) create() (*os.File, error) {
	dir := int(t.dir.Fd())
	fd, err := retry(func() (int, error) {
		return unix.Openat(dir, ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	})
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EISDIR) {
		return t.createNamed()
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), t.path), nil
}

func (t *target) createNamed() (*os.File, error) {
	name := tempName()
	fd, err := retry(func() (int, error) {
		return unix.Openat(int(t.dir.Fd()), name, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	})
	if err != nil {
		return nil, err
	}
	t.temp = name
	return os.NewFile(uintptr(fd), t.path), nil
}

// tempName is a name that nobody else uses. (crypto/rand would do the same for 150
// KiB more, and test itself at every start of the program.)
func tempName() string {
	return fmt.Sprintf(".hf-%016x%016x", rand.Uint64(), rand.Uint64())
}

// replace puts f, which create made, in place of the target, and closes it.
func (t *target) replace(f *os.File) error {
	dir := int(t.dir.Fd())
	if t.temp == "" {
		name := tempName()
		// A file without a name gets one; rename then puts it in place at once.
		err := unix.Linkat(int(f.Fd()), "", dir, name, unix.AT_EMPTY_PATH)
		if errors.Is(err, unix.ENOENT) { // it takes CAP_DAC_READ_SEARCH before Linux 6.10
			err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), dir, name, unix.AT_SYMLINK_FOLLOW)
		}
		if err != nil {
			_ = f.Close()
			return err
		}
		t.temp = name
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := rename(dir, t.temp, dir, t.name, !t.exclusive); err != nil {
		return err
	}
	t.temp = ""
	return nil
}

// rename renames; unless replace is set, nothing that is there already is lost.
func rename(fromDir int, from string, toDir int, to string, replace bool) error {
	if replace {
		return unix.Renameat(fromDir, from, toDir, to)
	}
	err := unix.Renameat2(fromDir, from, toDir, to, unix.RENAME_NOREPLACE)
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	// A filesystem that can't: a file's second name is never one that was there,
	// and a directory replaces an empty one at most.
	if linkErr := unix.Linkat(fromDir, from, toDir, to, 0); linkErr == nil {
		return unix.Unlinkat(fromDir, from, 0)
	} else if !errors.Is(linkErr, unix.EPERM) {
		return linkErr
	}
	var st unix.Stat_t
	if unix.Fstatat(toDir, to, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
		return unix.EEXIST
	}
	return unix.Renameat(fromDir, from, toDir, to)
}

// close removes what was not put in place.
func (t *target) close() {
	if t == nil || t.dir == nil {
		return
	}
	if t.temp != "" {
		_ = unix.Unlinkat(int(t.dir.Fd()), t.temp, 0)
	}
	_ = t.dir.Close()
	t.dir = nil
}

// likeOld gives f the owner, the extended attributes and, unless mode says
// otherwise, the mode of the file it replaces.
func (t *target) likeOld(f *os.File, mode int) error {
	fd := int(f.Fd())
	if t.old != nil {
		if err := unix.Fchown(fd, int(t.old.Uid), int(t.old.Gid)); err != nil {
			return err
		}
		t.copyAttributes(fd)
		if mode < 0 {
			mode = int(t.old.Mode & 0o7777)
		}
	}
	if mode < 0 {
		mode = 0o644
	}
	return unix.Fchmod(fd, uint32(mode)) // last: chown takes suid away
}

// copyAttributes copies access lists, labels and user attributes. Not the
// capabilities: a write to a file removes those. What a filesystem does not take
// is passed over.
func (t *target) copyAttributes(fd int) {
	old, err := retry(func() (int, error) {
		return unix.Openat(int(t.dir.Fd()), t.name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return
	}
	defer unix.Close(old)
	size, err := unix.Flistxattr(old, nil)
	if err != nil || size == 0 {
		return
	}
	names := make([]byte, size)
	if size, err = unix.Flistxattr(old, names); err != nil {
		return
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:size]), "\x00"), "\x00") {
		if name == "" || name == "security.capability" {
			continue
		}
		if n, err := unix.Fgetxattr(old, name, nil); err == nil {
			value := make([]byte, n)
			if n, err = unix.Fgetxattr(old, name, value); err == nil {
				_ = unix.Fsetxattr(fd, name, value[:n], 0)
			}
		}
	}
}
