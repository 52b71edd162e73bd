package client

import (
	"context"
	"fmt"
	"io/fs"
	"iter"

	"github.com/hyperfleet/init/applets/wire"
)

// An Entry is what [Client.List] tells of one name.
type Entry struct {
	Name string // relative to the directory that is listed; may hold any bytes
	Attr
	Target string // of a symbolic link
	// Unlisted is why the content of a directory is not in the listing: the name of
	// a Linux errno, or "".
	Unlisted string
}

// ListOptions change what [Client.List] does.
type ListOptions struct {
	Recursive bool // what is in directories too; links are not followed
	Page      int  // entries that are asked for at once; 0 is the agent's default
}

// List lists a directory in the guest, in the order of the names' bytes, a
// directory before what is in it. It asks for the next page as it is iterated
// over, and holds no more than one. After an error it ends.
func (c *Client) List(ctx context.Context, path string, o ListOptions) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for after := ""; ; {
			page, err := c.listPage(ctx, path, after, o)
			if err != nil {
				yield(Entry{}, err)
				return
			}
			for _, e := range page.Entries {
				entry, err := entryOf(e)
				if err != nil {
					err = fmt.Errorf("%s: %w", wire.OpFileList, err)
				}
				if !yield(entry, err) || err != nil {
					return
				}
			}
			if page.Next == "" || page.Next == after {
				return
			}
			after = page.Next
		}
	}
}

func (c *Client) listPage(ctx context.Context, path, after string, o ListOptions) (wire.List, error) {
	req := newRequest(wire.OpFileList)
	req.string("path", path)
	req.flag("recursive", o.Recursive)
	if o.Page != 0 {
		req.value("limit", o.Page)
	}
	if after != "" {
		req.string("after", after)
	}
	var page wire.List
	err := c.call(ctx, req, nil, &page)
	return page, err
}

func entryOf(w wire.Entry) (Entry, error) {
	attr, err := attrOf(w.Mode, w.MTime)
	if err != nil {
		return Entry{}, err
	}
	attr.Size, attr.UID, attr.GID = w.Size, int(w.UID), int(w.GID)
	switch w.Type {
	case wire.TypeDirectory:
		attr.Mode |= fs.ModeDir
	case wire.TypeSymlink:
		attr.Mode |= fs.ModeSymlink
	case wire.TypeFIFO:
		attr.Mode |= fs.ModeNamedPipe
	case wire.TypeSocket:
		attr.Mode |= fs.ModeSocket
	case wire.TypeBlock:
		attr.Mode |= fs.ModeDevice
	case wire.TypeCharacter:
		attr.Mode |= fs.ModeDevice | fs.ModeCharDevice
	}
	e := Entry{Name: w.Name, Attr: attr, Target: target(w.Link), Unlisted: w.Error}
	if w.NameBase64 != nil {
		e.Name = string(w.NameBase64)
	}
	return e, nil
}

func target(l wire.Link) string {
	if l.TargetBase64 != nil {
		return string(l.TargetBase64)
	}
	return l.Target
}

// Mkdir makes a directory in the guest with these permission bits.
func (c *Client) Mkdir(ctx context.Context, path string, mode fs.FileMode) error {
	return c.mkdir(ctx, path, mode, false)
}

// MkdirAll makes a directory in the guest, and those above it that are missing,
// which get 0755. One that is there already stays as it is.
func (c *Client) MkdirAll(ctx context.Context, path string, mode fs.FileMode) error {
	return c.mkdir(ctx, path, mode, true)
}

func (c *Client) mkdir(ctx context.Context, path string, mode fs.FileMode, parents bool) error {
	req := newRequest(wire.OpFileMkdir)
	req.string("path", path)
	req.mode("mode", mode)
	req.flag("parents", parents)
	return c.call(ctx, req, nil, nil)
}

// Rename gives a file or a directory in the guest another name. With replace it
// takes the place of what has that name already; else that is [fs.ErrExist].
func (c *Client) Rename(ctx context.Context, from, to string, replace bool) error {
	return c.move(ctx, wire.OpFileRename, from, to, replace, nil)
}

// Copy copies a file inside the guest, with its mode and owner, and returns its
// size. With replace it takes the place of what is there already; else that is
// [fs.ErrExist].
func (c *Client) Copy(ctx context.Context, from, to string, replace bool) (int64, error) {
	var sum wire.FileSum
	err := c.move(ctx, wire.OpFileCopy, from, to, replace, &sum)
	return sum.Size, err
}

func (c *Client) move(ctx context.Context, op, from, to string, replace bool, data any) error {
	req := newRequest(op)
	req.string("path", from)
	req.string("to", to)
	req.flag("replace", replace)
	return c.call(ctx, req, nil, data)
}

// Chmod sets the permission bits of a file in the guest. Links are followed.
func (c *Client) Chmod(ctx context.Context, path string, mode fs.FileMode) error {
	req := newRequest(wire.OpFileChmod)
	req.string("path", path)
	req.mode("mode", mode)
	return c.call(ctx, req, nil, nil)
}

// Chown sets the owner of a file in the guest: user and group are names or
// numbers; "" leaves one as it is. Links are followed.
func (c *Client) Chown(ctx context.Context, path, user, group string) error {
	return c.chown(ctx, path, user, group, true)
}

// Lchown is Chown that sets the owner of a link itself.
func (c *Client) Lchown(ctx context.Context, path, user, group string) error {
	return c.chown(ctx, path, user, group, false)
}

func (c *Client) chown(ctx context.Context, path, user, group string, follow bool) error {
	req := newRequest(wire.OpFileChown)
	req.string("path", path)
	if user != "" {
		req.string("user", user)
	}
	if group != "" {
		req.string("group", group)
	}
	req.value("follow", follow)
	return c.call(ctx, req, nil, nil)
}

// Symlink makes a symbolic link in the guest at path, which leads to target.
func (c *Client) Symlink(ctx context.Context, target, path string) error {
	req := newRequest(wire.OpFileSymlink)
	req.string("path", path)
	req.string("target", target)
	return c.call(ctx, req, nil, nil)
}

// Readlink tells where a symbolic link in the guest leads.
func (c *Client) Readlink(ctx context.Context, path string) (string, error) {
	req := newRequest(wire.OpFileReadlink)
	req.string("path", path)
	var l wire.Link
	err := c.call(ctx, req, nil, &l)
	return target(l), err
}

// Truncate makes a file in the guest size bytes long.
func (c *Client) Truncate(ctx context.Context, path string, size int64) error {
	req := newRequest(wire.OpFileTruncate)
	req.string("path", path)
	req.value("size", size)
	return c.call(ctx, req, nil, nil)
}

// RemoveAll deletes a file, a link or a directory in the guest with all that is
// in it, and returns how many names it removed. It follows no link, and stops
// with [syscall.EBUSY] at what another filesystem is mounted on. A path that does
// not exist is [fs.ErrNotExist].
func (c *Client) RemoveAll(ctx context.Context, path string) (int64, error) {
	req := newRequest(wire.OpFileDelete)
	req.string("path", path)
	req.flag("recursive", true)
	var data wire.Removed
	err := c.call(ctx, req, nil, &data)
	return data.Removed, err
}
