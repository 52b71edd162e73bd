package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// A Need is something that must be on the machine.
type Need struct {
	// Programs must all be in PATH, Files must all exist.
	Programs []string
	Files    []string
	// Packages are the Debian packages that bring them.
	Packages []string
	Why      string
}

// RunNeeds is what starting a machine of that architecture takes.
func RunNeeds(arch Arch) []Need {
	return []Need{{Programs: []string{arch.QEMU}, Packages: []string{arch.Package}, Why: "the emulator"}}
}

// ImageNeeds is what making an ext4 image takes.
func ImageNeeds() []Need {
	return []Need{{Programs: []string{"mkfs.ext4", "e2fsck", "dumpe2fs"}, Packages: []string{"e2fsprogs"}, Why: "ext4 images"}}
}

// TestNeeds is what the test-suite takes.
func TestNeeds() []Need {
	var needs []Need
	for _, a := range arches() {
		needs = append(needs, RunNeeds(a)...)
	}
	return slices.Concat(needs, ImageNeeds(), []Need{
		{Programs: []string{"busybox"}, Packages: []string{"busybox-static"}, Why: "the initramfs that switches to a disk"},
		{Programs: []string{"ldd"}, Packages: []string{"libc-bin"}, Why: "the emulator's libraries, for a machine within a machine"},
		{Programs: []string{"strace"}, Packages: []string{"strace"}, Why: "system calls per request"},
		{Programs: []string{"unshare"}, Packages: []string{"util-linux"}, Why: "namespace tests"},
		{Programs: []string{"vi"}, Packages: []string{"vim-tiny"}, Why: "an editor on a terminal of the guest"},
		{Programs: []string{"zsh", "fish"}, Packages: []string{"zsh", "fish"}, Why: "completion, tried in each shell"},
	})
}

// RaceNeeds is what Go's race detector takes: it is the one thing here that
// needs a C compiler.
func RaceNeeds() []Need {
	return []Need{{Programs: []string{"gcc"}, Files: []string{"/usr/include/stdlib.h"}, Packages: []string{"gcc", "libc6-dev"}, Why: "go test -race"}}
}

// missing reports what of the need is not there.
func (n Need) missing() []string {
	var gone []string
	for _, p := range n.Programs {
		if _, err := lookProgram(p); err != nil {
			gone = append(gone, p)
		}
	}
	for _, f := range n.Files {
		if _, err := os.Stat(f); errors.Is(err, fs.ErrNotExist) {
			gone = append(gone, f)
		}
	}
	return gone
}

// lookProgram finds a program in PATH or where administrators' programs are,
// which the PATH of an ordinary user leaves out.
func lookProgram(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/local/sbin/", "/usr/sbin/", "/sbin/"} {
		if p, err := exec.LookPath(dir + name); err == nil {
			return p, nil
		}
	}
	return "", err
}

// Program returns where a program is, for starting it.
func Program(name string) string {
	if p, err := lookProgram(name); err == nil {
		return p
	}
	return name
}

// Ensure installs what is missing of needs with apt-get, saying so on log.
// Where there is no apt-get it names what is missing.
func Ensure(ctx context.Context, log io.Writer, needs []Need) error {
	packages, report := absent(needs)
	if len(packages) == 0 {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("missing: %s; install what your distribution calls %s", report, strings.Join(packages, ", "))
	}
	fmt.Fprintf(log, "installing %s\n", strings.Join(packages, " "))
	if err := aptGet(ctx, "update"); err != nil {
		// A source that is not this machine's to mend must not stop the others.
		fmt.Fprintf(log, "apt-get update: %v; going on with the lists that are there\n", err)
	}
	if err := aptGet(ctx, append([]string{"install", "-y", "--no-install-recommends"}, packages...)...); err != nil {
		return fmt.Errorf("install %s: %w", strings.Join(packages, " "), err)
	}
	if _, report := absent(needs); report != "" {
		return fmt.Errorf("still missing after installing %s: %s", strings.Join(packages, " "), report)
	}
	return nil
}

// absent returns the packages to install and, for a person, what is missing.
func absent(needs []Need) (packages []string, report string) {
	var parts []string
	for _, n := range needs {
		if gone := n.missing(); len(gone) > 0 {
			packages = append(packages, n.Packages...)
			parts = append(parts, fmt.Sprintf("%s (%s)", strings.Join(gone, ", "), n.Why))
		}
	}
	slices.Sort(packages)
	return slices.Compact(packages), strings.Join(parts, "; ")
}

// aptGet runs apt-get as root, without questions. What it prints is of interest
// only if it fails.
func aptGet(ctx context.Context, args ...string) error {
	argv := append([]string{
		"env", "DEBIAN_FRONTEND=noninteractive",
		"apt-get", "-q", "-o", "DPkg::Lock::Timeout=120", "-o", "Dpkg::Use-Pty=0",
	}, args...)
	if os.Geteuid() != 0 {
		if _, err := exec.LookPath("sudo"); err != nil {
			return fmt.Errorf("not root and no sudo: as root, run %s", CommandLine(argv[2:]))
		}
		argv = append([]string{"sudo"}, argv...)
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin = os.Stdin // sudo may ask for a password
	return quietly(cmd)
}
