//go:build linux

package agent

import (
	"bytes"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

const (
	spoolFree   = 4 << 10  // what a spool may hold in memory, in bytes
	spoolMemory = 64 << 10 // what it may hold if the budget has room for it
)

// A spool holds bytes that have come and are not yet needed, or can't be used
// yet: little in memory, more in a file without a name. It takes everything it
// is given: an error, its limit too, is kept for later, so that the rest of a
// request is still read and its client told.
type spool struct {
	limit  int64                    // bytes that it may hold
	open   func() (*os.File, error) // makes the file
	memory *share
	taken  bool // spoolMemory, from memory
	mem    []byte
	file   *os.File
	size   int64
	err    error
}

func (s *spool) Write(p []byte) (int, error) {
	n := len(p)
	if s.err != nil {
		return n, nil
	}
	if s.size+int64(n) > s.limit {
		s.err = refuse(unix.EFBIG, "more than %d bytes", s.limit)
		s.discard()
		return n, nil
	}
	if s.file == nil && !s.room(len(s.mem)+n) {
		s.err = s.turn()
	}
	if s.err == nil && s.file != nil {
		_, s.err = s.file.Write(p)
	} else if s.err == nil {
		s.mem = append(s.mem, p...)
	}
	s.size += int64(n)
	if s.err != nil {
		s.discard()
	}
	return n, nil
}

// room tells whether n bytes may be in memory.
func (s *spool) room(n int) bool {
	switch {
	case n <= spoolFree, s.taken && n <= spoolMemory:
		return true
	case n > spoolMemory || !s.memory.Take(spoolMemory):
		return false
	}
	s.taken = true
	s.mem = append(make([]byte, 0, spoolMemory), s.mem...)
	return true
}

// forget gives back the memory.
func (s *spool) forget() {
	s.mem = nil
	if s.taken {
		s.memory.Give(spoolMemory)
	}
	s.taken = false
}

// turn moves what is in memory to a file.
func (s *spool) turn() (err error) {
	if s.file, err = s.open(); err != nil {
		return err
	}
	_, err = s.file.Write(s.mem)
	s.forget()
	return err
}

// discard gives back the memory and the disk of a spool that is of no use.
func (s *spool) discard() {
	s.forget()
	if s.file != nil {
		_ = s.file.Close()
		s.file = nil
	}
}

// reader returns what the spool holds, from its start.
func (s *spool) reader() io.Reader {
	if s == nil {
		return bytes.NewReader(nil)
	}
	if s.file != nil {
		return io.NewSectionReader(s.file, 0, s.size)
	}
	return bytes.NewReader(s.mem)
}

func (s *spool) close() {
	if s != nil {
		s.discard()
	}
}

// openSpool makes a file for content whose place is not known, or is one that
// can't hold a temporary file.
func (a *Agent) openSpool() (*os.File, error) { return tempFile(a.spoolDir) }

// tempFile makes a file without a name in dir: it is gone when it is closed,
// however the process ends.
func tempFile(dir string) (*os.File, error) {
	fd, err := retry(func() (int, error) {
		return unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	})
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EISDIR) {
		f, err := os.CreateTemp(dir, ".hf-*")
		if err == nil {
			err = os.Remove(f.Name())
		}
		return f, err
	}
	if err != nil {
		return nil, &os.PathError{Op: "open a temporary file in", Path: dir, Err: err}
	}
	return os.NewFile(uintptr(fd), dir), nil
}

// spoolDirectory returns the first directory that can hold temporary files:
// preferably not one in memory.
func spoolDirectory() string {
	dirs := []string{"/var/tmp", "/tmp", "/run", "/"}
	for _, dir := range dirs {
		if unix.Access(dir, unix.W_OK) == nil {
			return dir
		}
	}
	return "/tmp"
}

// retry repeats a system call that a signal interrupted.
func retry[T any](call func() (T, error)) (T, error) {
	for {
		v, err := call()
		if !errors.Is(err, unix.EINTR) {
			return v, err
		}
	}
}
