package vsockclient

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/hyperfleet/init/applets/client"
)

const cpHelp = `vm:PATH is a file of the guest, - stdin or stdout, anything else a file here;
one named vm:… is ./vm:…. Where DST is a directory, SRC is copied into it. A
file is replaced when all of it has arrived; both sides sum it up (SHA-256), and
it is an error if they disagree. Permission bits are kept, of what is copied out
of the guest less the umask here; the guest's counts for nothing. Setuid, setgid
and sticky bits are dropped without -p. Of a tree, files, directories, links,
times and the user's extended attributes are copied; devices and what can't be
read are told of and passed over, and the exit status is 1; the sum is that of
the tar archive that it passes as. SRC/. is what is in SRC.

With --resume, what has come of a file when a copy is cut off is kept beside DST
(a hidden name), and the same command goes on with it if SRC is still the same.

On a terminal, how far it is, and in the end the sum, are shown on stderr.
`

func cpFlags(f *flag.FlagSet, o *options) {
	f.BoolVar(&o.recursive, "r", false, "copy directories with all that is in them")
	f.BoolVar(&o.preserve, "p", false, "keep times, modes whatever the umask and, into the guest or for root, owners")
	f.BoolVar(&o.resume, "resume", false, "keep what has come of a file if it is cut off, beside DST, and go on with that")
	f.BoolVar(&o.verbose, "v", false, "tell each file's size and SHA-256, terminal or not")
}

// A place is one side of a copy.
type place struct {
	vm   bool
	path string // - for stdin or stdout
}

func parsePlace(s string) place {
	inside, ok := strings.CutPrefix(s, "vm:")
	if !ok {
		return place{path: s}
	}
	if !strings.HasPrefix(inside, "/") {
		inside = "/" + inside // as docker cp has it
	}
	return place{vm: true, path: inside}
}

func (p place) String() string {
	if p.vm {
		return "vm:" + p.path
	}
	return p.path
}

func (p place) std() bool { return !p.vm && p.path == "-" }

// join is the place of a name inside another.
func (p place) join(name string) place {
	if p.vm {
		return place{vm: true, path: path.Join(p.path, filepath.ToSlash(name))}
	}
	return place{path: filepath.Join(p.path, filepath.FromSlash(name))}
}

// base is the name that a place's copy has in another directory: none for the
// directory that copies are made of the content of.
func (p place) base() string {
	base := path.Base(p.path)
	if !p.vm {
		base = filepath.Base(p.path)
	}
	if base == "." || base == "/" || base == ".." {
		return ""
	}
	return base
}

// A copier makes copies.
type copier struct {
	*call
	ctx    context.Context
	failed bool // something was passed over
}

func cp(ctx context.Context, c *call) (int, error) {
	k := &copier{call: c, ctx: ctx}
	dst := parsePlace(c.args[len(c.args)-1])
	sources := c.args[:len(c.args)-1]
	if dst.std() {
		k.replies = nil // where the content goes nothing else can
	}
	into, err := k.isDir(dst)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return 0, err
	case !into && (len(sources) > 1 || strings.HasSuffix(dst.path, "/")):
		return 0, fmt.Errorf("cp: %s: there is no such directory", dst)
	}
	for _, s := range sources {
		src, to := parsePlace(s), dst
		if into {
			if src.std() {
				return 0, usagef("%s is a directory: give the file's name too", dst)
			}
			to = dst.join(src.base())
		}
		if err := k.copy(src, to); err != nil {
			return 0, err
		}
	}
	if k.failed {
		return statusFailed, nil // which has been told
	}
	return 0, nil
}

func (k *copier) isDir(p place) (bool, error) {
	switch {
	case p.std():
		return false, nil
	case p.vm:
		st, err := k.quiet.Stat(k.ctx, p.path)
		return err == nil && st.IsDir, err
	}
	st, err := os.Stat(p.path)
	return err == nil && st.IsDir(), err
}

