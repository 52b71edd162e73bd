package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// A Kernel is a bootable kernel and the tree of its modules.
type Kernel struct {
	Image   string
	Modules string // …/lib/modules/VERSION; "" for a kernel that has all it needs built in
}

// metas are the packages that stand for a distribution's kernel for virtual
// machines, in the order in which they are tried; %s is the architecture.
func metas() []string {
	return []string{
		"linux-image-cloud-%s", // Debian
		"linux-image-virtual",  // Ubuntu
		"linux-image-%s",       // Debian, the architectures without a cloud kernel
	}
}

// realImage is the name of a package that holds a kernel, not one that only
// depends on it; its group is the kernel's version.
var realImage = regexp.MustCompile(`^linux-image-(?:unsigned-)?([0-9]\S*)$`)

// OwnKernel is a kernel that the user brings.
func OwnKernel(image, modules string) (Kernel, error) {
	if info, err := os.Stat(image); err != nil {
		return Kernel{}, fmt.Errorf("kernel: %w", err)
	} else if info.IsDir() {
		return Kernel{}, fmt.Errorf("kernel %s: it is a directory; name the image itself", image)
	}
	if modules != "" {
		// A package's tree has no modules.dep before depmod has run, and needs none.
		_, noIndex := os.Stat(filepath.Join(modules, "modules.dep"))
		if _, err := os.Stat(filepath.Join(modules, "kernel")); err != nil && noIndex != nil {
			return Kernel{}, fmt.Errorf("modules %s: want a kernel's module tree, such as /lib/modules/VERSION: %w", modules, noIndex)
		}
	}
	return Kernel{Image: image, Modules: modules}, nil
}

// FetchKernel returns the distribution's kernel for arch, from dir if it is
// there already, else from the distribution's archive. Nothing is installed:
// the packages are unpacked into dir.
func FetchKernel(ctx context.Context, log io.Writer, arch, dir string) (Kernel, error) {
	return fetchKernel(ctx, log, arch, "", dir)
}

// FetchOldKernel is FetchKernel for the kernel of an earlier Debian release, such
// as bullseye, from the mirror that this machine's apt uses. Where that is none
// of Debian's the error is fs.ErrNotExist.
func FetchOldKernel(ctx context.Context, log io.Writer, arch, release, dir string) (Kernel, error) {
	return fetchKernel(ctx, log, arch, release, dir)
}

func fetchKernel(ctx context.Context, log io.Writer, arch, release, dir string) (Kernel, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Kernel{}, err
	}
	if k, err := findKernel(dir); err == nil {
		return k, nil
	}
	for _, p := range []string{"apt-get", "apt-cache", "dpkg"} {
		if _, err := exec.LookPath(p); err != nil {
			return Kernel{}, fmt.Errorf("no kernel for %s: without %s (Debian, Ubuntu) one can't be fetched; give your own with KERNEL=/path/to/vmlinuz (and MODULES=/lib/modules/VERSION unless vsock is built in)", arch, p)
		}
	}
	fmt.Fprintf(log, "fetching the distribution's kernel for %s\n", arch)
	// All of it appears at once: a tree that was cut off halfway is never used.
	part := dir + ".part"
	if err := os.RemoveAll(part); err != nil {
		return Kernel{}, err
	}
	if err := os.MkdirAll(part, 0o755); err != nil {
		return Kernel{}, err
	}
	defer os.RemoveAll(part)
	if err := unpackKernel(ctx, log, arch, release, part); err != nil {
		return Kernel{}, fmt.Errorf("fetch a kernel for %s: %w (or give your own with KERNEL= and MODULES=)", arch, err)
	}
	if _, err := findKernel(part); err != nil {
		return Kernel{}, err
	}
	if err := os.RemoveAll(dir); err != nil {
		return Kernel{}, err
	}
	if err := os.Rename(part, dir); err != nil {
		return Kernel{}, err
	}
	return findKernel(dir)
}

// findKernel looks for the kernel that was unpacked into dir. Debian's arm64
// kernel is a plain Image, which QEMU boots as it is, whatever its name says.
func findKernel(dir string) (Kernel, error) {
	images, _ := filepath.Glob(filepath.Join(dir, "boot", "vmlinu[xz]-*"))
	if len(images) == 0 {
		return Kernel{}, fmt.Errorf("no boot/vmlinuz-* in %s", dir)
	}
	version := strings.SplitN(filepath.Base(images[0]), "-", 2)[1]
	for _, lib := range []string{"lib", "usr/lib"} {
		modules := filepath.Join(dir, lib, "modules", version)
		if _, err := os.Stat(modules); err == nil {
			return Kernel{Image: images[0], Modules: modules}, nil
		}
	}
	return Kernel{}, fmt.Errorf("no modules of kernel %s in %s", version, dir)
}

