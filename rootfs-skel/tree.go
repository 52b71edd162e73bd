package rootfsskel

import (
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A Tree is a root filesystem in memory: paths and their inodes. Every path in it
// is absolute and clean, and every parent of it is a directory of the tree and no
// link: a writer that follows the sorted paths never goes through a link.
type Tree struct {
	nodes map[string]*Inode
	mtime int64 // of what is made on the way
}

// NewTree returns a tree that holds the root directory.
func NewTree(mtime int64) *Tree {
	return &Tree{nodes: map[string]*Inode{"/": Dir(0o755, mtime)}, mtime: mtime}
}

// An Entry is a path of a tree with its inode.
type Entry struct {
	Path string
	*Inode
}

// String is the entry as ls -l has it.
func (e Entry) String() string {
	if e.isSymlink() {
		return fmt.Sprintf("%s %s -> %s", e.Inode, e.Path, e.Target)
	}
	return fmt.Sprintf("%s %s", e.Inode, e.Path)
}

// Entries returns the tree in order: by path, component by component, so that a
// directory comes before what is in it, and what is in it before its sibling.
func (t *Tree) Entries() []Entry {
	list := make([]Entry, 0, len(t.nodes))
	for p, n := range t.nodes {
		list = append(list, Entry{p, n})
	}
	slices.SortFunc(list, func(a, b Entry) int { return comparePaths(a.Path, b.Path) })
	return list
}

// comparePaths compares with "/" before every other byte.
func comparePaths(a, b string) int {
	for i := 0; i < len(a) && i < len(b); i++ {
		switch {
		case a[i] == b[i]:
		case a[i] == '/':
			return -1
		case b[i] == '/':
			return 1
		default:
			return int(a[i]) - int(b[i])
		}
	}
	return len(a) - len(b)
}

// WriteList writes one line an entry.
func (t *Tree) WriteList(w io.Writer) error {
	for _, e := range t.Entries() {
		if _, err := fmt.Fprintln(w, e); err != nil {
			return err
		}
	}
	return nil
}

// Lookup returns what the path leads to, links followed, but not a link that is
// itself the path's end.
func (t *Tree) Lookup(p string) (*Inode, bool) {
	real, err := t.resolve(p, false)
	if err != nil {
		return nil, false
	}
	n, ok := t.nodes[real]
	return n, ok
}

// resolve follows the links of the path inside the tree, where ".." of the root is
// the root: a link never leads out. What does not exist yet is taken as it is
// written. With last, a link at the end is followed too.
func (t *Tree) resolve(p string, last bool) (string, error) {
	return follow(p, func(at string, end bool) (target string, err error) {
		switch n, ok := t.nodes[at]; {
		case ok && n.isSymlink() && (last || !end):
			return n.Target, nil
		case ok && !n.isDir() && !end:
			return "", fmt.Errorf("%s: %s: %w", p, at, unix.ENOTDIR)
		}
		return "", nil
	})
}

// follow returns the absolute path that p leads to where "/" is the root: ".." of
// it is itself, absolute links begin at it. link gives the target of a link to
// follow, or "", for each path on the way; end says that it is the last one.
func follow(p string, link func(at string, end bool) (target string, err error)) (string, error) {
	cur, rest, links := "/", split(p), 0
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		if name == ".." {
			cur = path.Dir(cur)
			continue
		}
		next := path.Join(cur, name)
		target, err := link(next, len(rest) == 0)
		if err != nil {
			return "", err
		}
		if target == "" {
			cur = next
			continue
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("%s: %w", p, unix.ELOOP)
		}
		if path.IsAbs(target) {
			cur = "/"
		}
		rest = append(split(target), rest...)
	}
	return cur, nil
}

// maxLinks is the kernel's own limit; see path_resolution(7).
const maxLinks = 40

func split(p string) []string {
	return slices.DeleteFunc(strings.Split(p, "/"), func(s string) bool { return s == "" || s == "." })
}

// Put places the inode at the path, over what is there. A directory is merged into
// the directory that is there, or that a link there leads to; anything else
// replaces what is there, a whole directory too. It returns the path that it
// resolved to.
func (t *Tree) Put(p string, n *Inode) (string, error) {
	if n.isDir() {
		if real, err := t.resolve(p, true); err == nil {
			if old, ok := t.nodes[real]; ok && old.isDir() {
				t.nodes[real] = n
				return real, nil
			}
		}
	}
	real, err := t.resolve(p, false)
	if err != nil {
		return "", err
	}
	if real == "/" {
		return "", fmt.Errorf("%s: the root can only be a directory", p)
	}
	t.remove(real)
	if err := t.makeParents(real); err != nil {
		return "", err
	}
	t.nodes[real] = n
	return real, nil
}

// Fill places the inode at the path if nothing is there, and says whether it did.
// A directory is also made where a link there leads to nothing.
func (t *Tree) Fill(p string, n *Inode) (bool, error) {
	real, err := t.resolve(p, n.isDir())
	if err != nil {
		return false, err
	}
	if _, taken := t.nodes[real]; taken {
		return false, nil
	}
	if err := t.makeParents(real); err != nil {
		return false, err
	}
	t.nodes[real] = n
	return true, nil
}

// LinkTo returns a symbolic link for the path that leads to target, relative to
// where the path really is, so that it holds inside and outside a chroot.
func (t *Tree) LinkTo(p, target string) (*Inode, error) {
	real, err := t.resolve(p, false)
	if err != nil {
		return nil, err
	}
	up := strings.Repeat("../", len(split(path.Dir(real))))
	return Symlink(up+strings.TrimPrefix(target, "/"), t.mtime), nil
}

// makeParents makes the directories above a resolved path.
func (t *Tree) makeParents(p string) error {
	dir := path.Dir(p)
	n, ok := t.nodes[dir]
	switch {
	case ok && n.isDir():
		return nil
	case ok:
		return fmt.Errorf("%s: %s: %w", p, dir, unix.ENOTDIR)
	}
	if err := t.makeParents(dir); err != nil {
		return err
	}
	t.nodes[dir] = Dir(0o755, t.mtime)
	return nil
}

func (t *Tree) remove(p string) {
	if n, ok := t.nodes[p]; ok && n.isDir() {
		for other := range t.nodes {
			if strings.HasPrefix(other, p+"/") {
				delete(t.nodes, other)
			}
		}
	}
	delete(t.nodes, p)
}

// links returns for each inode with more than one path those paths, in order.
func links(list []Entry) map[*Inode][]string {
	all := make(map[*Inode][]string)
	for _, e := range list {
		if !e.isDir() {
			all[e.Inode] = append(all[e.Inode], e.Path)
		}
	}
	for n, paths := range all {
		if len(paths) < 2 {
			delete(all, n)
		}
	}
	return all
}

// isNotPlace tells that a path can't be had because something in its way is no
// directory, or a loop of links.
func isNotPlace(err error) bool {
	return errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}
