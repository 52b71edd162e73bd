//go:build linux

package main

import (
	"debug/elf"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/hyperfleet/init/applets"
	rootfsskel "github.com/hyperfleet/init/rootfs-skel"
)

// version is set by the Makefile: -ldflags "-X main.version=v1.2.3".
var version string

const usage = `usage: hf-rootfs --init PATH [FLAGS] FORMAT OUT
       hf-rootfs --init PATH install ROOTFS

FORMAT is one of
  dir      a directory; one that is there is replaced if it is empty or was made by hf-rootfs
  cpio     an archive for use as an initramfs
  ext4     an image with an ext4 filesystem (needs e2fsprogs)
  list     not a filesystem: its listing, to the file OUT or, as -, to the output

install puts the binary and its links into a root filesystem that is there, and
replaces nothing that it did not put there.

Times are those of the overlays' files, but none is later than SOURCE_DATE_EPOCH
where that is set; everything else has SOURCE_DATE_EPOCH, or 1980-01-01 without it.

`

// repeated is a flag that may be given more than once.
type repeated []string

func (r *repeated) String() string     { return strings.Join(*r, ",") }
func (r *repeated) Set(s string) error { *r = append(*r, s); return nil }

// options are the command line.
type options struct {
	init, arch, modules, compress, module, cache string
	userland, version, help                      bool
	overlays, extra                              repeated
	size                                         size
	args                                         []string
}

func (o *options) flags() *flag.FlagSet {
	fs := flag.NewFlagSet("hf-rootfs", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&o.init, "init", "", "the built binary, which becomes "+applets.Binary+" (`PATH`; required)")
	fs.StringVar(&o.arch, "arch", runtime.GOARCH, "amd64 or arm64")
	fs.Var(&o.overlays, "overlay", "a `DIR`ectory whose files win over the skeleton's, an exported container image, say; repeatable, the later wins")
	fs.BoolVar(&o.userland, "userland", false, "add a shell and core commands (u-root's; needs Go and a minute, once)")
	fs.StringVar(&o.modules, "modules", "", "a kernel's lib/modules/VERSION, or a `DIR` that holds one: add the modules that vsock needs")
	fs.Var(&o.extra, "modules-extra", "add this module too, by `NAME`; repeatable")
	fs.StringVar(&o.compress, "compress", "gzip", "of cpio: "+strings.Join(rootfsskel.Compressions(), ", "))
	fs.Var(&o.size, "size", "of ext4: the image's size as `N`, NM or NG (default what it needs and room to work in)")
	fs.StringVar(&o.module, "userland-module", "", "the `DIR` with the module that --userland builds (default rootfs-skel/userland of this repository)")
	fs.StringVar(&o.cache, "cache", "", "the `DIR` that keeps what --userland built (default the user's cache)")
	fs.BoolVar(&o.version, "version", false, "print the version")
	fs.BoolVar(&o.help, "help", false, "print this")
	return fs
}

// usageError is one that the user can see on the command line.
type usageError struct{ error }

func usageErrorf(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func run(args []string, stdout, stderr io.Writer) int {
	err := runArgs(args, stdout, stderr)
	if err == nil {
		return 0
	}
	var bad usageError
	if errors.As(err, &bad) {
		fmt.Fprintf(stderr, "hf-rootfs: %v (hf-rootfs --help lists what there is)\n", err)
		return 2
	}
	fmt.Fprintf(stderr, "hf-rootfs: %v\n", err)
	return 1
}

// parse takes flags before, between and after the words.
func parse(args []string) (*options, error) {
	o := new(options)
	fs := o.flags()
	for len(args) > 0 {
		if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
			o.help = true
			return o, nil
		} else if err != nil {
			return nil, usageError{err}
		}
		if args = fs.Args(); len(args) > 0 {
			o.args, args = append(o.args, args[0]), args[1:]
		}
	}
	return o, nil
}

func runArgs(args []string, stdout, stderr io.Writer) error {
	o, err := parse(args)
	switch {
	case err != nil:
		return err
	case o.help:
		fmt.Fprint(stdout, usage)
		fs := o.flags()
		fs.SetOutput(stdout)
		fs.PrintDefaults()
		return nil
	case o.version:
		fmt.Fprintf(stdout, "hf-rootfs %s\n", versionString())
		return nil
	}
	if err := o.check(); err != nil {
		return err
	}
	note := func(s string) { fmt.Fprintf(stderr, "hf-rootfs: note: %s\n", s) }
	if err := checkBinary(o.init, o.arch); err != nil {
		return err
	}
	if o.args[0] == "install" {
		return install(o, stdout, stderr)
	}
	tree, err := o.build(stderr, note)
	if err != nil {
		return err
	}
	return o.write(tree, stdout, note)
}

