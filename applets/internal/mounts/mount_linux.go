package mounts

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// flagNames are the words of mount(8) for the flags that the table uses.
var flagNames = []struct {
	flag uintptr
	name string
}{{unix.MS_RDONLY, "ro"}, {nosuid, "nosuid"}, {nodev, "nodev"}, {noexec, "noexec"}}

// String returns the mount as the command that would make it.
func (m Mount) String() string {
	var options []string
	for _, f := range flagNames {
		if m.Flags&f.flag != 0 {
			options = append(options, f.name)
		}
	}
	if m.Data != "" {
		options = append(options, m.Data)
	}
	words := []string{"mount", "-t", m.FSType}
	if len(options) > 0 {
		words = append(words, "-o", strings.Join(options, ","))
	}
	return strings.Join(append(words, m.Source, m.Target), " ")
}

// Make makes the mount point, where it is missing, and mounts. Something that is
// mounted there already is fine: the kernel does /dev by itself, an initramfs
// before this program may have done any.
func (m Mount) Make() error {
	if err := unix.Mkdir(m.Target, uint32(m.Mode)); err == nil {
		_ = unix.Chmod(m.Target, uint32(m.Mode)) // whatever the umask
	}
	if IsMountPoint(m.Target) {
		if m.FSType == "devtmpfs" {
			// The kernel mounted it without the options.
			_ = unix.Mount("", m.Target, "", unix.MS_REMOUNT|m.Flags, m.Data)
		}
		return nil
	}
	err := unix.Mount(m.Source, m.Target, m.FSType, m.Flags, m.Data)
	if err == nil || errors.Is(err, unix.EBUSY) {
		return nil
	}
	return &os.PathError{Op: "mount", Path: m.Target, Err: fmt.Errorf("%s (type %s, flags %#x): %w", m.Source, m.FSType, m.Flags, err)}
}

// IsMountPoint tells whether something is mounted on path. Before Linux 5.8 that is seen
// only of another filesystem, not of a bind mount of the same.
func IsMountPoint(path string) bool {
	var x unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, 0, &x)
	if err == nil && x.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return x.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
	}
	var here, above unix.Stat_t
	if unix.Lstat(path, &here) != nil || unix.Lstat(filepath.Dir(path), &above) != nil {
		return false
	}
	return here.Dev != above.Dev
}

// A Mounted is a filesystem that is mounted now.
type Mounted struct {
	Target   string
	FSType   string
	ReadOnly bool // the filesystem itself: nothing is written to it by any mount
}

// List returns what is mounted, in the order in which it was mounted, from
// /proc/self/mountinfo; see proc(5).
func List() ([]Mounted, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parse(f)
}

func parse(r io.Reader) ([]Mounted, error) {
	var list []Mounted
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		// What stands for the device may be empty.
		fields, rest := strings.Fields(before), strings.Split(after, " ")
		if !ok || len(fields) < 6 || len(rest) < 3 {
			return list, fmt.Errorf("mountinfo: %q", lines.Text())
		}
		list = append(list, Mounted{
			Target:   Unescape(fields[4]),
			FSType:   rest[0],
			ReadOnly: rest[2] == "ro" || strings.HasPrefix(rest[2], "ro,"),
		})
	}
	return list, lines.Err()
}

// Unescape undoes the \040 that /proc/self/mountinfo and /proc/swaps write for a
// space, and its like.
func Unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Unmount unmounts what is at the top of target, at once or, lazily, when it is
// no longer used.
func (m Mounted) Unmount(lazy bool) error {
	flags := unix.UMOUNT_NOFOLLOW
	if lazy {
		flags |= unix.MNT_DETACH
	}
	if err := unix.Unmount(m.Target, flags); err != nil {
		return &os.PathError{Op: "unmount", Path: m.Target, Err: err}
	}
	return nil
}

// MakeReadOnly remounts m so that nothing can be written to it any more. whole
// is for the filesystem itself; without it only this mount of it changes.
func (m Mounted) MakeReadOnly(whole bool) error {
	flags := uintptr(unix.MS_REMOUNT | unix.MS_RDONLY)
	if !whole {
		flags |= unix.MS_BIND
	}
	if err := unix.Mount("", m.Target, "", flags, ""); err != nil {
		return &os.PathError{Op: "remount read-only", Path: m.Target, Err: err}
	}
	return nil
}

// Freeze writes the filesystem out, its journal included, and stops all writing to
// it; see FIFREEZE in ioctl_fsfreeze(2).
func (m Mounted) Freeze() error {
	dir, err := unix.Open(m.Target, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil {
		_, err = unix.IoctlRetInt(dir, fiFreeze)
		_ = unix.Close(dir)
	}
	if err != nil {
		return &os.PathError{Op: "freeze", Path: m.Target, Err: err}
	}
	return nil
}

// fiFreeze is FIFREEZE, which x/sys/unix lacks: _IOWR('X', 119, int).
const fiFreeze = 0xc0045877
