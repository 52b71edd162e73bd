package client

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/hyperfleet/init/applets/internal/tarhead"
)

// A packer makes an archive of local files.
type packer struct {
	root   *os.Root
	w      io.Writer
	result *CopyResult
	o      CopyOptions
	linked map[inode]string // the first name of files that have several
}

type inode struct{ dev, ino uint64 }

func (p *packer) entry(name string, d fs.DirEntry, err error) error {
	if excluded, badPattern := excluded(filepath.ToSlash(name), p.o.Exclude); badPattern != nil {
		return badPattern
	} else if excluded && name != "." {
		if d != nil && d.IsDir() {
			return fs.SkipDir
		}
		return nil
	}
	if err != nil {
		return p.unreadable(name, err)
	}
	info, err := p.root.Lstat(name)
	if err != nil {
		return p.unreadable(name, err)
	}
	h := p.header(name, info)
	switch info.Mode().Type() {
	case fs.ModeDir:
		h.Kind, h.Name = tarhead.Directory, h.Name+"/"
		if f, err := p.root.Open(name); err == nil {
			p.attributes(f, h)
			_ = f.Close()
		}
	case fs.ModeSymlink:
		h.Kind = tarhead.Symlink
		if h.Link, err = p.root.Readlink(name); err != nil {
			return p.unreadable(name, err)
		}
	case 0:
		if first := p.first(name, info); first != name {
			h.Kind, h.Link = tarhead.HardLink, filepath.ToSlash(first)
			return p.head(h)
		}
		return p.file(name, h)
	default:
		p.result.skip(name, "not a file, directory or link")
		return nil
	}
	return p.head(h)
}

// unreadable passes over something, unless that is all there is.
func (p *packer) unreadable(name string, err error) error {
	if name == "." {
		return err
	}
	var at *fs.PathError // whose path is name again
	if errors.As(err, &at) {
		err = at.Err
	}
	p.result.skip(name, err)
	return nil
}

func (p *packer) header(name string, info fs.FileInfo) *tarhead.Header {
	mtime := info.ModTime()
	h := &tarhead.Header{Name: filepath.ToSlash(name), Mode: uint32(info.Mode().Perm()), Sec: mtime.Unix(), Nsec: int64(mtime.Nanosecond())}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && p.o.Owners {
		h.UID, h.GID, h.Mode = st.Uid, st.Gid, uint32(st.Mode)
	}
	return h
}

func (p *packer) head(h *tarhead.Header) error {
	_, err := p.w.Write(h.Append(nil))
	return err
}

// first is the name under which a file has been sent already, or name.
func (p *packer) first(name string, info fs.FileInfo) string {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Nlink < 2 {
		return name
	}
	file := inode{uint64(st.Dev), st.Ino}
	if first, sent := p.linked[file]; sent {
		return first
	}
	if p.linked == nil {
		p.linked = map[inode]string{}
	}
	p.linked[file] = name
	return name
}

func (p *packer) attributes(f *os.File, h *tarhead.Header) {
	all, err := attributes(f, p.o.Owners)
	if err != nil {
		p.result.skip(h.Name, err)
	}
	for name, value := range all {
		h.Record(tarhead.AttributePrefix+name, value)
	}
}

// excluded tells whether a pattern names this: one with a slash the path, any other
// the last component.
func excluded(name string, patterns []string) (bool, error) {
	for _, pattern := range patterns {
		what := path.Base(name)
		if strings.Contains(pattern, "/") {
			what = name
		}
		if match, err := path.Match(pattern, what); match || err != nil {
			return match, err
		}
	}
	return false, nil
}

func (p *packer) file(name string, h *tarhead.Header) error {
	f, err := p.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // it may have become a FIFO
	if err != nil {
		delete(p.linked, p.inodeOf(name))
		return p.unreadable(name, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	h.Kind, h.Size = tarhead.File, info.Size()
	p.attributes(f, h)
	parts, table := extents(f, h.Size), ""
	if parts == nil {
		parts = []tarhead.Extent{{Offset: 0, Size: h.Size}}
	} else {
		table = h.Sparse(parts)
	}
	if err := p.head(h); err != nil {
		return err
	}
	if _, err := io.WriteString(p.w, table); err != nil {
		return err
	}
	short := false
	for _, e := range parts {
		if short, err = p.content(f, name, e, short); err != nil {
			return err
		}
	}
	_, err = p.w.Write(make([]byte, tarhead.Padding(h.Size)))
	return err
}

// inodeOf is that of a name, if it has one.
func (p *packer) inodeOf(name string) (i inode) {
	if info, err := p.root.Lstat(name); err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			i = inode{uint64(st.Dev), st.Ino}
		}
	}
	return i
}

// content sends a part of a file. How long that is has been told, so what can't be read,
// since the file has become shorter, say, is made up for with zeros; short is that it has.
func (p *packer) content(f *os.File, name string, e tarhead.Extent, short bool) (bool, error) {
	w := &progress{p.w, p.result, p.o.Progress}
	buf := make([]byte, min(e.Size, pieceSize))
	for e.Size > 0 {
		piece := buf[:min(e.Size, int64(len(buf)))]
		n, err := 0, error(nil)
		if !short {
			if n, err = f.ReadAt(piece, e.Offset); n < len(piece) {
				short = true
				if err == io.EOF {
					err = errors.New("it became shorter while it was read")
				}
				p.result.skip(name, fmt.Errorf("%w: filled up with %d zeros", err, e.Size-int64(n)))
			}
		}
		clear(piece[n:])
		if _, err := w.Write(piece); err != nil {
			return short, err
		}
		e.Offset += int64(len(piece))
		e.Size -= int64(len(piece))
	}
	return short, nil
}