func (k *copier) copy(src, dst place) error {
	switch {
	case !src.vm && !dst.vm:
		return usagef("one of %s and %s must be in the guest: vm:PATH", src, dst)
	case src.std():
		return k.put("-", k.stdin, nil, dst)
	case dst.std():
		_, err := k.get(src, dst, k.stdout, nil)
		return err
	}
	dir, err := k.isDir(src)
	switch {
	case err != nil:
		return err
	case dir && !k.recursive:
		return fmt.Errorf("cp: %s is a directory (-r copies it)", src)
	case dir && src.vm && dst.vm:
		return fmt.Errorf("cp: %s: directories can't be copied inside the guest: exec -- cp -r does it", src)
	case dir:
		return k.tree(src, dst)
	case src.vm && dst.vm:
		n, err := k.quiet.Copy(k.ctx, src.path, dst.path, true)
		if err != nil {
			return err
		}
		return k.report(src, dst, client.Sum{Size: n})
	case src.vm && k.resume:
		return k.getResumed(src, dst)
	case src.vm:
		return k.getFile(src, dst)
	}
	return k.putFile(src, dst)
}

// report tells of a file that was copied, to a program.
func (k *copier) report(src, dst place, sum client.Sum) error {
	if !k.json {
		return nil
	}
	return k.line(struct {
		From   string `json:"from"`
		To     string `json:"to"`
		Size   int64  `json:"size"`
		SHA256 string `json:"sha256,omitempty"`
	}{src.String(), dst.String(), sum.Size, sum.SHA256})
}

// putFile copies a file into the guest.
func (k *copier) putFile(src, dst place) error {
	f, err := os.Open(src.path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return k.put(src.path, f, info, dst)
}

// put copies what r holds, which is the file of info if there is one.
func (k *copier) put(name string, r io.Reader, info fs.FileInfo, dst place) error {
	o := client.PutOptions{Hash: true}
	var total int64
	bar := k.progress(name, 0)
	if info != nil && info.Mode().IsRegular() {
		mode := info.Mode().Perm()
		o.Mode, total = &mode, info.Size()
		if k.preserve { // with the owner: root's is not to be run as such for a bit of another's
			mode = info.Mode()
			o.ModTime, o.Owner = info.ModTime(), ownerOf(info)
		}
		if k.resume {
			o.Partial = partName(name, total, info.ModTime())
			o.Begin = func(offset int64) error {
				bar.there = offset
				return nil
			}
		}
	}
	bar.total = total
	sum, err := k.quiet.Put(k.ctx, dst.path, io.TeeReader(r, bar), o)
	bar.end(sum, err)
	if err != nil {
		return err
	}
	return k.report(place{path: name}, dst, sum)
}

// partName names a part of a file by what tells it from others. The path is not all
// of that: the file may have become another one since.
func partName(path string, size int64, modified time.Time) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d\x00%d", path, size, modified.UnixNano()))
	return hex.EncodeToString(sum[:8])
}

// get copies a file's content out of the guest; begin is told about the file first.
func (k *copier) get(src, dst place, w io.Writer, begin func(client.Attr) error) (client.Sum, error) {
	return k.getFrom(0, src, dst, w, begin)
}

// getFrom is get from a byte of the file on.
func (k *copier) getFrom(offset int64, src, dst place, w io.Writer, begin func(client.Attr) error) (client.Sum, error) {
	bar := k.progress(src.String(), 0)
	bar.done, bar.there = offset, offset
	sum, err := k.quiet.Get(k.ctx, src.path, io.MultiWriter(w, bar), client.GetOptions{
		Hash: true, Offset: offset,
		Begin: func(a client.Attr) error {
			bar.total = a.Size
			if begin != nil {
				return begin(a)
			}
			return nil
		},
	})
	if offset > 0 && err == nil { // of all of it, not of what came
		sum, err = k.verify(src, w.(*os.File))
	}
	bar.end(sum, err)
	if err != nil {
		return sum, err
	}
	if dst.std() && k.json {
		return sum, nil // where the content goes nothing else can
	}
	return sum, k.report(src, dst, sum)
}
