//go:build linux

package agent

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// entry unpacks one entry. Everything is made under another name, gets its
// attributes, and then its own name at once: nobody sees it half done.
func (u *unpacking) entry(h *tar.Header, content io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	whole, err := inside(h.Name, 0)
	if err != nil {
		return err
	}
	components := whole[min(u.put.Strip, len(whole)):]
	if len(components) == 0 {
		if len(whole) == 0 && h.Typeflag != tar.TypeDir {
			return refuse(unix.EISDIR, "it would take the target's place")
		}
		if len(whole) > 0 || !u.made { // stripped, or not the archive's
			return nil
		}
		return errors.Join(u.leave(""), u.enter("", h))
	}
	path := strings.Join(components, "/")
	if err := u.leave(path); err != nil {
		return err
	}
	last := len(components) - 1
	if err := u.parent(strings.Join(components[:last], "/")); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		return u.directory(path, h)
	}
	temp := tempName()
	fd, err := u.create(temp, h, content)
	if err == nil {
		if h.Typeflag != tar.TypeLink { // whose attributes are those of the other name
			err = u.attributes(fd, h.Name, attributesOf(h))
		}
		err = errors.Join(err, unix.Close(fd))
	}
	if err == nil {
		err = unix.Renameat(u.dir, temp, u.dir, components[last])
	}
	// Also after a rename, which does nothing between two names of one file.
	if unlinkErr := unix.Unlinkat(u.dir, temp, 0); err == nil && !errors.Is(unlinkErr, unix.ENOENT) {
		err = unlinkErr
	}
	return err
}

// create makes what an entry is, and returns it open.
func (u *unpacking) create(temp string, h *tar.Header, content io.Reader) (int, error) {
	var err error
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		return u.file(temp, h, content)
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) >= pathMax {
			return -1, refuse(unix.EBADMSG, "a link to a name of %d bytes", len(h.Linkname))
		}
		err = unix.Symlinkat(h.Linkname, u.dir, temp)
	case tar.TypeLink:
		err = u.hardLink(temp, h)
	case tar.TypeFifo:
		err = unix.Mknodat(u.dir, temp, unix.S_IFIFO|0o600, 0)
	case tar.TypeChar:
		err = unix.Mknodat(u.dir, temp, unix.S_IFCHR|0o600, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
	case tar.TypeBlock:
		err = unix.Mknodat(u.dir, temp, unix.S_IFBLK|0o600, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
	default:
		err = refuse(unix.EBADMSG, "an entry of the unknown type %q", h.Typeflag)
	}
	if err != nil {
		return -1, err
	}
	return retry(func() (int, error) { return unix.Openat(u.dir, temp, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0) })
}

// hardLink makes another name of something in the target.
func (u *unpacking) hardLink(temp string, h *tar.Header) error {
	components, err := inside(h.Linkname, u.put.Strip)
	if err == nil && len(components) == 0 {
		err = refuse(unix.EXDEV, "a link to something that is not in the target")
	}
	if err != nil {
		return err
	}
	last := len(components) - 1
	dir, err := u.walk(strings.Join(components[:last], "/"), false)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return unix.Linkat(dir, components[last], u.dir, temp, 0) // a link is not followed
}

