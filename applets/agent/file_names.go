//go:build linux

package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hyperfleet/init/applets/internal/identity"
	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// done answers a request whose operation on a file has nothing to tell.
func done(r *request, path string, err error) error {
	if err != nil {
		return failed(r, path, err)
	}
	return replying(wire.WriteData(r.conn, struct{}{}))
}

// fileMkdir makes a directory.
func (a *Agent) fileMkdir(r *request) error {
	m, err := r.fields.FileMkdir()
	if err != nil {
		return err
	}
	return done(r, m.Path, mkdir(m))
}

func mkdir(m wire.FileMkdir) error {
	path := withoutSlashes(m.Path)
	if m.Parents {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
	}
	// Until it has its mode it is nobody else's.
	err := unix.Mkdir(path, 0o700)
	if errors.Is(err, unix.EEXIST) && m.Parents {
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return nil
		}
	}
	if err != nil {
		return err
	}
	mode := m.Mode
	if mode < 0 {
		mode = 0o755
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Fchmod(fd, uint32(mode))
}

// fileRename gives a file or a directory another name.
func (a *Agent) fileRename(r *request) error {
	m, err := r.fields.FileMove()
	if err != nil {
		return err
	}
	return done(r, m.Path+" to "+m.To, rename(unix.AT_FDCWD, m.Path, unix.AT_FDCWD, m.To, m.Replace))
}

// fileChmod sets permission bits; links are followed.
func (a *Agent) fileChmod(r *request) error {
	c, err := r.fields.FileChmod()
	if err != nil {
		return err
	}
	return done(r, c.Path, unix.Chmod(c.Path, uint32(c.Mode)))
}

// fileChown sets an owner.
func (a *Agent) fileChown(r *request) error {
	c, err := r.fields.FileChown()
	if err != nil {
		return err
	}
	if c.User != "" {
		who, err := identity.Lookup(c.User)
		if err != nil {
			return fmt.Errorf("user: %w", err)
		}
		c.UID = int(who.UID)
	}
	if c.Group != "" {
		who, err := identity.Lookup("0:" + c.Group)
		if err != nil {
			return fmt.Errorf("group: %w", err)
		}
		c.GID = int(who.GID)
	}
	flags := unix.AT_SYMLINK_NOFOLLOW
	if c.Follow {
		flags = 0
	}
	return done(r, c.Path, unix.Fchownat(unix.AT_FDCWD, c.Path, c.UID, c.GID, flags))
}

// fileSymlink makes a symbolic link.
func (a *Agent) fileSymlink(r *request) error {
	l, err := r.fields.FileSymlink()
	if err != nil {
		return err
	}
	return done(r, l.Path, unix.Symlink(l.Target, l.Path))
}

// fileReadlink tells where a symbolic link leads.
func (a *Agent) fileReadlink(r *request) error {
	path, err := r.fields.Path()
	if err != nil {
		return err
	}
	to, err := readlinkat(unix.AT_FDCWD, path)
	if err != nil {
		return failed(r, path, err)
	}
	var l wire.Link
	l.Target, l.TargetBase64 = text(to)
	return replying(wire.WriteData(r.conn, l))
}

// fileTruncate makes a file shorter, or longer by a hole.
func (a *Agent) fileTruncate(r *request) error {
	t, err := r.fields.FileTruncate()
	if err != nil {
		return err
	}
	return done(r, t.Path, unix.Truncate(t.Path, t.Size))
}