func (o *options) check() error {
	formats := []string{"dir", "cpio", "ext4", "list", "install"}
	switch {
	case len(o.args) == 0:
		return usageErrorf("no format: want one of %s", strings.Join(formats, ", "))
	case !slices.Contains(formats, o.args[0]):
		return usageErrorf("%s: no such format: want one of %s", o.args[0], strings.Join(formats, ", "))
	case len(o.args) < 2:
		return usageErrorf("%s: no output named", o.args[0])
	case len(o.args) > 2:
		return usageErrorf("%s: one argument too many", o.args[2])
	case o.init == "":
		return usageErrorf("--init PATH is missing: the built binary")
	case o.arch != "amd64" && o.arch != "arm64":
		return usageErrorf("--arch %s: not amd64 or arm64", o.arch)
	case !slices.Contains(rootfsskel.Compressions(), o.compress):
		return usageErrorf("--compress %s: not one of %s", o.compress, strings.Join(rootfsskel.Compressions(), ", "))
	case len(o.extra) > 0 && o.modules == "":
		return usageErrorf("--modules-extra needs --modules")
	}
	return nil
}

// checkBinary keeps a binary of one machine out of the root filesystem of another,
// where all that shows is a kernel panic.
func checkBinary(path, arch string) error {
	f, err := elf.Open(path)
	if err != nil {
		var format *elf.FormatError
		if errors.As(err, &format) || errors.Is(err, io.EOF) {
			return fmt.Errorf("--init %s: not a program for Linux: %w", path, err)
		}
		return fmt.Errorf("--init: %w", err)
	}
	defer f.Close()
	want := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[arch]
	if f.Machine != want {
		return fmt.Errorf("--init %s: is for %v, and --arch is %s", path, f.Machine, arch)
	}
	return nil
}

func (o *options) build(log io.Writer, note func(string)) (*rootfsskel.Tree, error) {
	times, err := rootfsskel.EpochFromEnv()
	if err != nil {
		return nil, usageError{err}
	}
	c := rootfsskel.Config{
		Program:  rootfsskel.Program{Host: o.init, Path: applets.Binary, Links: applets.Links()},
		Overlays: o.overlays,
		Times:    times,
		Note:     note,
	}
	for _, m := range applets.MountPoints() {
		c.MountPoints = append(c.MountPoints, rootfsskel.MountPoint{Path: m.Target, Perm: uint32(m.Mode)})
	}
	for _, n := range applets.Nodes() {
		if n.Early {
			c.Devices = append(c.Devices, rootfsskel.Device{Path: n.Path, Perm: n.Perm, Major: n.Major, Minor: n.Minor})
		}
	}
	if o.modules != "" {
		c.Modules = &rootfsskel.Modules{Dir: o.modules, Extra: o.extra}
	}
	if o.userland {
		if c.Userland, err = o.makeUserland(log); err != nil {
			return nil, err
		}
	}
	return rootfsskel.Build(c)
}

func (o *options) makeUserland(log io.Writer) (*rootfsskel.Userland, error) {
	ub := rootfsskel.UserlandBuild{Module: o.module, Cache: o.cache, Arch: o.arch, Log: log}
	var err error
	if ub.Module == "" {
		if ub.Module, err = findUserlandModule(); err != nil {
			return nil, err
		}
	}
	if ub.Cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("%w: name a directory with --cache", err)
		}
		ub.Cache = filepath.Join(dir, "hyperfleet")
	}
	return ub.Make()
}

// findUserlandModule looks for it from the current directory up: it is a module of
// its own, so neither embedding nor the module cache can hold it.
func findUserlandModule() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		module := filepath.Join(dir, "rootfs-skel", "userland")
		if _, err := os.Stat(filepath.Join(module, "go.mod")); err == nil {
			return module, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("--userland: no rootfs-skel/userland here or above: run in the repository, or give --userland-module")
		}
		dir = filepath.Dir(dir)
	}
}

// write writes the tree. A file takes its name only when it is whole.
func (o *options) write(t *rootfsskel.Tree, stdout io.Writer, note func(string)) error {
	format, out := o.args[0], o.args[1]
	switch {
	case format == "dir":
		return t.WriteDir(out, note)
	case format == "list" && out == "-":
		return t.WriteList(stdout)
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(out), "."+filepath.Base(out)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	switch format {
	case "cpio":
		err = t.WriteCPIO(f, o.compress, note)
	case "ext4":
		err = t.WriteExt4(f.Name(), int64(o.size))
	case "list":
		err = t.WriteList(f)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", out, err)
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), out)
}

// size is a number of bytes, with a unit of 1024.
type size int64

func (s *size) String() string { return strconv.FormatInt(int64(*s), 10) }

func (s *size) Set(text string) error {
	units := map[byte]int64{'K': 1 << 10, 'M': 1 << 20, 'G': 1 << 30, 'T': 1 << 40}
	unit, digits := int64(1), text
	if text != "" {
		if u, ok := units[text[len(text)-1]]; ok {
			unit, digits = u, text[:len(text)-1]
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n <= 0 || n > (16<<40)/unit {
		return errors.New("want a number of bytes, or one with K, M, G or T")
	}
	*s = size(n * unit)
	return nil
}

func versionString() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}
