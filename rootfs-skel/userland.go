package rootfsskel

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"
	"golang.org/x/sys/unix"
)

// A Userland is a shell and core commands, as one binary: u-root's.
type Userland struct {
	Box   string   // the binary, on this machine
	Names []string // the commands in it
}

// boxPath is where the binary goes; the commands are links to it. u-root has it
// there too.
const boxPath = "/bbin/bb"

// fillUserland adds the binary and a link for each command that the tree has not.
func (b *builder) fillUserland(u *Userland) error {
	n, err := HostFile(0o755, b.t.mtime, u.Box)
	if err != nil {
		return err
	}
	if _, err := b.t.Put(boxPath, n); err != nil {
		return err
	}
	for _, name := range u.Names {
		if b.hasCommand(name) {
			continue
		}
		if err := b.fillLink("/bin/"+name, boxPath); err != nil {
			return err
		}
	}
	return nil
}

// hasCommand tells whether the tree has a command of that name anywhere on the
// path that the agent gives to commands.
func (b *builder) hasCommand(name string) bool {
	for _, dir := range []string{"/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if _, ok := b.t.Lookup(dir + "/" + name); ok {
			return true
		}
	}
	return false
}

func (b *builder) fillLink(p, target string) error {
	link, err := b.t.LinkTo(p, target)
	if isNotPlace(err) {
		b.note("%s: left out: %v", p, err)
		return nil
	}
	if err != nil {
		return err
	}
	return b.fill(p, link)
}

// A UserlandBuild makes a [Userland] with the u-root command of a Go module.
type UserlandBuild struct {
	Module string // the directory of the module, whose tools are u-root and the commands
	Cache  string // where what was built is kept
	Arch   string // GOARCH
	Log    io.Writer
}

// rootCommand is the package of the u-root command among the module's tools.
const rootCommand = "github.com/u-root/u-root"

// Make returns the userland, built if the cache has none for this module, Go
// version and architecture.
func (ub UserlandBuild) Make() (*Userland, error) {
	goTool, err := FindTool("go", "golang-go")
	if err != nil {
		return nil, err
	}
	key, err := ub.key(goTool)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(ub.Cache, "userland-"+ub.Arch+"-"+key)
	if u, err := readUserland(dir); err == nil {
		return u, nil
	}
	fmt.Fprintf(ub.Log, "building the userland for %s (about a minute; kept in %s)\n", ub.Arch, dir)
	if err := os.MkdirAll(ub.Cache, 0o755); err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp(ub.Cache, ".userland.*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	archive := filepath.Join(tmp, "cpio")
	if err := ub.build(goTool, tmp, archive); err != nil {
		return nil, err
	}
	if err := unpack(archive, tmp); err != nil {
		return nil, err
	}
	if err := os.Remove(archive); err != nil {
		return nil, err
	}
	// Another run may have been faster: what it made is the same.
	if err := os.Rename(tmp, dir); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
		return nil, err
	}
	return readUserland(dir)
}

// key stands for what the binary depends on.
func (ub UserlandBuild) key(goTool string) (string, error) {
	h := sha256.New()
	err := filepath.WalkDir(ub.Module, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(p)
		fmt.Fprintln(h, d.Name(), len(data))
		h.Write(data)
		return err
	})
	if err != nil {
		return "", err
	}
	version, err := ub.goRun(goTool, "env", "GOVERSION")
	if err != nil {
		return "", err
	}
	io.WriteString(h, version)
	return fmt.Sprintf("%x", h.Sum(nil)[:8]), nil
}

// build runs u-root. The command itself is built for this machine and with paths,
// as it looks for GOROOT by them.
func (ub UserlandBuild) build(goTool, tmp, archive string) error {
	uroot := filepath.Join(tmp, "u-root")
	if _, err := ub.goRun(goTool, "build", "-trimpath=false", "-o", uroot, rootCommand); err != nil {
		return err
	}
	defer os.Remove(uroot)
	tools, err := ub.goRun(goTool, "list", "-f", "{{.ImportPath}}", "tool")
	if err != nil {
		return err
	}
	args := []string{"-o", archive, "-initcmd=", "-defaultsh="}
	for pkg := range strings.FieldsSeq(tools) {
		if pkg != rootCommand {
			args = append(args, pkg)
		}
	}
	_, err = ub.command([]string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + ub.Arch}, uroot, args...)
	return err
}

func (ub UserlandBuild) goRun(goTool string, args ...string) (string, error) {
	return ub.command([]string{"GOOS=", "GOARCH="}, goTool, args...)
}

// command runs a program in the module; what it says is shown if it fails.
func (ub UserlandBuild) command(env []string, name string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = ub.Module, &stdout, &stderr
	cmd.Env = append(append(os.Environ(), "GOWORK=off", "GOFLAGS=-buildvcs=false"), env...)
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", filepath.Base(name), args[0], err, oneLine(stderr.String()))
	}
	return stdout.String(), nil
}

// unpack takes the binary and the names of the commands from u-root's archive.
func unpack(archive, dir string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	rr, err := cpio.Newc.NewFileReader(f)
	if err != nil {
		return err
	}
	var names []string
	found := false
	err = cpio.ForEachRecord(rr, func(r cpio.Record) error {
		if path.Dir(r.Name) != "bbin" {
			return nil // its own /init, /bin/sh, directories and devices
		}
		switch {
		case r.Mode&unix.S_IFMT == unix.S_IFLNK:
			names = append(names, path.Base(r.Name))
		case r.Name == boxPath[1:]:
			found = true
			return copyRecord(r, filepath.Join(dir, "bb"))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s: %w", archive, err)
	}
	if !found {
		return fmt.Errorf("%s: no %s in it", archive, boxPath[1:])
	}
	slices.Sort(names)
	return os.WriteFile(filepath.Join(dir, "commands"), []byte(strings.Join(names, "\n")+"\n"), 0o644)
}

func copyRecord(r cpio.Record, dest string) error {
	out, err := os.OpenFile(dest, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, io.NewSectionReader(r.ReaderAt, 0, int64(r.FileSize))); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

// readUserland reads what unpack wrote.
func readUserland(dir string) (*Userland, error) {
	box := filepath.Join(dir, "bb")
	if _, err := os.Stat(box); err != nil {
		return nil, err
	}
	names, err := os.ReadFile(filepath.Join(dir, "commands"))
	if err != nil {
		return nil, err
	}
	return &Userland{Box: box, Names: strings.Fields(string(names))}, nil
}
