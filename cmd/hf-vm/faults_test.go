//go:build linux

package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyperfleet/init/cmd/internal/vm"
)

// TestVMPeers boots with the two values of --peers that are not the default,
// which TestVM has (issue 3: admission). Where anyone is admitted, there is traffic
// too (FAULTS.md 1.24; 2: reset mid-request or mid-reply; 3: Firecracker's cases).
func TestVMPeers(t *testing.T) {
	for peers, checks := range map[string]string{"host": "peers-host", "any": "peers-any,traffic"} {
		t.Run(peers, func(t *testing.T) {
			t.Parallel()
			b := getBench(t, vm.HostArch())
			g := b.boot(t, b.config("--peers="+peers+" --on-exit=stay", "/usr/bin/guestcheck "+checks+" term"), bootTime)
			g.expect(isReady)
			g.checks()
			g.ends(isOff)
		})
	}
}

// TestVMLateVsock boots with none of the modules of vsock: the client must find the
// local socket by itself. Then they come, and the agent must serve vsock as it is
// (FAULTS.md 2: vsock device late).
func TestVMLateVsock(t *testing.T) {
	t.Parallel()
	b := getBench(t, vm.HostArch())
	dir := t.TempDir()
	tree, late := filepath.Join(dir, "tree"), filepath.Join(dir, "late")
	if err := b.rootfs(t.Context(), "--modules", b.kernel.Modules, "dir", tree); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(late, "srv"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(tree, "usr", "lib", "modules"), filepath.Join(late, "srv", "late")); err != nil {
		t.Fatal(err)
	}
	c := b.config("--on-exit=stay", "/usr/bin/guestcheck local,late poweroff")
	c.Initrd = filepath.Join(dir, "initramfs.cpio.gz")
	if err := b.rootfs(t.Context(), "--overlay", late, "cpio", c.Initrd); err != nil {
		t.Fatal(err)
	}
	g := b.boot(t, c, bootTime)
	g.expect(isReady)
	g.checks()
	g.ends(isOff)
}

// TestVMStuckConsole boots a machine whose serial port is a pipe that nobody reads,
// and fills it (FAULTS.md 2: console blocked).
func TestVMStuckConsole(t *testing.T) {
	t.Parallel()
	b := getBench(t, vm.HostArch())
	pipe := filepath.Join(t.TempDir(), "pipe")
	for _, end := range []string{".in", ".out"} {
		if err := unix.Mkfifo(pipe+end, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := b.config("-d --on-exit=stay", "/usr/bin/guestcheck port stuck poweroff")
	c.Initrd = filepath.Join(t.TempDir(), "initramfs.cpio.gz")
	if err := b.rootfs(t.Context(), "--modules", b.kernel.Modules, "--modules-extra", "virtio_console", "cpio", c.Initrd); err != nil {
		t.Fatal(err)
	}
	// What the checks say comes over a port of their own. QEMU takes the end of
	// its standard input for a port that is closed, so that is not used.
	c.Serial = "chardev:stuck"
	c.Args = []string{"-chardev", "pipe,id=stuck,path=" + pipe, "-device", "virtio-serial-device",
		"-chardev", "file,id=checks,path=/dev/stdout", "-device", "virtserialport,chardev=checks"}
	g := b.boot(t, c, bootTime)
	g.checks()
	if err := g.Wait(g.limit); err != nil {
		t.Error(err)
	}
}

// oldRelease is the Debian release with a kernel of the 5.10 era.
const oldRelease = "bullseye"

// TestVMOldKernel boots Linux 5.10, which has no cgroup.kill (FAULTS.md 1.8; issue 3:
// kernel 5.10-era features missing).
func TestVMOldKernel(t *testing.T) {
	t.Parallel()
	b := *getBench(t, "amd64")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var err error
	b.kernel, err = vm.FetchOldKernel(ctx, os.Stderr, b.arch.Name, oldRelease, filepath.Join(b.root, "build", "kernel", b.arch.Name+"-"+oldRelease))
	if err != nil { // a mirror without that release, or none in reach, is no fault of this program
		t.Skip(err)
	}
	b.kvm = false // what was tried is the other kernel
	b.initrd = filepath.Join(t.TempDir(), "initramfs.cpio.gz")
	if err := b.rootfs(t.Context(), "--modules", b.kernel.Modules, "cpio", b.initrd); err != nil {
		t.Fatal(err)
	}
	g := b.boot(t, b.config("--on-exit=stay", "/usr/bin/guestcheck boot,old,clock poweroff"), bootTime)
	if line := g.expect(isReady); !strings.Contains(line, "vsock:52") {
		t.Errorf("%s: vsock is missing", line)
	}
	g.checks()
	g.ends(isOff)
}
