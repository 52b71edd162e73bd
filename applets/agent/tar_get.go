//go:build linux

package agent

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/hyperfleet/init/applets/internal/identity"
	"github.com/hyperfleet/init/applets/internal/tarhead"
	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// tarGet sends a tree as a tar archive, in data frames.
func (a *Agent) tarGet(r *request) error {
	g, err := r.fields.TarGet()
	if err != nil {
		return err
	}
	t := &packing{get: g, links: map[inode]link{}, memory: r.conn.memory}
	var release func()
	t.buf, release = r.conn.memory.buffer()
	defer release()
	defer t.forget()
	compressor := compressors()[g.Compress]
	if compressor.cost > 0 {
		if err := r.conn.memory.Await(compressor.cost); err != nil {
			return failed(r, g.Path, err)
		}
		defer r.conn.memory.Give(compressor.cost)
	}
	top, st, err := t.open()
	if err != nil {
		return failed(r, g.Path, err)
	}
	defer top.Close()
	s, err := r.begin(struct{}{})
	if err != nil {
		return err
	}
	t.names = identity.ReadNames()
	sum := newChecksum(g.Hash)
	out := bufio.NewWriterSize(dataWriter{s, sum}, min(len(t.buf), smallFrame))
	compressed := compressor.open(out)
	t.w = compressed
	if err := t.all(top, st); err != nil {
		return err
	}
	if err := compressed.Close(); err != nil {
		return err
	}
	if err := out.Flush(); err != nil {
		return err
	}
	if err := s.Empty(wire.KindEnd); err != nil {
		return replying(err)
	}
	t.result.SHA256 = sum.result().SHA256
	return s.end(t.result)
}

// smallFrame is what headers and small files wait for before they are sent, in bytes.
const smallFrame = 16 << 10

// dataWriter sends what is written to it as data frames.
type dataWriter struct {
	s   *stream
	sum *checksum
}

func (d dataWriter) Write(p []byte) (int, error) {
	_, _ = d.sum.Write(p)
	n, err := d.s.Bytes(wire.KindData, p)
	if err != nil {
		err = errGone
	}
	return n, err
}

// A packing is an archive on its way out.
type packing struct {
	get    wire.TarGet
	w      io.Writer
	dev    uint64
	links  map[inode]link // files that have more names
	names  identity.Names
	result wire.TarResult
	buf    []byte
	memory *share

	scratch []byte // of headers
}

type inode struct{ dev, ino uint64 }

// A link is a file that was sent under one of its names.
type link struct {
	name string
	left uint64 // names that have not come yet
}

// maxLinked is how many files with several names are remembered at once, so
// that memory does not grow with the tree; beyond it, or where the budget has no
// room, a file is sent once for each of its names.
const maxLinked = 8192

// linkCost is what it takes to remember one, beside its name, in bytes.
const linkCost = 128

// unlink forgets one.
func (t *packing) unlink(id inode) {
	if l, ok := t.links[id]; ok {
		delete(t.links, id)
		t.memory.Give(linkCost + len(l.name))
	}
}

// forget forgets all of them.
func (t *packing) forget() {
	for id := range t.links {
		t.unlink(id)
	}
}

// open opens what is to be sent: a directory, or the one that anything else is
// in.
func (t *packing) open() (top *os.File, st unix.Stat_t, err error) {
	name := t.get.Path
	err = unix.Stat(name, &st)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		name = filepath.Dir(withoutSlashes(name))
		err = unix.Lstat(t.get.Path, &st) // a link that leads nowhere is one all the same
	}
	if err != nil {
		return nil, st, err
	}
	fd, err := retry(func() (int, error) { return unix.Open(name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, st, err
	}
	t.dev = st.Dev
	return os.NewFile(uintptr(fd), name), st, nil
}

// all sends the archive.
func (t *packing) all(top *os.File, st unix.Stat_t) error {
	base := path.Base(path.Clean(t.get.Path))
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if err := t.entry(top, base, base, base, 0); err != nil {
			return err
		}
	} else {
		name := ""
		if t.get.Top && base != "/" {
			name = base
		}
		h := t.header(top, ".", cmp.Or(name, "."), st)
		h.Name += "/"
		if err := t.head(h); err != nil {
			return err
		}
		if err := t.directory(top, name, "", 0); err != nil {
			return err
		}
	}
	return t.write(make([]byte, 2*tarhead.Block)) // which ends it
}

func (t *packing) write(p []byte) error {
	t.result.Bytes += int64(len(p))
	_, err := t.w.Write(p)
	return err
}

// head sends a header, and counts its entry.
func (t *packing) head(h *tarhead.Header) error {
	t.result.Entries++
	t.scratch = h.Append(t.scratch[:0])
	return t.write(t.scratch)
}

// warn remembers that something is not in the archive, or not as it is.
func warn(r *wire.TarResult, name string, err error) {
	r.Warned++
	if len(r.Warnings) < wire.MaxWarnings {
		const most = 1 << 10 // so that all of them fit a frame
		text := fmt.Sprintf("%s: %v", name, err)
		r.Warnings = append(r.Warnings, strings.ToValidUTF8(text[:min(len(text), most)], "\uFFFD"))
	}
}

