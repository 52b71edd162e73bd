package vsockclient

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// A replacement is the content of a file on its way: all of it takes the place of
// what was there or, if that fails, nothing.
type replacement struct {
	*os.File
	dir        *os.Root // nil for a device, which is written to
	owned      bool     // dir is to be closed
	name, temp string   // in dir
	old        fs.FileInfo
	keep       bool // what is there of it after an error, for the next attempt
}

// replace begins to replace a file of the host, which is made with perm, less the
// umask, if there is none. A link stays and what it points at is replaced; what is
// not a regular file, such as /dev/null, is written to.
func replace(name string, perm fs.FileMode) (*replacement, error) {
	switch target, err := filepath.EvalSymlinks(name); {
	case err == nil:
		name = target
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	if old, err := os.Stat(name); err == nil && !old.Mode().IsRegular() {
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		return &replacement{File: f}, err
	}
	dir, err := os.OpenRoot(filepath.Dir(name))
	if err != nil {
		return nil, err
	}
	r, err := replaceIn(dir, filepath.Base(name), perm)
	if err != nil {
		_ = dir.Close()
		return nil, err
	}
	r.owned = true
	return r, nil
}

// resume is replace for a file whose content may be there in part, in one that part is
// the name of; offset is how much of it.
func resume(name, part string) (r *replacement, offset int64, err error) {
	if target, err := filepath.EvalSymlinks(name); err == nil {
		name = target
	}
	if old, err := os.Stat(name); err == nil && !old.Mode().IsRegular() {
		return nil, 0, &fs.PathError{Op: "resume", Path: name, Err: errors.New("not a regular file")}
	}
	dir, err := os.OpenRoot(filepath.Dir(name))
	if err != nil {
		return nil, 0, err
	}
	r = &replacement{dir: dir, owned: true, name: filepath.Base(name), temp: part, keep: true}
	if old, err := dir.Lstat(r.name); err == nil && old.Mode().IsRegular() {
		r.old = old
	}
	if there, err := dir.Lstat(part); err == nil && !there.Mode().IsRegular() {
		_ = dir.Remove(part)
	}
	r.File, err = dir.OpenFile(part, os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		if offset, err = r.Seek(0, io.SeekEnd); err != nil {
			_ = r.Close()
		}
	}
	if err != nil {
		_ = dir.Close()
	}
	return r, offset, err
}

// replaceIn is replace for a name inside dir, which it never leaves: a link is
// replaced itself.
func replaceIn(dir *os.Root, name string, perm fs.FileMode) (*replacement, error) {
	r := &replacement{dir: dir, name: name}
	if old, err := dir.Lstat(name); err == nil && old.Mode().IsRegular() {
		r.old = old
	}
	r.temp = filepath.Join(filepath.Dir(name), fmt.Sprintf(".%.200s.%08x", filepath.Base(name), rand.Uint32()))
	f, err := dir.OpenFile(r.temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	r.File = f
	return r, err
}

// finish replaces the file, unless err tells that its content is not complete.
func (r *replacement) finish(err error) error {
	// A full disk may show only now.
	if closeErr := r.Close(); err == nil {
		err = closeErr
	}
	if r.dir == nil {
		return err
	}
	if r.owned {
		defer r.dir.Close()
	}
	if err == nil && r.old != nil {
		err = r.dir.Chmod(r.temp, r.old.Mode())
	}
	if err == nil {
		err = r.dir.Rename(r.temp, r.name)
	}
	if err != nil && !r.keep {
		_ = r.dir.Remove(r.temp)
	}
	return err
}
