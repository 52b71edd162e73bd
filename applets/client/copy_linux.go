package client

import (
	"errors"
	"os"
	"strings"

	"github.com/hyperfleet/init/applets/internal/tarhead"
	"golang.org/x/sys/unix"
)

// attributes returns the extended attributes of an open file, user's only or all.
func attributes(f *os.File, all bool) (map[string]string, error) {
	fd := int(f.Fd())
	names := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Flistxattr(fd, names)
	if err != nil || n == 0 {
		if errors.Is(err, unix.EOPNOTSUPP) {
			err = nil
		}
		return nil, err
	}
	found := map[string]string{}
	value := make([]byte, 64<<10) // XATTR_SIZE_MAX
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		if !all && !strings.HasPrefix(name, "user.") || strings.Contains(name, "=") {
			continue
		}
		n, err := unix.Fgetxattr(fd, name, value)
		if err != nil {
			continue // it is gone, or for others than us
		}
		found[name] = string(value[:n])
	}
	return found, nil
}

func setAttribute(f *os.File, name, value string) error {
	return os.NewSyscallError("setxattr "+name, unix.Fsetxattr(int(f.Fd()), name, []byte(value), 0))
}

// maxExtents is how many parts of a sparse file are told apart: who reads an archive
// limits the table of them.
const maxExtents = 4096

// extents finds what of a file is not a hole; nil is that it has none.
func extents(f *os.File, size int64) []tarhead.Extent {
	fd := int(f.Fd())
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Blocks*512 >= size {
		return nil
	}
	defer func() { _, _ = f.Seek(0, 0) }()
	found := []tarhead.Extent{}
	for at := int64(0); at < size; {
		start, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // a hole to the end
			break
		}
		end := size
		if err == nil && len(found) < maxExtents-1 {
			end, err = unix.Seek(fd, start, unix.SEEK_HOLE)
		}
		if err != nil {
			return nil
		}
		if end = min(end, size); start < end {
			found = append(found, tarhead.Extent{Offset: start, Size: end - start})
		}
		at = end
	}
	return found
}
