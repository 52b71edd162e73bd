package rootfsskel

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// WriteDir writes the tree as a directory. It is made beside dir and put in its
// place when it is whole. A directory that is there is replaced if it is empty or
// has the marker of an earlier run; anything else is left alone, with an error.
//
// Only root can give files to others and make devices: for another user the files
// are his own and the devices are left out, which note is told.
func (t *Tree) WriteDir(dir string, note func(string)) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := mayReplace(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), "."+filepath.Base(dir)+".*")
	if err != nil {
		return err
	}
	defer removeTree(tmp)
	if err := t.populate(tmp, note); err != nil {
		return err
	}
	return swapDir(tmp, dir)
}

// mayReplace says whether dir may be replaced.
func mayReplace(dir string) error {
	names, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case len(names) == 0:
		return nil
	}
	if _, err := os.Lstat(filepath.Join(dir, marker)); err != nil {
		return fmt.Errorf("%s: not empty and not made by hf-rootfs (no %s in it): left alone", dir, marker[1:])
	}
	return notMounted(dir)
}

// notMounted fails if something is mounted in dir: removing the old tree would go
// on into a /proc or /dev that someone has bound there for a chroot.
func notMounted(dir string) error {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("can't tell whether something is mounted below %s: %w", dir, err)
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		if at := unescape.Replace(fields[4]); at == real || strings.HasPrefix(at, real+"/") {
			return fmt.Errorf("%s: something is mounted at %s: unmount it first", dir, at)
		}
	}
	return nil
}

// swapDir puts the directory tmp in the place of dir at once.
func swapDir(tmp, dir string) error {
	// An empty directory, or none.
	err := unix.Rename(tmp, dir)
	if err == nil || !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
		return wrapPath("rename", dir, err)
	}
	err = unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE)
	if err == nil || !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return wrapPath("exchange", dir, err) // the caller removes tmp, now the old tree
	}
	// A filesystem that can't exchange.
	if err := removeTree(dir); err != nil {
		return err
	}
	return wrapPath("rename", dir, unix.Rename(tmp, dir))
}

func wrapPath(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: path, Err: err}
}

// removeTree removes a tree even where a directory in it is not writable for a
// user other than root.
func removeTree(dir string) error {
	if err := os.RemoveAll(dir); err == nil {
		return nil
	}
	filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			return os.Chmod(p, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}

// populate writes the entries into an empty directory that is nobody else's.
func (t *Tree) populate(dir string, note func(string)) error {
	list := t.Entries()
	root := os.Geteuid() == 0
	first := make(map[*Inode]string)
	devices := 0
	for _, e := range list {
		p := filepath.Join(dir, e.Path)
		if e.isDevice() && !root {
			devices++
			continue
		}
		if was, ok := first[e.Inode]; ok && !e.isDir() {
			if err := os.Link(was, p); err != nil {
				return err
			}
			continue
		}
		first[e.Inode] = p
		if err := create(e, p); err != nil {
			return err
		}
		if e.isDir() {
			continue
		}
		if err := dress(e, p, root); err != nil {
			return err
		}
	}
	mark := File(0o600, t.mtime, []byte("Made by hf-rootfs dir, which may replace this whole tree.\n"))
	if err := create(Entry{marker, mark}, filepath.Join(dir, marker)); err != nil {
		return err
	}
	if err := dress(Entry{marker, mark}, filepath.Join(dir, marker), root); err != nil {
		return err
	}
	// From the leaves up: what is made in a directory changes its time, and some
	// have a mode in which nothing can be made.
	for _, e := range slices.Backward(list) {
		if e.isDir() {
			if err := dress(e, filepath.Join(dir, e.Path), root); err != nil {
				return err
			}
		}
	}
	if devices > 0 && note != nil {
		note(fmt.Sprintf("%d device nodes left out: only root can make them (PID 1 mounts devtmpfs over /dev)", devices))
	}
	return nil
}

// create makes the file, without owner, mode and times.
func create(e Entry, p string) error {
	switch {
	case e.Path == "/":
		return nil
	case e.isDir():
		return os.Mkdir(p, 0o700)
	case e.isSymlink():
		return os.Symlink(e.Target, p)
	case e.isRegular():
		return copyOut(e.Inode, p)
	}
	dev := unix.Mkdev(e.Major, e.Minor)
	return wrapPath("mknod", p, unix.Mknod(p, e.kind()|0o600, int(dev)))
}

// dress gives the file its owner, mode, attributes and time, in this order: a
// change of owner clears set-user-ID and capabilities, and every change but the
// last would change the time.
func dress(e Entry, p string, root bool) error {
	if root {
		if err := os.Lchown(p, int(e.UID), int(e.GID)); err != nil {
			return err
		}
	}
	if !e.isSymlink() {
		if err := unix.Chmod(p, e.Mode&0o7777); err != nil {
			return wrapPath("chmod", p, err)
		}
	}
	for name, value := range e.Xattrs {
		err := unix.Lsetxattr(p, name, value, 0)
		if err != nil && !(errors.Is(err, unix.EPERM) && !root) {
			return wrapPath("setxattr "+name, p, err)
		}
	}
	ts := unix.Timespec{Sec: e.MTime}
	err := unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	return wrapPath("utimensat", p, err)
}

// copyOut writes the content of a regular file to a new file, holes as holes.
func copyOut(n *Inode, p string) (err error) {
	in, err := n.open()
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := out.Close(); err == nil {
			err = cerr
		}
	}()
	src, ok := in.(*os.File)
	if !ok {
		_, err = io.Copy(out, in)
		return err
	}
	if err := out.Truncate(n.Size); err != nil {
		return err
	}
	return copyData(out, src, n.Size)
}

// copyData copies what is not a hole.
func copyData(out, in *os.File, size int64) error {
	for pos := int64(0); pos < size; {
		start, err := unix.Seek(int(in.Fd()), pos, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // the rest is a hole
		}
		end := size
		if err != nil { // a filesystem that knows no holes
			start = pos
		} else if end, err = unix.Seek(int(in.Fd()), start, unix.SEEK_HOLE); err != nil {
			return wrapPath("seek", in.Name(), err)
		}
		if _, err := in.Seek(start, io.SeekStart); err != nil {
			return err
		}
		if _, err := out.Seek(start, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.CopyN(out, in, end-start); err != nil {
			return fmt.Errorf("%s: changed while it was being read: %w", in.Name(), err)
		}
		pos = end
	}
	return nil
}
