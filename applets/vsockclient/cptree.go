package vsockclient

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hyperfleet/init/applets/client"
)

// skip tells of something that is not copied, and goes on.
func (k *copier) skip(err error) {
	k.complain(err)
	k.fail(err)
	k.failed = true
}

// getFile copies a file out of the guest.
func (k *copier) getFile(src, dst place) error {
	return k.getInto(src, dst, func(perm fs.FileMode) (*replacement, error) { return replace(dst.path, perm) })
}

// getInto copies a file out of the guest to where open says, once its mode is
// known.
func (k *copier) getInto(src, dst place, open func(fs.FileMode) (*replacement, error)) error {
	var to *replacement
	var attr client.Attr
	content := writerFunc(func(p []byte) (int, error) { return to.Write(p) })
	_, err := k.get(src, dst, content, func(a client.Attr) (err error) {
		attr = a
		to, err = open(a.Mode.Perm())
		return err
	})
	if to == nil || to.File == nil {
		return err
	}
	if err == nil && k.preserve && to.dir != nil {
		to.old = nil
		err = keep(to.dir, to.temp, attr)
	}
	return to.finish(err)
}

// getResumed is getFile for one that may be here in part.
func (k *copier) getResumed(src, dst place) error {
	st, err := k.quiet.Stat(k.ctx, src.path)
	if err != nil {
		return err
	}
	part := "." + filepath.Base(dst.path)
	part = fmt.Sprintf("%.200s.%s.part", part, partName(src.path, st.Size, st.ModTime))
	to, offset, err := resume(dst.path, part)
	if err != nil {
		return err
	}
	var attr client.Attr
	_, err = k.getFrom(offset, src, dst, to.File, func(a client.Attr) error {
		attr = a
		return nil
	})
	switch {
	case err != nil:
	case k.preserve:
		to.old = nil
		err = keep(to.dir, to.temp, attr)
	case to.old == nil:
		err = to.Chmod(attr.Mode.Perm() &^ umask())
	}
	return to.finish(err)
}

// verify compares all of a file in the guest with its copy.
func (k *copier) verify(src place, f *os.File) (client.Sum, error) {
	there, err := k.quiet.Hash(k.ctx, src.path)
	if err != nil {
		return there, err
	}
	sum := sha256.New()
	n, err := f.Seek(0, io.SeekStart)
	if err == nil {
		n, err = io.Copy(sum, f)
	}
	here := client.Sum{Size: n, SHA256: hex.EncodeToString(sum.Sum(nil))}
	if err == nil && here != there {
		_ = f.Truncate(0) // it is of no use
		err = fmt.Errorf("cp: %s: it is not what was here of it (%d bytes, SHA-256 %s, of %d bytes, SHA-256 %s): try again", src, here.Size, here.SHA256, there.Size, there.SHA256)
	}
	return here, err
}

// keep gives a file the attributes that it has in the guest. A setuid bit goes with its
// owner only: it is not for the guest to make files that run as who copies them.
func keep(dir *os.Root, name string, a client.Attr) error {
	err := dir.Chmod(name, a.Mode.Perm())
	if os.Geteuid() == 0 {
		// Afterwards, a setuid bit would be gone.
		err = errors.Join(dir.Lchown(name, a.UID, a.GID), dir.Chmod(name, a.Mode))
	}
	return errors.Join(err, dir.Chtimes(name, time.Time{}, a.ModTime))
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// ownerOf is who owns a file here.
func ownerOf(info fs.FileInfo) *client.Owner {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	return &client.Owner{UID: int(st.Uid), GID: int(st.Gid)}
}

// tree copies a directory. What the guest calls its files, and where its links lead,
// does not make this write elsewhere than below dst.
func (k *copier) tree(src, dst place) error {
	bar := k.progress(src.String(), 0)
	o := client.CopyOptions{Owners: k.preserve && os.Geteuid() == 0, Hash: true, Progress: bar.at}
	if !k.preserve {
		o.Umask = umask()
	}
	do := func() (client.CopyResult, error) { return k.quiet.CopyTo(k.ctx, src.path, dst.path, o) }
	if src.vm {
		do = func() (client.CopyResult, error) { return k.quiet.CopyFrom(k.ctx, src.path, dst.path, o) }
	}
	result, err := do()
	for _, skipped := range result.Skipped {
		k.skip(fmt.Errorf("cp: %s: %s", src, skipped))
	}
	if err != nil {
		bar.end(client.Sum{}, err)
		return fmt.Errorf("cp: %s to %s: %w", src, dst, err)
	}
	bar.endTree(result)
	if !k.json {
		return nil
	}
	return k.line(struct {
		From    string `json:"from"`
		To      string `json:"to"`
		Entries int64  `json:"entries"`
		Size    int64  `json:"size"`
		SHA256  string `json:"sha256,omitempty"` // of the archive that passed
	}{src.String(), dst.String(), result.Entries, result.Bytes, result.SHA256})
}

// umask are the permission bits that new files do not get here.
func umask() fs.FileMode {
	old := syscall.Umask(0o077)
	syscall.Umask(old)
	return fs.FileMode(old)
}
