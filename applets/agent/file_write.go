//go:build linux

package agent

import (
	"cmp"
	"errors"
	"io"
	"os"
	"time"

	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// fileWrite replaces, makes or extends a file. By now the request is whole and
// its content in a spool; readers of the file see the old content or the new.
func (a *Agent) fileWrite(r *request) error {
	w, err := r.fields.FileWrite()
	if err != nil {
		return err
	}
	if r.target == nil { // the content came before the path
		r.target = openTarget(w.Path)
	}
	if r.content == nil { // "content" came as something that was passed over
		return &wire.FieldError{Field: "content", Reason: "must be a string"}
	}
	if err = cmp.Or(r.target.err, r.content.err); err == nil {
		err = r.target.write(r.content, w)
	}
	if err != nil {
		return failed(r, w.Path, err)
	}
	return replying(wire.WriteData(r.conn, struct {
		BytesWritten int64 `json:"bytes_written"`
	}{r.content.size}))
}

func (t *target) write(content *spool, w wire.FileWrite) error {
	switch {
	case t.inPlace():
		return t.writeInPlace(content, w)
	case w.Append:
		return t.extend(content, w)
	}
	// The spool is already the file to be, unless the content was small or came
	// before the path.
	f := content.file
	if f == nil || f.Name() != t.path { // which create names it
		var err error
		if f, err = t.create(); err != nil {
			return err
		}
		if _, err := io.Copy(f, content.reader()); err != nil {
			_ = f.Close()
			return err
		}
	} else {
		content.file = nil
	}
	if err := t.likeOld(f, w.Mode); err != nil {
		_ = f.Close()
		return err
	}
	return t.replace(f)
}

// extend appends to a file, or makes it. If that fails midway, the part is taken
// back.
func (t *target) extend(content *spool, w wire.FileWrite) error {
	f, made, err := t.openToExtend()
	if err != nil {
		return err
	}
	fd := int(f.Fd())
	mode := w.Mode
	if made && mode < 0 {
		mode = 0o644
	}
	end, err := f.Seek(0, io.SeekEnd)
	if err == nil {
		var n int64
		if n, err = io.Copy(f, content.reader()); err != nil {
			// Unless somebody else has appended too.
			if now, seekErr := f.Seek(0, io.SeekEnd); seekErr == nil && now == end+n {
				_ = f.Truncate(end)
			}
		}
	}
	if err == nil && mode >= 0 {
		err = unix.Fchmod(fd, uint32(mode))
	}
	err = errors.Join(err, f.Close())
	if err != nil && made {
		_ = unix.Unlinkat(int(t.dir.Fd()), t.name, 0)
	}
	return err
}

// openToExtend opens a file to append to it; made tells whether it was not there.
// Of those who append to it at once one makes it, and none replaces it.
func (t *target) openToExtend() (f *os.File, made bool, err error) {
	const flags = unix.O_WRONLY | unix.O_APPEND | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC
	open := func(flags int) (int, error) {
		return retry(func() (int, error) { return unix.Openat(int(t.dir.Fd()), t.name, flags, 0o600) })
	}
	made = t.old == nil
	fd := -1
	if made {
		fd, err = open(flags | unix.O_CREAT | unix.O_EXCL)
		made = !errors.Is(err, unix.EEXIST)
	}
	if !made {
		fd, err = open(flags)
	}
	if err != nil {
		return nil, false, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		_ = unix.Close(fd)
		return nil, false, cmp.Or(err, errChanged)
	}
	return os.NewFile(uintptr(fd), t.path), made, nil
}

// errChanged is for a file that was swapped for another after it was looked at:
// in a directory that others can write to, perhaps for one that they can't.
var errChanged = refuse(unix.EBUSY, "something else took its place meanwhile")

// writeInPlace writes to a device, a FIFO or a file of the kernel's, which takes
// what one write brings. None of them may make the agent wait for ever.
func (t *target) writeInPlace(content *spool, w wire.FileWrite) error {
	flags := unix.O_WRONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC
	inKernel := pseudo(int(t.dir.Fd()))
	switch {
	case w.Append:
		flags |= unix.O_APPEND
	case inKernel:
		flags |= unix.O_TRUNC // which says something to some
	}
	if !inKernel {
		flags |= unix.O_NOFOLLOW
	}
	fd, err := retry(func() (int, error) { return unix.Openat(int(t.dir.Fd()), t.name, flags, 0) })
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); !inKernel && (err != nil || st.Ino != t.old.Ino || st.Dev != t.old.Dev) {
		_ = unix.Close(fd)
		return cmp.Or(err, errChanged)
	}
	f := os.NewFile(uintptr(fd), t.path)
	_ = f.SetWriteDeadline(time.Now().Add(inPlaceLimit)) // not every file has them
	if content.file == nil {
		_, err = f.Write(content.mem) // whole, and once even if empty
	} else {
		_, err = io.Copy(f, content.reader())
	}
	if err == nil && w.Mode >= 0 {
		err = unix.Fchmod(fd, uint32(w.Mode))
	}
	return errors.Join(err, f.Close())
}

// inPlaceLimit is how long a FIFO or a terminal may take to accept content.
const inPlaceLimit = 10 * time.Second
