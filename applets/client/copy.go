package client

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/hyperfleet/init/applets/internal/tarhead"
	"github.com/hyperfleet/init/applets/wire"
)

// CopyOptions change what [Client.CopyTo] and [Client.CopyFrom] do.
type CopyOptions struct {
	Exclude []string // patterns, as in [TarGetOptions]
	// Owners keeps owners by number, setuid and setgid bits and all extended
	// attributes, of which otherwise only user's are kept. It is for root.
	Owners bool
	// Umask are permission bits that local files do not get.
	Umask fs.FileMode
	// Hash makes both sides sum up (SHA-256) what passes between them, and fail if they
	// disagree.
	Hash bool
	// Progress, if there is one, is told how many bytes of content have passed.
	Progress func(bytes int64)
}

// A CopyResult is what was copied, and what was not.
type CopyResult struct {
	Entries int64
	Bytes   int64    // of content; where that is sent, without the holes of files
	Skipped []string // names of what can't be copied, or not as it was, and why; at most wire.MaxWarnings
	SHA256  string   // of the archive that passed, if o.Hash and the agent is not too old
}

func (r *CopyResult) skip(name string, why any) {
	if len(r.Skipped) < wire.MaxWarnings {
		r.Skipped = append(r.Skipped, fmt.Sprintf("%s: %v", name, why))
	}
}

// CopyTo copies what is in a local directory into a directory of the guest, which
// is made if it is missing. Of files it copies content without its holes, permission
// bits, times and the user's extended attributes, and symbolic and hard links as they
// are; devices, sockets and FIFOs are skipped, and so is what can't be read. A file that
// becomes shorter meanwhile is filled up with zeros, and told of in Skipped. All of it
// belongs to root in the guest, unless o.Owners.
func (c *Client) CopyTo(ctx context.Context, local, guest string, o CopyOptions) (CopyResult, error) {
	var result CopyResult
	root, err := os.OpenRoot(local)
	if err != nil {
		return result, err
	}
	defer root.Close()
	r, w := io.Pipe()
	packed := make(chan struct{})
	go func() {
		defer close(packed)
		p := packer{root: root, w: w, result: &result, o: o}
		err := fs.WalkDir(root.FS(), ".", p.entry)
		if err == nil {
			_, err = w.Write(make([]byte, 2*tarhead.Block)) // which ends it
		}
		_ = w.CloseWithError(err)
	}()
	there, err := c.TarPut(ctx, guest, r, TarPutOptions{Make: true, Owners: o.Owners, Hash: o.Hash})
	_ = r.CloseWithError(errStopped)
	<-packed
	result.Entries, result.SHA256 = there.Entries, there.SHA256
	for _, warning := range there.Warnings {
		result.skip("in the guest", warning)
	}
	return result, err
}

// progress tells how much has been written to w.
type progress struct {
	w      io.Writer
	result *CopyResult
	tell   func(int64) // or nil
}

func (p *progress) Write(b []byte) (int, error) {
	n, err := p.w.Write(b)
	p.result.Bytes += int64(n)
	if p.tell != nil {
		p.tell(p.result.Bytes)
	}
	return n, err
}

// CopyFrom copies what is in a directory of the guest into a local one, which is
// made if it is missing; of anything else than a directory, that itself. It keeps what
// CopyTo does. Devices, sockets and FIFOs are skipped.
//
// The guest is not trusted: nothing that it sends leads out of the local directory.
func (c *Client) CopyFrom(ctx context.Context, guest, local string, o CopyOptions) (CopyResult, error) {
	var result CopyResult
	r, w := io.Pipe()
	unpacked := make(chan error, 1)
	go func() {
		u := unpacker{ctx: ctx, result: &result, o: o}
		err := u.into(local, r)
		if err == nil {
			_, err = io.Copy(io.Discard, r)
		}
		_ = r.CloseWithError(err)
		unpacked <- err
	}()
	there, err := c.TarGet(ctx, guest, w, TarGetOptions{Exclude: o.Exclude, Sparse: true, Hash: o.Hash})
	if err != nil {
		_ = w.CloseWithError(errors.Join(errStopped, err))
	} else {
		_ = w.Close()
	}
	if unpackErr := <-unpacked; unpackErr != nil && !errors.Is(unpackErr, errStopped) {
		err = unpackErr
	}
	result.SHA256 = there.SHA256
	for _, warning := range there.Warnings {
		result.skip("in the guest", warning)
	}
	return result, err
}

// An unpacker makes local files of an archive that nobody vouches for.
type unpacker struct {
	ctx    context.Context
	root   *os.Root
	result *CopyResult
	o      CopyOptions
	made   bool          // root was
	within []*tar.Header // directories whose attributes are still to be set
}

