package rootfsskel

import (
	"debug/buildinfo"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// ErrNotOurs is the conflict with a file that an installation did not make.
var ErrNotOurs = errors.New("is there and not ours: left alone")

// An Installation puts the program into a root filesystem that is there.
type Installation struct {
	Program Program
	Module  string                    // the path of the module that the program is of
	Told    func(line string)         // one line for what was done
	Refused func(p string, err error) // called for each link that could not be made
}

// Install installs into the directory. Paths are followed inside of it only: with an
// absolute link as inside a chroot, and whatever leads out of it is an error. It
// replaces an earlier binary of the program and links to it, and nothing else. The
// error is about the binary itself.
func (in Installation) Install(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	r := rooted{root}
	if err := in.binary(r); err != nil {
		return fmt.Errorf("%s: %w", in.Program.Path, err)
	}
	for _, p := range in.Program.Links {
		if err := in.link(r, p); err != nil {
			in.Refused(p, err)
		}
	}
	return nil
}

// binary puts the binary in its place, whole or not at all: the one that is there
// may be running.
func (in Installation) binary(r rooted) error {
	dest, err := r.resolve(in.Program.Path)
	if err != nil {
		return err
	}
	if ours, err := in.isOurs(r, dest); err != nil {
		return err
	} else if !ours {
		return ErrNotOurs
	}
	src, err := os.Open(in.Program.Host)
	if err != nil {
		return err
	}
	defer src.Close()
	tmp := path.Join(path.Dir(dest), fmt.Sprintf(".%s.%d", path.Base(dest), os.Getpid()))
	out, err := r.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	defer r.Remove(tmp) // nothing to remove once it is renamed
	if _, err := io.Copy(out, src); err != nil {
		out.Close()
		return err
	}
	if err := errors.Join(out.Chmod(0o755), out.Sync(), out.Close()); err != nil {
		return err
	}
	if err := r.Rename(tmp, dest); err != nil {
		return err
	}
	in.Told(fmt.Sprintf("%s: installed", in.Program.Path))
	return nil
}

// link makes one link to the binary, relative, so that it holds in and outside of
// the root filesystem.
func (in Installation) link(r rooted, p string) error {
	dest, err := r.resolve(p)
	if err != nil {
		return err
	}
	target := strings.Repeat("../", strings.Count(dest, "/")) + strings.TrimPrefix(in.Program.Path, "/")
	if old, err := r.Readlink(dest); err == nil && old == target {
		return nil
	}
	if ours, err := in.isOurs(r, dest); err != nil {
		return err
	} else if !ours {
		return ErrNotOurs
	}
	if err := r.makeDirs(path.Dir(dest)); err != nil {
		return err
	}
	tmp := path.Join(path.Dir(dest), fmt.Sprintf(".%s.%d", path.Base(dest), os.Getpid()))
	if err := r.Symlink(target, tmp); err != nil {
		return err
	}
	if err := r.Rename(tmp, dest); err != nil {
		r.Remove(tmp)
		return err
	}
	in.Told(fmt.Sprintf("%s -> %s", p, target))
	return nil
}

// isOurs tells whether the name is free, an earlier binary of the program, or a link
// to it.
func (in Installation) isOurs(r rooted, name string) (bool, error) {
	st, err := r.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return true, nil
	case err != nil:
		return false, err
	case st.Mode()&fs.ModeSymlink != 0:
		target, err := r.Readlink(name)
		if err != nil {
			return false, err
		}
		if !path.IsAbs(target) {
			target = path.Join("/", path.Dir(name), target)
		}
		return path.Clean(target) == in.Program.Path, nil
	case !st.Mode().IsRegular():
		return false, nil
	}
	f, err := r.Open(name)
	if err != nil {
		return false, err
	}
	defer f.Close()
	// The linker writes the module into every Go program, stripped or not.
	info, err := buildinfo.Read(f)
	return err == nil && info.Main.Path == in.Module, nil
}

// rooted is a root filesystem of another system: os.Root keeps every path inside,
// but refuses absolute links, which are meant from its own root.
type rooted struct{ *os.Root }

// resolve returns the path, relative to the root, with the links of its directories
// followed as a chroot would. What does not exist stays as it is written.
func (r rooted) resolve(p string) (string, error) {
	real, err := follow(p, func(at string, end bool) (string, error) {
		if end {
			return "", nil
		}
		// No link: a directory, or nothing, or what the use of the path will show.
		target, _ := r.Readlink(strings.TrimPrefix(at, "/"))
		return target, nil
	})
	if err != nil {
		return "", err
	}
	return path.Join(".", strings.TrimPrefix(real, "/")), nil
}

// makeDirs makes a directory and those above it that are missing. Whatever the umask of
// who installs, the users of that system need them.
func (r rooted) makeDirs(dir string) error {
	if dir == "." {
		return nil
	}
	if err := r.makeDirs(path.Dir(dir)); err != nil {
		return err
	}
	err := r.Mkdir(dir, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil {
		err = r.Chmod(dir, 0o755)
	}
	return err
}

// IsRoot tells whether two paths are one directory: installing into the root of this
// machine is a mistake to ask about.
func IsRoot(dir string) bool {
	a, err := os.Stat(dir)
	if err != nil {
		return false
	}
	b, err := os.Stat(string(filepath.Separator))
	return err == nil && os.SameFile(a, b)
}