// directory sends what is in a directory. name is what it is called in the
// archive, and below its path from the top.
func (t *packing) directory(dir *os.File, name, below string, depth int) error {
	for {
		names, err := dir.Readdirnames(max(16, 256>>depth))
		for _, n := range names {
			if err := t.entry(dir, n, join(name, n), join(below, n), depth); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			warn(&t.result, cmp.Or(name, "."), err)
			return nil
		}
	}
}

// excluded tells whether a pattern names this: one with a slash the path from the
// top, any other the last component.
func (t *packing) excluded(below string) bool {
	for _, pattern := range t.get.Exclude {
		what := path.Base(below)
		if strings.Contains(pattern, "/") {
			what = below
		}
		if match, _ := path.Match(pattern, what); match {
			return true
		}
	}
	return false
}

// entry sends one name of a directory, and what is below it. What can't be read
// is left out with a warning; the errors are those of sending.
func (t *packing) entry(dir *os.File, n, name, below string, depth int) error {
	if t.excluded(below) {
		return nil
	}
	var st unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), n, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && len(name) >= pathMax {
		err = unix.ENAMETOOLONG
	}
	if err != nil {
		warn(&t.result, name, err)
		return nil
	}
	if first := t.linked(name, &st); first != "" {
		h := tarHeader(name, st)
		h.Kind, h.Link = tarhead.HardLink, first
		return t.head(h)
	}
	before := t.result.Entries
	err = t.first(dir, n, name, below, depth, st)
	if t.result.Entries == before { // its other names can't be links to this one
		t.unlink(inode{st.Dev, st.Ino})
	}
	return err
}

// first is entry for what has not been sent under another name.
func (t *packing) first(dir *os.File, n, name, below string, depth int, st unix.Stat_t) (err error) {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return t.file(dir, n, name)
	case unix.S_IFDIR:
		return t.subdirectory(dir, n, name, below, depth)
	case unix.S_IFSOCK:
		warn(&t.result, name, errors.New("a socket, left out"))
		return nil
	}
	h := t.header(dir, n, name, st)
	if h.Kind == tarhead.Symlink {
		if h.Link, err = readlinkat(int(dir.Fd()), n); err != nil {
			warn(&t.result, name, err)
			return nil
		}
	}
	return t.head(h)
}

// linked returns under which name a file has been sent, if it has. It is forgotten
// when all its names have come.
func (t *packing) linked(name string, st *unix.Stat_t) string {
	if st.Nlink < 2 || st.Mode&unix.S_IFMT == unix.S_IFDIR || st.Mode&unix.S_IFMT == unix.S_IFSOCK {
		return ""
	}
	id := inode{st.Dev, st.Ino}
	l, ok := t.links[id]
	switch {
	case !ok && len(t.links) < maxLinked && t.memory.Take(linkCost+len(name)):
		t.links[id] = link{name, uint64(st.Nlink) - 1}
	case ok && l.left == 1:
		t.unlink(id)
	case ok:
		t.links[id] = link{l.name, l.left - 1}
	}
	return l.name
}

func (t *packing) subdirectory(dir *os.File, n, name, below string, depth int) error {
	fd, err := openBelow(int(dir.Fd()), n, 0)
	if err != nil {
		warn(&t.result, name, err)
		return nil
	}
	d := os.NewFile(uintptr(fd), name)
	defer d.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		warn(&t.result, name, err)
		return nil
	}
	h := t.header(d, ".", name, st)
	h.Name += "/"
	if err := t.head(h); err != nil {
		return err
	}
	if t.get.OneFilesystem && st.Dev != t.dev {
		return nil
	}
	return t.directory(d, name, below, depth+1)
}

// header describes a name in a directory; st is what it is.
func (t *packing) header(dir *os.File, n, name string, st unix.Stat_t) *tarhead.Header {
	h := tarHeader(name, st)
	h.Uname, h.Gname = t.names.Users[st.Uid], t.names.Groups[st.Gid]
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		h.Kind, h.Size = tarhead.File, st.Size
	case unix.S_IFDIR:
		h.Kind = tarhead.Directory
	case unix.S_IFLNK:
		h.Kind = tarhead.Symlink
	case unix.S_IFIFO:
		h.Kind = tarhead.FIFO
	case unix.S_IFCHR:
		h.Kind = tarhead.Character
	case unix.S_IFBLK:
		h.Kind = tarhead.BlockDev
	}
	// There is no call for the attributes of a name in an open directory.
	err := eachAttribute(procPath(int(dir.Fd()))+"/"+n, func(key string, value []byte) {
		h.Record(attributePrefix+key, string(value))
	})
	if err != nil {
		warn(&t.result, name, err)
	}
	return h
}

// tarHeader begins a header of what st is.
func tarHeader(name string, st unix.Stat_t) *tarhead.Header {
	h := &tarhead.Header{Name: name, Mode: st.Mode, UID: st.Uid, GID: st.Gid, Sec: st.Mtim.Sec, Nsec: st.Mtim.Nsec}
	if kind := st.Mode & unix.S_IFMT; kind == unix.S_IFCHR || kind == unix.S_IFBLK {
		h.Major, h.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
	}
	return h
}