// into unpacks what r reads into a directory, which is made when something comes: what is
// missing in the guest leaves nothing here.
func (u *unpacker) into(local string, r io.Reader) error {
	in := bufio.NewReader(r)
	if _, err := in.Peek(1); err == io.EOF {
		return fmt.Errorf("the archive from the guest is empty: %w", io.ErrUnexpectedEOF)
	} else if err != nil {
		return err
	}
	_, missing := os.Stat(local)
	u.made = missing != nil
	if err := os.MkdirAll(local, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(local)
	if err != nil {
		return err
	}
	defer root.Close()
	u.root = root
	return u.all(tar.NewReader(in))
}

func (u *unpacker) all(archive *tar.Reader) error {
	for {
		h, err := archive.Next()
		if err == io.EOF {
			return u.leave("")
		}
		if err != nil {
			return fmt.Errorf("the archive from the guest: %w", err)
		}
		h.Name = path.Clean(h.Name)
		if len(h.Name) > maxName {
			return fmt.Errorf("the archive from the guest: a name of %d bytes", len(h.Name))
		}
		if !filepath.IsLocal(filepath.FromSlash(h.Name)) {
			return fmt.Errorf("the archive from the guest: %q leads out of the directory", h.Name)
		}
		if h.Name == "." {
			if u.made && h.Typeflag == tar.TypeDir { // otherwise it is not the guest's
				u.within = append(u.within, h)
			}
			continue
		}
		if err := u.leave(h.Name); err != nil {
			return err
		}
		if err := u.entry(h, archive); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
}

// maxName is PATH_MAX of Linux.
const maxName = 4096

func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	// What it is called until it is complete. Nobody else has that name, in a copy that
	// runs beside this one, say, or it is theirs.
	temp := path.Join(path.Dir(h.Name), fmt.Sprintf(".hf-%016x", rand.Uint64()))
	var err error
	switch h.Typeflag {
	case tar.TypeDir:
		err = u.root.Mkdir(h.Name, 0o700)
		if info, statErr := u.root.Lstat(h.Name); errors.Is(err, fs.ErrExist) && statErr == nil && info.IsDir() {
			err = nil
		}
		u.within = append(u.within, h)
		u.result.Entries++
		return err
	case tar.TypeReg, tar.TypeGNUSparse:
		err = u.file(temp, h, content)
	case tar.TypeSymlink:
		if err = u.root.Symlink(h.Linkname, temp); err == nil && u.o.Owners {
			err = u.root.Lchown(temp, h.Uid, h.Gid)
		}
	case tar.TypeLink:
		if err = u.root.Link(path.Clean(h.Linkname), temp); err == nil {
			_ = u.root.Remove(h.Name) // a rename between two names of one file does nothing
		}
	default:
		u.result.skip(h.Name, "not a file, directory or link")
		return nil
	}
	if errors.Is(err, fs.ErrExist) {
		return err
	}
	if err == nil {
		err = u.root.Rename(temp, h.Name)
	}
	if err != nil {
		_ = u.root.Remove(temp)
		return err
	}
	u.result.Entries++
	return nil
}

func (u *unpacker) file(temp string, h *tar.Header, content io.Reader) error {
	f, err := u.root.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	dst := io.Writer(f)
	if _, sparse := h.PAXRecords["GNU.sparse.major"]; sparse {
		dst = &holes{ctx: u.ctx, f: f}
	}
	_, err = io.CopyBuffer(&progress{dst, u.result, u.o.Progress}, content, make([]byte, pieceSize))
	if err == nil && dst != io.Writer(f) {
		err = f.Truncate(h.Size)
	}
	if err == nil {
		err = u.attributes(f, h)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return u.root.Chtimes(temp, h.ModTime, h.ModTime)
}

// attributes gives an open file those that its entry tells of. The owner comes before
// the mode, whose setuid bit it takes away.
func (u *unpacker) attributes(f *os.File, h *tar.Header) error {
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, tarhead.AttributePrefix)
		if !ok || !u.o.Owners && !strings.HasPrefix(name, "user.") {
			continue
		}
		if err := setAttribute(f, name, value); err != nil {
			u.result.skip(h.Name, err)
		}
	}
	mode := h.FileInfo().Mode()
	if !u.o.Owners {
		return f.Chmod(mode.Perm() &^ u.o.Umask)
	}
	if err := f.Chown(h.Uid, h.Gid); err != nil {
		return err
	}
	return f.Chmod(mode & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky))
}

// leave sets the attributes of the directories that name is not in.
func (u *unpacker) leave(name string) error {
	for len(u.within) > 0 {
		d := u.within[len(u.within)-1]
		if d.Name == "." && name != "" || len(name) > len(d.Name) && name[:len(d.Name)+1] == d.Name+"/" {
			return nil
		}
		u.within = u.within[:len(u.within)-1]
		dir, err := u.root.Open(d.Name)
		if err != nil {
			return err
		}
		err = u.attributes(dir, d)
		if err = errors.Join(err, dir.Close()); err != nil {
			return err
		}
		if err := u.root.Chtimes(d.Name, d.ModTime, d.ModTime); err != nil {
			return err
		}
	}
	return nil
}

// holes writes a file, and leaves holes where there are zeros. The guest can claim
// any number of them, so it ends with ctx.
type holes struct {
	ctx context.Context
	f   *os.File
}

func (h *holes) Write(b []byte) (int, error) {
	if err := h.ctx.Err(); err != nil {
		return 0, err
	}
	if len(b) > 0 && (b[0] != 0 || !bytes.Equal(b[1:], b[:len(b)-1])) { // not all of it is like its first, 0
		return h.f.Write(b)
	}
	_, err := h.f.Seek(int64(len(b)), io.SeekCurrent)
	return len(b), err
}
