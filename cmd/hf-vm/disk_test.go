//go:build linux

package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/hyperfleet/init/cmd/internal/vm"
)

// A diskBench is what machines that run from a disk are made from.
type diskBench struct{ disk, initrd string }

// getDisk makes it once. The disk holds another one for the guest to mount.
var getDisk = sync.OnceValues(func() (diskBench, error) {
	var d diskBench
	b, err := benches[vm.HostArch()]()
	if err != nil {
		return d, err
	}
	dir := filepath.Join(benchDir, "disk")
	overlay := filepath.Join(dir, "overlay")
	if err := os.MkdirAll(filepath.Join(overlay, "srv"), 0o755); err != nil {
		return d, err
	}
	inner := filepath.Join(overlay, "srv", "inner.img")
	if out, err := exec.Command(vm.Program("mkfs.ext4"), "-q", inner, "16M").CombinedOutput(); err != nil {
		return d, &os.PathError{Op: "mkfs.ext4: " + string(out), Path: inner, Err: err}
	}
	d.disk, d.initrd = filepath.Join(dir, "disk.ext4"), filepath.Join(dir, "switch.cpio.gz")
	ctx := context.Background()
	if err := b.rootfs(ctx, "--overlay", overlay, "--modules", b.kernel.Modules, "--modules-extra", "loop", "--modules-extra", "overlay",
		"--modules-extra", "fuse", "--size", "128M", "ext4", d.disk); err != nil {
		return d, err
	}
	return d, b.switchInitrd(ctx, dir, d.initrd)
})

// onDisk is a machine that runs from a disk of its own.
func (b *bench) onDisk(t *testing.T, flags, workload string) vm.Config {
	t.Helper()
	d, err := getDisk()
	if err != nil {
		t.Fatal(err)
	}
	c := b.config(flags, workload)
	c.Initrd, c.Disk = d.initrd, filepath.Join(t.TempDir(), "disk.ext4")
	must(t, "cp", "--sparse=always", d.disk, c.Disk)
	return c
}

// wantClean holds an ext4 image against FAULTS.md's rule for a clean one: e2fsck -n
// alone passes a dirty one.
func wantClean(t *testing.T, image string) {
	t.Helper()
	if h := must(t, "dumpe2fs", "-h", image); strings.Contains(h, "needs_recovery") {
		t.Errorf("%s needs recovery", image)
	} else if !strings.Contains(h, "Filesystem state:         clean") {
		t.Errorf("%s is not clean:\n%s", image, h)
	}
	must(t, "e2fsck", "-fn", image)
}

// TestVMDiskEnds ends machines that run from a disk and write to it, in each way
// (FAULTS.md 1.28; 2: a process in D state, busy, stacked, loop mounts, processes
// forking during KILL).
func TestVMDiskEnds(t *testing.T) {
	for _, c := range []struct {
		name, workload string
		machine        string
		logs           []string // in this order
		how            *regexp.Regexp
		inner          bool // the disk on the disk was mounted
	}{
		{name: "hf-poweroff with mounts on mounts", workload: "stack poweroff", how: isOff, inner: true, logs: []string{
			`mounted=/srv/bind err=<nil>`, `mounted=/srv/bind err=<nil>`, `mounted=/srv/merged err=<nil>`, `mounted=/srv/inner err=<nil>`}},
		{name: "hf-reboot with a process in state D", workload: "writes,hung reboot", how: isRestart, logs: []string{
			`processes are left that can't be killed`, `still in use mounted=/srv/hung`, `restart after`}},
		{name: "Ctrl-Alt-Del", workload: "writes wait", machine: "q35", how: isRestart, logs: []string{`why=SIGINT`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := getBench(t, vm.HostArch())
			if c.machine != "" {
				b = getBench(t, "amd64")
			}
			m := b.onDisk(t, "-d --on-exit=stay", "/usr/bin/guestcheck "+c.workload)
			if c.machine != "" {
				m.Machine, m.Arch.BlockDevice = c.machine, "virtio-blk-pci"
				m.Monitor = filepath.Join(t.TempDir(), "monitor")
			}
			g := b.boot(t, m, bootTime)
			g.expect(isReady)
			g.checks()
			if c.machine != "" {
				g.pressCtrlAltDel(m.Monitor)
			}
			g.ends(c.how)
			rest, console := g.Console.All(), strings.ReplaceAll(g.Console.All(), "still in use mounted=/srv/hung", "")
			for _, want := range c.logs {
				_, after, ok := strings.Cut(rest, want)
				if !ok {
					t.Errorf("no %q on the console, or not in order", want)
				}
				rest = after
			}
			for _, bad := range []string{"still in use", "a loop device stays", "swap stays in use", "hangs and is cut short"} {
				if strings.Contains(console, bad) {
					t.Errorf("the console says %q", bad)
				}
			}
			wantClean(t, m.Disk)
			if c.inner {
				inner := filepath.Join(t.TempDir(), "inner.ext4")
				must(t, "debugfs", "-R", "dump /srv/inner.img "+inner, m.Disk)
				wantClean(t, inner)
				if list := must(t, "debugfs", "-R", "ls /upper/load", inner); strings.Contains(list, "not found") {
					t.Errorf("nothing was written to it: %s", list)
				}
			}
		})
	}
}

// TestVMReadOnlyRoot runs from a disk that can't be written to, and then without
// cgroup v2 (FAULTS.md 2: read-only root).
func TestVMReadOnlyRoot(t *testing.T) {
	t.Parallel()
	b := getBench(t, vm.HostArch())
	c := b.onDisk(t, "--on-exit=stay", "/usr/bin/guestcheck readonly poweroff")
	c.Append = "DISK=ro " + c.Append
	g := b.boot(t, c, bootTime)
	g.expect(isReady)
	g.checks()
	g.ends(isOff)
	wantClean(t, c.Disk)
}
