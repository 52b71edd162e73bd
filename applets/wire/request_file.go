package wire

import (
	"encoding/base64"
	"encoding/hex"
	"math"
	"strings"
	"time"
)

// FileGet are the fields of file_get.
type FileGet struct {
	Path   string
	Offset int64 // of the first byte
	Length int64 // bytes at most
	Hash   bool  // the result holds the SHA-256 of what was sent
}

// FileGet reads the fields of file_get.
func (f Fields) FileGet() (FileGet, error) {
	r := fieldReader{f: f}
	g := FileGet{
		Path:   r.path("path", true),
		Offset: r.int("offset", 0, 0, math.MaxInt64),
		Length: r.int("length", math.MaxInt64, 0, math.MaxInt64),
		Hash:   r.bool("hash"),
	}
	return g, r.err
}

// FilePut are the fields of file_put.
type FilePut struct {
	Path     string
	Size     int64  // bytes that the file must have in the end, or -1
	SHA256   string // that it must have, or ""
	Hash     bool   // the result holds its SHA-256
	Mode     int    // as in FileWrite
	UID, GID int    // or -1: as it was, or root's
	MTime    time.Time
	Sync     bool // reply when it is on the disk
	// IfMatch is what must be there before: a file with this SHA-256, "*" for any
	// file, "" for none. nil is no condition.
	IfMatch *string
	Partial string // the name of an upload that can be resumed, or ""
	Discard bool   // remove what there is of it, and do nothing else
}

// maxID is beyond every uid and gid: the last one means "none" to the kernel.
const maxID = 1<<32 - 2

// FilePut reads the fields of file_put.
func (f Fields) FilePut() (FilePut, error) {
	r := fieldReader{f: f}
	p := FilePut{
		Path:    r.path("path", true),
		Size:    r.int("size", -1, 0, math.MaxInt64),
		SHA256:  r.sum("sha256"),
		Hash:    r.bool("hash"),
		Mode:    r.mode("mode"),
		UID:     int(r.int("uid", -1, 0, maxID)),
		GID:     int(r.int("gid", -1, 0, maxID)),
		MTime:   r.time("mtime"),
		Sync:    r.bool("sync"),
		Partial: r.string("partial"),
		Discard: r.bool("discard"),
	}
	if r.get("if_match") != nil {
		s := r.string("if_match")
		if s != "*" && s != "" {
			s = r.sum("if_match")
		}
		p.IfMatch = &s
	}
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
	switch {
	case len(p.Partial) > 64 || strings.Trim(p.Partial, plain) != "":
		r.fail("partial", "must be at most 64 letters, digits, - and _")
	case p.Discard && p.Partial == "":
		r.fail("partial", "is missing")
	}
	return p, r.err
}

// sum reads a SHA-256.
func (r *fieldReader) sum(name string) string {
	s := strings.ToLower(r.string(name))
	if b, err := hex.DecodeString(s); err != nil || len(b) != 32 && r.get(name) != nil {
		r.fail(name, "must be a SHA-256: 64 hexadecimal digits")
	}
	return s
}

// time reads a time as RFC 3339 has it; the zero Time is none.
func (r *fieldReader) time(name string) time.Time {
	if r.get(name) == nil {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, r.string(name))
	if err != nil {
		r.fail(name, `must be a time as RFC 3339 has it, such as "2006-01-02T15:04:05.5Z"`)
	}
	return t
}

// What the "limit" of file_list may be.
const (
	DefaultList = 1000
	MaxList     = 10000
)

// FileList are the fields of file_list.
type FileList struct {
	Path      string
	Recursive bool
	Limit     int    // entries in the reply, at most
	After     string // the relative path behind which the page begins
}

// FileList reads the fields of file_list.
func (f Fields) FileList() (FileList, error) {
	r := fieldReader{f: f}
	l := FileList{
		Path:      r.path("path", true),
		Recursive: r.bool("recursive"),
		Limit:     int(r.int("limit", DefaultList, 1, MaxList)),
	}
	after, err := base64.StdEncoding.DecodeString(r.string("after"))
	if l.After = string(after); err != nil || strings.HasPrefix(l.After, "/") || len(l.After) > maxPath {
		r.fail("after", `must be the "next" of another page`)
	}
	return l, r.err
}

