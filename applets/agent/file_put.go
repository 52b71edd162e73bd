//go:build linux

package agent

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// filePut makes what the client sends as data frames the content of a file. The
// file is replaced when all of it is there and is what it should be.
func (a *Agent) filePut(r *request) error {
	p, err := r.fields.FilePut()
	if err != nil {
		return err
	}
	if !p.Discard {
		if err := a.beginStream(r.conn); err != nil {
			return err
		}
	}
	r.target = openTarget(p.Path)
	u := &upload{put: p, target: r.target}
	switch {
	case r.target.err != nil:
		err = r.target.err
	case p.Discard:
		err = r.target.discardPartial(p.Partial)
	default:
		err = a.put(r, u)
	}
	if err != nil {
		return failed(r, p.Path, err)
	}
	if p.Discard {
		return replying(wire.WriteData(r.conn, struct{}{}))
	}
	return r.stream.end(u.sum.result())
}

func (a *Agent) put(r *request, u *upload) error {
	if u.target.inPlace() {
		return a.putInPlace(r, u)
	}
	if err := u.target.match(u.put.IfMatch); err != nil {
		return err
	}
	f, err := u.open()
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // again, after replace
	if err := u.receive(r, f); err != nil {
		if u.put.Partial != "" && errors.As(err, new(errReplying)) {
			u.target.temp = "" // it stays
		}
		return err
	}
	if err := u.finish(f); err != nil {
		return err
	}
	return u.commit(a, f)
}

// An upload is a file_put on its way.
type upload struct {
	put    wire.FilePut
	target *target
	dst    io.Writer
	duct   *duct // to dst, where that is a file and nothing has to be summed up
	sum    checksum
}

// open makes the file that receives the content, or goes on with an earlier one.
func (u *upload) open() (*os.File, error) {
	if u.put.Hash || u.put.SHA256 != "" {
		u.sum.Hash = sha256.New()
	}
	if u.put.Partial == "" {
		return u.target.create()
	}
	f, err := u.target.openPartial(u.put.Partial)
	if err != nil {
		return nil, err
	}
	end, err := f.Seek(0, io.SeekEnd)
	if err == nil && u.put.Size >= 0 && end > u.put.Size { // another file's
		end = 0
		err = f.Truncate(0)
	}
	if err == nil && u.sum.Hash != nil {
		_, err = f.Seek(0, io.SeekStart)
		if err == nil {
			_, err = io.Copy(u.sum.Hash, io.LimitReader(f, end))
		}
	} else if err == nil {
		_, err = f.Seek(end, io.SeekStart)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	u.sum.n = end
	return f, nil
}

// receive begins the stream and takes its content.
func (u *upload) receive(r *request, dst io.Writer) error {
	s, err := r.begin(wire.PutHeader{Offset: u.sum.n})
	if err != nil {
		return err
	}
	u.dst = dst
	if _, ok := dst.(*os.File); ok && u.sum.Hash == nil {
		u.duct, _ = newDuct(ductSize) // it is faster, but not needed
		defer u.duct.close()
	}
	if _, err := s.receiveAll(u); err != nil {
		return err
	}
	return u.verify()
}

func (u *upload) Write(p []byte) (int, error) {
	if u.put.Size >= 0 && u.sum.n+int64(len(p)) > u.put.Size {
		return 0, refuse(unix.EBADMSG, "more than its %d bytes came", u.put.Size)
	}
	if n, err := u.dst.Write(p); err != nil {
		return n, err
	}
	return u.sum.Write(p)
}

// past is for [descriptor].
func (u *upload) past(n int) (*duct, uintptr) {
	if u.duct == nil || u.put.Size >= 0 && u.sum.n+int64(n) > u.put.Size { // which Write will say
		return nil, 0
	}
	return u.duct, u.dst.(*os.File).Fd()
}

func (u *upload) passed(n int) { u.sum.n += int64(n) }

// verify tells whether what came is what was to come.
func (u *upload) verify() error {
	if u.put.Size >= 0 && u.sum.n != u.put.Size {
		return refuse(unix.EBADMSG, "%d bytes came of %d", u.sum.n, u.put.Size)
	}
	if got := u.sum.result().SHA256; u.put.SHA256 != "" && got != u.put.SHA256 {
		return refuse(unix.EBADMSG, "the SHA-256 of what came is %s, not %s", got, u.put.SHA256)
	}
	return nil
}

// finish gives the file all that it will have beside its content.
func (u *upload) finish(f *os.File) error {
	if err := u.target.likeOld(f, u.put.Mode); err != nil {
		return err
	}
	if err := setOwner(f, u.put); err != nil {
		return err
	}
	if err := setTime(f, u.put); err != nil {
		return err
	}
	if u.put.Sync {
		return f.Sync()
	}
	return nil
}

// setOwner gives an open file the owner that a request asks for.
func setOwner(f *os.File, p wire.FilePut) error {
	if p.UID < 0 && p.GID < 0 {
		return nil
	}
	fd := int(f.Fd())
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	if err == nil {
		err = unix.Fchown(fd, p.UID, p.GID)
	}
	if err == nil {
		err = unix.Fchmod(fd, st.Mode&0o7777) // chown takes suid away
	}
	return err
}

// setTime gives an open file the time that a request asks for.
func setTime(f *os.File, p wire.FilePut) error {
	if p.MTime.IsZero() {
		return nil
	}
	mtime, err := unix.TimeToTimespec(p.MTime)
	if err != nil {
		return err
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, mtime}
	err = unix.UtimesNanoAt(int(f.Fd()), "", times, unix.AT_EMPTY_PATH)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // before Linux 5.8
		err = unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), times, 0)
	}
	return err
}

