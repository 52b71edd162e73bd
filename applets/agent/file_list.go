//go:build linux

package agent

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// fileList lists a directory, page by page. The order is that of the names' bytes,
// a directory before what is in it: so a page can begin behind any name, also
// one that is gone, and names that come and go move no others.
func (a *Agent) fileList(r *request) error {
	l, err := r.fields.FileList()
	if err != nil {
		return err
	}
	root, err := retry(func() (int, error) {
		return unix.Open(l.Path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return failed(r, l.Path, err)
	}
	defer unix.Close(root)
	gone, stop := withGone(r)
	p := page{ctx: gone, root: root, left: l.Limit, recursive: l.Recursive}
	p.entries.WriteByte('[')
	err = p.directory("", l.After)
	stop()
	if err != nil && err != errFull {
		return failed(r, l.Path, err)
	}
	reply := wire.NewReply(r.conn)
	p.entries.WriteByte(']')
	reply.Raw("entries", p.entries.Bytes())
	next := ""
	if err == errFull {
		next = wire.Cursor(p.last)
	}
	reply.Value("next", next)
	return replying(reply.End())
}

// A page is a part of a listing in the making.
type page struct {
	ctx       context.Context
	root      int
	recursive bool
	left      int          // entries that it has room for
	held      int          // entries of the directories on the way down
	entries   bytes.Buffer // as JSON
	last      string       // path of the last entry
}

const (
	// pageBytes is where a page ends, however few entries it has: a reply is one
	// line, which clients limit.
	pageBytes = 512 << 10

	// A directory is read in batches, each of half the entries that may still be
	// held: memory does not grow with a directory, and hardly with the depth. They are
	// large because for each one the whole directory is read.
	maxBatch, minBatch = 2048, 64
)

// errFull is the end of a page that is not that of the listing.
var errFull = errors.New("the page is full")

// directory adds what is behind after in a directory. Both paths are relative, the
// one to the root and the other to the directory.
func (p *page) directory(path, after string) error {
	if first, rest, _ := strings.Cut(after, "/"); first != "" {
		// The page before ended with first itself or with something in it.
		if p.recursive {
			// Why it can't be listed has been told, unless it is gone since.
			err := p.directory(join(path, first), rest)
			if err == errFull || errors.As(err, new(errReplying)) {
				return err
			}
		}
		after = first
	}
	batch, err := p.read(path, after)
	if err != nil {
		return err
	}
	return p.batches(path, batch)
}

// batches adds entries of a directory and all that follow them there.
func (p *page) batches(path string, batch []wire.Entry) (err error) {
	for len(batch) > 0 {
		p.held += len(batch)
		for _, e := range batch {
			if err = p.entry(path, e); err != nil {
				break
			}
		}
		p.held -= len(batch)
		if err != nil {
			return err
		}
		if batch, err = p.read(path, batch[len(batch)-1].Name); err != nil {
			return err
		}
	}
	return nil
}

// entry adds an entry and, if that is asked for, what is in it.
func (p *page) entry(dir string, e wire.Entry) error {
	if p.left == 0 || p.entries.Len() > pageBytes {
		return errFull
	}
	path := join(dir, e.Name)
	var below []wire.Entry
	if p.recursive && e.Type == wire.TypeDirectory {
		var err error
		below, err = p.read(path, "")
		switch {
		case errors.As(err, new(errReplying)):
			return err
		case err != nil && !vanished(err):
			_, e.Error = describe(err)
		}
	}
	p.left--
	p.add(path, e)
	if err := p.batches(path, below); err != nil && !vanished(err) {
		return err
	}
	return nil
}

// vanished is for a directory that is none any more.
func vanished(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

// add encodes an entry.
func (p *page) add(path string, e wire.Entry) {
	e.Name, e.NameBase64 = text(path)
	if p.last != "" {
		p.entries.WriteByte(',')
	}
	p.last = path
	encoder := json.NewEncoder(&p.entries)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(e)                   // can't fail
	p.entries.Truncate(p.entries.Len() - 1) // the newline
}

// text returns a name as JSON can hold it and, if that is not all of it, its
// bytes.
func text(name string) (s string, raw []byte) {
	if utf8.ValidString(name) {
		return name, nil
	}
	return strings.ToValidUTF8(name, "\uFFFD"), []byte(name)
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// read returns the next entries of a directory, as many as a batch holds.
func (p *page) read(path, after string) ([]wire.Entry, error) {
	// One more than there is room for tells whether there is another page.
	size := max(minBatch, min(maxBatch-p.held/2, p.left+1))
	fd, err := openBelow(p.root, cmp.Or(path, "."), 0)
	if err != nil {
		return nil, err
	}
	dir := os.NewFile(uintptr(fd), path)
	defer dir.Close()
	for {
		names, err := p.smallest(dir, after, size)
		if err != nil || len(names) == 0 {
			return nil, err
		}
		var batch []wire.Entry
		for _, name := range names {
			if e, err := entryOf(fd, name); err == nil {
				batch = append(batch, e)
			}
		}
		if len(batch) > 0 {
			return batch, nil
		}
		after = names[len(names)-1] // all of these have gone
		if _, err := dir.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
	}
}

// smallest returns the first names behind after, in order, at most size.
func (p *page) smallest(dir *os.File, after string, size int) ([]string, error) {
	var found []string
	bound := ""
	trim := func() {
		slices.Sort(found)
		if len(found) > size {
			clear(found[size:])
			found = found[:size]
			bound = found[size-1]
		}
	}
	for p.ctx.Err() == nil {
		names, err := dir.Readdirnames(512)
		for _, name := range names {
			if name > after && (bound == "" || name < bound) {
				found = append(found, name)
			}
		}
		if err == io.EOF {
			trim()
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		if len(found) >= 2*size {
			trim()
		}
	}
	return nil, errGone
}

// fileType returns the kind of a file, as the protocol calls it.
func fileType(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return wire.TypeDirectory
	case unix.S_IFLNK:
		return wire.TypeSymlink
	case unix.S_IFIFO:
		return wire.TypeFIFO
	case unix.S_IFSOCK:
		return wire.TypeSocket
	case unix.S_IFBLK:
		return wire.TypeBlock
	case unix.S_IFCHR:
		return wire.TypeCharacter
	}
	return wire.TypeFile
}

// entryOf describes a name in a directory. Links are not followed.
func entryOf(dir int, name string) (wire.Entry, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return wire.Entry{}, err
	}
	e := wire.Entry{
		Name:  name,
		Type:  fileType(st.Mode),
		Size:  st.Size,
		Mode:  fmt.Sprintf("%o", st.Mode&0o7777),
		UID:   st.Uid,
		GID:   st.Gid,
		MTime: exactTime(st.Mtim),
	}
	if e.Type == wire.TypeSymlink {
		if to, err := readlinkat(dir, name); err == nil {
			e.Target, e.TargetBase64 = text(to)
		}
	}
	return e, nil
}