// maxPath is PATH_MAX: a path that can be listed is shorter.
const maxPath = 4096

// Cursor returns the "after" of a page that begins behind a relative path. It is
// base64, as not every name is text.
func Cursor(path string) string { return base64.StdEncoding.EncodeToString([]byte(path)) }

// FileMkdir are the fields of file_mkdir.
type FileMkdir struct {
	Path    string
	Mode    int  // permission bits, or -1: 0755
	Parents bool // make those too; and it may be there already
}

// FileMkdir reads the fields of file_mkdir.
func (f Fields) FileMkdir() (FileMkdir, error) {
	r := fieldReader{f: f}
	m := FileMkdir{r.path("path", true), r.mode("mode"), r.bool("parents")}
	return m, r.err
}

// FileMove are the fields of file_rename and of file_copy.
type FileMove struct {
	Path, To string
	Replace  bool // what is there already
}

// FileMove reads the fields of file_rename and of file_copy.
func (f Fields) FileMove() (FileMove, error) {
	r := fieldReader{f: f}
	m := FileMove{r.path("path", true), r.path("to", true), r.bool("replace")}
	return m, r.err
}

// FileChmod are the fields of file_chmod.
type FileChmod struct {
	Path string
	Mode int
}

// FileChmod reads the fields of file_chmod.
func (f Fields) FileChmod() (FileChmod, error) {
	r := fieldReader{f: f}
	c := FileChmod{r.path("path", true), r.mode("mode")}
	if r.get("mode") == nil {
		r.fail("mode", "is missing")
	}
	return c, r.err
}

// FileChown are the fields of file_chown.
type FileChown struct {
	Path        string
	UID, GID    int    // or -1: leave as it is
	User, Group string // by name, instead
	Follow      bool   // a symbolic link
}

// FileChown reads the fields of file_chown.
func (f Fields) FileChown() (FileChown, error) {
	r := fieldReader{f: f}
	c := FileChown{
		Path:   r.path("path", true),
		UID:    int(r.int("uid", -1, 0, maxID)),
		GID:    int(r.int("gid", -1, 0, maxID)),
		User:   r.string("user"),
		Group:  r.string("group"),
		Follow: r.bool("follow") || r.get("follow") == nil,
	}
	switch {
	case c.UID >= 0 && c.User != "":
		r.fail("user", "is given besides uid")
	case c.GID >= 0 && c.Group != "":
		r.fail("group", "is given besides gid")
	case strings.Contains(c.User, ":"):
		r.fail("user", "must be a user only: group is a field of its own")
	case c.UID < 0 && c.GID < 0 && c.User == "" && c.Group == "":
		r.fail("uid", "is missing, and so are gid, user and group")
	}
	return c, r.err
}

// FileSymlink are the fields of file_symlink.
type FileSymlink struct {
	Path   string // of the link
	Target string // what it leads to, as it is
}

// FileSymlink reads the fields of file_symlink.
func (f Fields) FileSymlink() (FileSymlink, error) {
	r := fieldReader{f: f}
	l := FileSymlink{r.path("path", true), r.string("target")}
	if l.Target == "" {
		r.fail("target", "is missing")
	}
	return l, r.err
}

// FileTruncate are the fields of file_truncate.
type FileTruncate struct {
	Path string
	Size int64 // bytes
}

// FileTruncate reads the fields of file_truncate.
func (f Fields) FileTruncate() (FileTruncate, error) {
	r := fieldReader{f: f}
	t := FileTruncate{r.path("path", true), r.int("size", 0, 0, math.MaxInt64)}
	if r.get("size") == nil {
		r.fail("size", "is missing")
	}
	return t, r.err
}

// FileDelete are the fields of file_delete.
type FileDelete struct {
	Path      string
	Recursive bool // a directory with all that is in it
}

// FileDelete reads the fields of file_delete.
func (f Fields) FileDelete() (FileDelete, error) {
	r := fieldReader{f: f}
	d := FileDelete{r.path("path", true), r.bool("recursive")}
	return d, r.err
}