// commit puts the file in place. Of those who replace the same content on
// condition one does: the others find that it has changed.
func (u *upload) commit(a *Agent, f *os.File) error {
	t := u.target
	if u.put.IfMatch != nil {
		a.commits.Lock()
		defer a.commits.Unlock()
		if err := t.unchanged(); err != nil {
			return err
		}
	}
	if u.put.Partial != "" {
		// Until it has its name nobody else may go on with it: a second
		// descriptor holds the lock when replace has closed the first.
		lock, err := dup(f)
		if err != nil {
			return err
		}
		defer unix.Close(lock)
	}
	if err := t.replace(f); err != nil || !u.put.Sync {
		return err
	}
	return syncDir(int(t.dir.Fd()))
}

// syncDir makes the names in a directory last.
func syncDir(dir int) error {
	fd, err := retry(func() (int, error) { return unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Fsync(fd)
}

// errNoMatch is for a file that is not the one that the client had in mind.
var errNoMatch = refuse(unix.ESTALE, "it is not what if_match says")

// match tells whether what is there is what want describes: see wire.FilePut.
func (t *target) match(want *string) error {
	switch {
	case want == nil:
		return nil
	case *want == "" && t.old != nil:
		return unix.EEXIST
	case *want == "":
		t.exclusive = true
		return nil
	case t.old == nil:
		return unix.ENOENT
	case *want == "*":
		return nil
	}
	fd, err := retry(func() (int, error) {
		return unix.Openat(int(t.dir.Fd()), t.name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	sum := checksum{Hash: sha256.New()}
	if _, err := io.Copy(&sum, &fdReader{fd: fd}); err != nil {
		return err
	}
	if sum.result().SHA256 != *want {
		return errNoMatch
	}
	return nil
}

// unchanged tells whether what is there is what was there when it was looked at.
func (t *target) unchanged() error {
	var st unix.Stat_t
	err := unix.Fstatat(int(t.dir.Fd()), t.name, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch old := t.old; {
	case errors.Is(err, unix.ENOENT) && old == nil:
		return nil
	case err != nil && !errors.Is(err, unix.ENOENT):
		return err
	case old == nil:
		return unix.EEXIST
	case err != nil || st.Ino != old.Ino || st.Dev != old.Dev || st.Size != old.Size || st.Mtim != old.Mtim || st.Ctim != old.Ctim:
		return errNoMatch
	}
	return nil
}

// putInPlace writes to what can't be replaced: to a block device as the content
// comes in, and to the others, which take it as one, when it is complete.
func (a *Agent) putInPlace(r *request, u *upload) error {
	if u.put.IfMatch != nil || u.put.Partial != "" || u.put.UID >= 0 || u.put.GID >= 0 || !u.put.MTime.IsZero() {
		return refuse(unix.EINVAL, "not a regular file: it takes content and mode only")
	}
	if u.put.Hash || u.put.SHA256 != "" {
		u.sum.Hash = sha256.New()
	}
	t := u.target
	if t.old == nil || t.old.Mode&unix.S_IFMT != unix.S_IFBLK {
		r.content = &spool{limit: a.limits.Content, open: a.openSpool}
		if err := u.receive(r, r.content); err != nil {
			return err
		}
		if r.content.err != nil {
			return r.content.err
		}
		return t.writeInPlace(r.content, wire.FileWrite{Mode: u.put.Mode})
	}
	fd, err := retry(func() (int, error) {
		return unix.Openat(int(t.dir.Fd()), t.name, unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), t.path)
	defer f.Close()
	if err := u.receive(r, f); err != nil {
		return err
	}
	if u.put.Mode >= 0 {
		err = unix.Fchmod(fd, uint32(u.put.Mode))
	}
	if err == nil && u.put.Sync {
		err = f.Sync()
	}
	return err
}