// unpackKernel downloads the packages of arch's kernel and unpacks them into dir.
func unpackKernel(ctx context.Context, log io.Writer, arch, release, dir string) error {
	a, err := newApt(ctx, arch, dir)
	if err != nil {
		return err
	}
	if release != "" {
		if err := a.use(ctx, release); err != nil {
			return err
		}
	}
	if err := a.update(ctx, log); err != nil {
		return err
	}
	image, version, err := a.resolve(ctx)
	if err != nil {
		return err
	}
	packages := []string{image}
	// Ubuntu keeps the modules in packages of their own, of which the second
	// need not exist.
	for _, p := range []string{"linux-modules-" + version, "linux-modules-extra-" + version} {
		if _, err := a.output(ctx, "apt-cache", "show", "--no-all-versions", p); err == nil {
			packages = append(packages, p)
		}
	}
	fmt.Fprintf(log, "downloading %s\n", strings.Join(packages, " "))
	if _, err := a.output(ctx, "apt-get", append([]string{"-q", "download"}, packages...)...); err != nil {
		return err
	}
	debs, _ := filepath.Glob(filepath.Join(a.dir, "*.deb"))
	if len(debs) == 0 {
		return fmt.Errorf("apt-get download %s left no package", strings.Join(packages, " "))
	}
	for _, deb := range debs {
		if err := quietly(exec.CommandContext(ctx, "dpkg", "-x", deb, dir)); err != nil {
			return err
		}
	}
	return os.RemoveAll(a.dir)
}

// An apt is apt-get set up to know one architecture, which need not be the
// machine's own, with lists of its own: what the machine's dpkg and apt know is
// neither needed nor touched, and no root is needed either.
type apt struct {
	arch    string
	dir     string // where it works and downloads to
	options []string
}

func newApt(_ context.Context, arch, parent string) (*apt, error) {
	a := &apt{arch: arch, dir: filepath.Join(parent, "apt")}
	for _, d := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(a.dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	status := filepath.Join(a.dir, "status")
	if err := os.WriteFile(status, nil, 0o644); err != nil {
		return nil, err
	}
	for _, o := range []string{
		"APT::Architecture=" + arch,
		"APT::Architectures::=" + arch,
		"Dir::State::lists=" + filepath.Join(a.dir, "lists"),
		"Dir::State::status=" + status,
		"Dir::Cache=" + filepath.Join(a.dir, "cache"),
		// As root apt would become a user who cannot write here, and say so.
		"APT::Sandbox::User=" + username(),
		// The lists of packages are all that is wanted.
		"Acquire::Languages=none",
		"Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
		"Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false",
	} {
		a.options = append(a.options, "-o", o)
	}
	return a, nil
}

// debianMirror matches where apt would fetch a release of Debian itself from.
var debianMirror = regexp.MustCompile(`(?m)^'(\S+/debian)/dists/[^/']+/InRelease'`)

// use makes another release of Debian the only one that a knows.
func (a *apt) use(ctx context.Context, release string) error {
	out, err := a.output(ctx, "apt-get", "--print-uris", "update")
	if err != nil {
		return err
	}
	mirror := debianMirror.FindStringSubmatch(out)
	if mirror == nil {
		return fmt.Errorf("apt's sources name no mirror of Debian: %w", fs.ErrNotExist)
	}
	list := filepath.Join(a.dir, "sources.list")
	line := fmt.Sprintf("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n", mirror[1], release)
	a.options = append(a.options, "-o", "Dir::Etc::sourcelist="+list, "-o", "Dir::Etc::sourceparts=-")
	return os.WriteFile(list, []byte(line), 0o644)
}

func username() string {
	if os.Geteuid() == 0 {
		return "root"
	}
	return os.Getenv("USER")
}

// output runs one of apt's programs and returns what it prints.
func (a *apt) output(ctx context.Context, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, append(a.options[:len(a.options):len(a.options)], args...)...)
	cmd.Dir = a.dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.Output()
	if err != nil {
		var e *exec.ExitError
		if errors.As(err, &e) && len(e.Stderr) > 0 {
			return "", fmt.Errorf("%s %s: %w: %s", program, args[0], err, strings.TrimSpace(string(e.Stderr)))
		}
		return "", fmt.Errorf("%s %s: %w", program, args[0], err)
	}
	return string(out), nil
}

// update fetches the lists. One source of several that fails (a third party's,
// without this architecture) is not the end: resolve tells whether the
// distribution's own came.
func (a *apt) update(ctx context.Context, log io.Writer) error {
	if _, err := a.output(ctx, "apt-get", "-q", "update"); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		fmt.Fprintf(log, "%v; going on with the lists that came\n", err)
	}
	return nil
}

// resolve finds the package behind the first of metas that the distribution has.
func (a *apt) resolve(ctx context.Context) (image, version string, err error) {
	var tried []string
	for _, m := range metas() {
		meta := m
		if strings.Contains(m, "%s") {
			meta = fmt.Sprintf(m, a.arch)
		}
		tried = append(tried, meta)
		out, err := a.output(ctx, "apt-cache", "depends", "--important", meta)
		if err != nil {
			continue
		}
		if image, version := firstImage(out); image != "" {
			return image, version, nil
		}
	}
	return "", "", fmt.Errorf("the package lists have none of %s: %w", strings.Join(tried, ", "), fs.ErrNotExist)
}

// firstImage finds the first dependency in apt-cache's listing that holds a kernel.
func firstImage(depends string) (image, version string) {
	for _, word := range strings.Fields(depends) {
		if m := realImage.FindStringSubmatch(word); m != nil {
			return m[0], m[1]
		}
	}
	return "", ""
}
