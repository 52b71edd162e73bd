//go:build linux

package agent

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What an upload that can be resumed has received waits in a file beside its
// target, under a name that the client has chosen a part of and that the target's
// makes its own. The lock on it says that a connection is at it.
const (
	partialPrefix = ".hf-partial-"
	partialAge    = 24 * time.Hour // after which one that nobody writes to is removed
)

// partialName is what the file of an upload to t is called: no longer than a name may
// be, whatever t is called.
func (t *target) partialName(token string) string {
	return fmt.Sprintf("%s%s-%.8x", partialPrefix, token, sha256.Sum256([]byte(t.name)))
}

// openPartial opens the file of an upload, or makes it. Its name is known, so in
// a directory that others can write to it may be theirs.
func (t *target) openPartial(token string) (*os.File, error) {
	dir, name := int(t.dir.Fd()), t.partialName(token)
	fd, err := retry(func() (int, error) {
		return unix.Openat(dir, name, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
	})
	if err != nil {
		return nil, err
	}
	if err := claim(dir, name, fd); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	t.temp = name
	sweep(dir, name)
	return os.NewFile(uintptr(fd), t.path), nil
}

// claim makes sure that an open file is the agent's own, that nobody else is at
// it, and that its name has not become that of its target meanwhile.
func claim(dir int, name string, fd int) error {
	var st, named unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&(unix.S_IFMT|0o077) != unix.S_IFREG || int(st.Uid) != os.Geteuid() {
		return refuse(unix.EACCES, "%s is not the agent's", name)
	}
	err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		err = unix.Fstatat(dir, name, &named, unix.AT_SYMLINK_NOFOLLOW)
	}
	switch {
	case errors.Is(err, unix.EWOULDBLOCK), errors.Is(err, unix.ENOENT), err == nil && named.Ino != st.Ino:
		return refuse(unix.EBUSY, "partial: another connection is at this upload")
	}
	return err
}

// discardPartial removes the file of an upload, if there is one.
func (t *target) discardPartial(token string) error {
	_, err := removePartial(int(t.dir.Fd()), t.partialName(token), time.Time{})
	if errors.Is(err, unix.ENOENT) {
		err = nil
	}
	return err
}

// removePartial removes the file of an upload, unless somebody is at it or it was
// written to after since.
func removePartial(dir int, name string, since time.Time) (removed bool, err error) {
	fd, err := retry(func() (int, error) {
		return unix.Openat(dir, name, unix.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	if err := claim(dir, name, fd); err != nil {
		return false, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || !since.IsZero() && time.Unix(st.Mtim.Unix()).After(since) {
		return false, err
	}
	err = unix.Unlinkat(dir, name, 0)
	return err == nil, err
}

// sweep removes the uploads in a directory that nobody has come back to. That
// they are still there is no reason for another to fail.
func sweep(dir int, except string) {
	fd, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	f := os.NewFile(uintptr(fd), ".")
	defer f.Close()
	for {
		names, err := f.Readdirnames(256)
		for _, name := range names {
			if strings.HasPrefix(name, partialPrefix) && name != except {
				_, _ = removePartial(dir, name, time.Now().Add(-partialAge))
			}
		}
		if err != nil {
			return
		}
	}
}