// file makes a regular file.
func (u *unpacking) file(temp string, h *tar.Header, content io.Reader) (int, error) {
	fd, err := retry(func() (int, error) {
		return unix.Openat(u.dir, temp, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	})
	if err != nil {
		return -1, err
	}
	if err := u.content(fd, h, content); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// content writes a file. The zeros of one that had holes become holes.
func (u *unpacking) content(fd int, h *tar.Header, content io.Reader) error {
	_, sparse := h.PAXRecords["GNU.sparse.major"]
	if sparse = sparse || h.Typeflag == tar.TypeGNUSparse || h.PAXRecords["GNU.sparse.map"] != ""; sparse {
		if err := unix.Ftruncate(fd, h.Size); err != nil {
			return err
		}
	}
	for at := int64(0); ; {
		n, err := io.ReadFull(content, u.buf)
		if piece := u.buf[:n]; !sparse || !zero(piece) {
			if err := writeAt(fd, piece, at); err != nil {
				return err
			}
		}
		at += int64(n)
		switch {
		case (err == io.EOF || err == io.ErrUnexpectedEOF) && at == h.Size:
			return nil
		case err != nil:
			return badArchive(err)
		case sparse && at%(1<<30) == 0 && u.gone(): // holes go on for ever without a byte of the client's
			return errGone
		}
	}
}

// zero tells whether all of p is: its first byte is, and each is like the one
// before.
func zero(p []byte) bool {
	return len(p) == 0 || p[0] == 0 && bytes.Equal(p[1:], p[:len(p)-1])
}

func writeAt(fd int, p []byte, at int64) error {
	for len(p) > 0 {
		n, err := retry(func() (int, error) { return unix.Pwrite(fd, p, at) })
		if err != nil {
			return err
		}
		p, at = p[n:], at+int64(n)
	}
	return nil
}

// directory makes a directory, or finds it. Its attributes are set when all is in
// it: what is made in it changes its time, and may be forbidden by its mode.
func (u *unpacking) directory(where string, h *tar.Header) error {
	name := path.Base(where)
	if err := unix.Mkdirat(u.dir, name, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	fd, err := openStep(u.dir, name)
	if err != nil {
		return err
	}
	_ = unix.Close(fd)
	return u.enter(where, h)
}

// A directory is one that entries are being made in.
type directory struct {
	path       string
	attributes attributes
}

// maxHeld bounds what is remembered of directories, in bytes.
const maxHeld = 1 << 20

func (u *unpacking) enter(path string, h *tar.Header) error {
	d := directory{path, attributesOf(h)}
	if u.held += d.attributes.size(); u.held > maxHeld {
		return refuse(unix.E2BIG, "more than %d bytes of extended attributes", maxHeld)
	}
	u.within = append(u.within, d)
	return nil
}

// leave sets the attributes of the directories that name is not in; "" is in none.
// Nor is a directory in itself: one that comes again and again is held once.
func (u *unpacking) leave(name string) error {
	for len(u.within) > 0 {
		d := u.within[len(u.within)-1]
		if name != "" && (d.path == "" || strings.HasPrefix(name, d.path+"/")) {
			return nil
		}
		u.within = u.within[:len(u.within)-1]
		u.held -= d.attributes.size()
		fd, err := u.walk(d.path, false)
		if err == nil {
			err = u.attributes(fd, d.path, d.attributes)
			_ = unix.Close(fd)
		}
		if err != nil {
			return fmt.Errorf("%q: %w", d.path, err)
		}
	}
	return nil
}

// attributes are what an entry has beside its content.
type attributes struct {
	uid, gid int
	mode     uint32
	link     bool // a symbolic one, which has no mode
	mtime    time.Time
	extended map[string]string
}

func attributesOf(h *tar.Header) attributes {
	a := attributes{uid: h.Uid, gid: h.Gid, mode: uint32(h.Mode & 0o7777), link: h.Typeflag == tar.TypeSymlink, mtime: h.ModTime}
	for key, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(key, attributePrefix); ok {
			if a.extended == nil {
				a.extended = map[string]string{}
			}
			a.extended[name] = value
		}
	}
	return a
}

func (a attributes) size() (n int) {
	for name, value := range a.extended {
		n += len(name) + len(value)
	}
	return n
}

// attributes gives an open file its attributes. What gives somebody rights is kept
// with the owner that it was meant for, and dropped without.
func (u *unpacking) attributes(fd int, name string, a attributes) error {
	if u.put.Owners {
		if a.uid < 0 || a.gid < 0 || a.uid >= math.MaxUint32 || a.gid >= math.MaxUint32 {
			return refuse(unix.EBADMSG, "owner %d:%d", a.uid, a.gid)
		}
		if err := unix.Fchownat(fd, "", a.uid, a.gid, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
	} else {
		a.mode &^= unix.S_ISUID | unix.S_ISGID
	}
	if !a.link { // after the owner, which takes suid away
		if err := unix.Chmod(procPath(fd), a.mode); err != nil {
			return err
		}
	}
	for key, value := range a.extended {
		if !u.put.Owners && !strings.HasPrefix(key, "user.") {
			continue
		}
		if err := unix.Setxattr(procPath(fd), key, []byte(value), 0); err != nil {
			warn(&u.result, name, fmt.Errorf("attribute %s: %w", key, err))
		}
	}
	return setTimes(fd, a.mtime)
}

// setTimes sets the time of a file that was opened in whatever way.
func setTimes(fd int, mtime time.Time) error {
	ts, err := unix.TimeToTimespec(mtime)
	if err != nil {
		return err
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, ts}
	err = unix.UtimesNanoAt(fd, "", times, unix.AT_EMPTY_PATH)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // before Linux 5.8
		err = unix.UtimesNanoAt(unix.AT_FDCWD, procPath(fd), times, 0)
	}
	return err
}
