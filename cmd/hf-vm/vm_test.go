//go:build linux

package main

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/init/cmd/internal/vm"
)

// bootTime is what a machine with a short workload may take, emulated and many at
// once on a busy machine; it takes three seconds where nothing else runs.
const bootTime = 4 * time.Minute

// TestVM boots each architecture once and makes all checks in that machine; those
// that take long and don't differ, in one.
func TestVM(t *testing.T) {
	for _, c := range []struct{ arch, checks string }{
		{"amd64", "boot,vsock,logs,stats,strangers,commands,families,orphans,clock,init"},
		{"arm64", "boot,vsock,logs,stats,admission,families,init"},
	} {
		t.Run(c.arch, func(t *testing.T) {
			t.Parallel()
			b := getBench(t, c.arch)
			g := b.boot(t, b.config("--on-exit=stay", "/usr/bin/guestcheck "+c.checks+" poweroff"), 6*time.Minute)
			t.Log(strings.TrimSpace(g.expect(isReady)))
			g.checks()
			g.ends(isOff)
		})
	}
}

// TestVMEnds has machines end in every way there is, and holds them to it: the
// kernel says which call ended it.
func TestVMEnds(t *testing.T) {
	for _, c := range []struct {
		name, arch      string
		flags, workload string
		logs            string // what init must say
		how             *regexp.Regexp
	}{
		{name: "hf-reboot", arch: "amd64", flags: "--on-exit=stay", workload: "/usr/bin/guestcheck none reboot", how: isRestart},
		{name: "hf-reboot", arch: "arm64", flags: "--on-exit=stay", workload: "/usr/bin/guestcheck none reboot", how: isRestart},
		{name: "SIGTERM", arch: "amd64", flags: "--on-exit=stay", workload: "/usr/bin/guestcheck none term", how: isOff},
		{name: "the workload ends", arch: "amd64", workload: "/usr/bin/guestcheck none exit 7", logs: `\b7\b`, how: isOff},
		{name: "and init restarts", arch: "amd64", flags: "--on-exit=reboot", workload: "/usr/bin/guestcheck none exit 0", how: isRestart},
		{name: "its arguments are kept", arch: "amd64", workload: `guestcheck say "two words" -- more`, logs: `two words`, how: isOff},
	} {
		t.Run(c.name+"/"+c.arch, func(t *testing.T) {
			t.Parallel()
			b := getBench(t, c.arch)
			g := b.boot(t, b.config(c.flags, c.workload), bootTime)
			g.expect(isReady)
			g.ends(c.how)
			// Only what came after the kernel's own echo of its command line.
			_, after, _ := strings.Cut(g.Console.All(), "ready in")
			if c.logs != "" && !regexp.MustCompile(c.logs).MatchString(after) {
				t.Errorf("nothing like %q on the console", c.logs)
			}
		})
	}
}

// TestVMStays has a workload end and init stay, still serving.
func TestVMStays(t *testing.T) {
	t.Parallel()
	b := getBench(t, vm.HostArch())
	g := b.boot(t, b.config("--on-exit=stay", "/usr/bin/guestcheck none exit 5"), bootTime)
	g.expect(regexp.MustCompile(`^@check@ end`))
	select {
	case <-g.Done():
		t.Error("the machine ended with its workload")
	case <-time.After(3 * time.Second):
	}
}

// TestVMCtrlAltDel presses the keys on a machine that has a keyboard: it must
// shut down in order, as Firecracker's SendCtrlAltDel asks it to.
func TestVMCtrlAltDel(t *testing.T) {
	t.Parallel()
	b := getBench(t, "amd64")
	c := b.config("--on-exit=stay", "/usr/bin/guestcheck none wait")
	c.Machine = "q35"
	c.Monitor = filepath.Join(t.TempDir(), "monitor")
	g := b.boot(t, c, bootTime)
	g.expect(isReady)
	g.expect(regexp.MustCompile(`^@check@ waiting`))
	g.pressCtrlAltDel(c.Monitor)
	g.ends(isRestart)
}

// TestVMDisk runs from an ext4 disk with less memory than what it moves, and
// powers off while the disk is written to.
func TestVMDisk(t *testing.T) {
	t.Parallel()
	b := getBench(t, vm.HostArch())
	dir := t.TempDir()
	c := b.config("-d --on-exit=stay", "/usr/bin/guestcheck stats,disk term")
	// What goes wrong here is told at these levels: allocations that fail, replies
	// that are cut.
	c.Append = strings.Replace(c.Append, "quiet", "loglevel=5", 1)
	c.Memory = 96
	c.Disk = filepath.Join(dir, "disk.ext4")
	if err := b.rootfs(t.Context(), "--modules", b.kernel.Modules, "--size", "512M", "ext4", c.Disk); err != nil {
		t.Fatal(err)
	}
	c.Initrd = filepath.Join(dir, "switch.cpio.gz")
	if err := b.switchInitrd(t.Context(), dir, c.Initrd); err != nil {
		t.Fatal(err)
	}
	g := b.boot(t, c, 6*time.Minute)
	g.expect(isReady)
	g.checks()
	g.ends(isOff)
	wantClean(t, c.Disk)
}
