//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/init/cmd/internal/vm"
)

// nestedTime is what the checks of the host's path may take where a processor is
// emulated that emulates another; they take three minutes there where little else
// runs.
const nestedTime = 15 * time.Minute

// TestVMHost has a true host reach the agent: from CID 2, over the kernel's own
// vhost-vsock. Where this machine can't be one, a machine within it is, with our
// init as its PID 1 too.
// (FAULTS.md 1.24, 2: a reader that pauses 5 s before the tail, reset mid-request
// or mid-reply, client gone mid-exec; 3: Firecracker's vsock cases)
func TestVMHost(t *testing.T) {
	t.Parallel()
	b := getBench(t, vm.HostArch())
	cid := hostCID()
	nested := cid == 0 || !b.kvm
	rounds := soakRounds
	if nested && os.Getenv("HF_SOAK") == "" {
		rounds = 1
	}
	if !nested {
		b.hostChecks(t, cid, rounds)
		return
	}
	if b.arch.Name != "amd64" {
		t.Skip("this machine has no KVM, and only x86's is emulated")
	}
	// It takes minutes, and as long again each time the emulator falls over.
	if os.Getenv("HF_NESTED") == "" {
		t.Skip("a machine within an emulated one: make test-nested runs it (HF_NESTED=1)")
	}
	overlay := t.TempDir()
	if err := b.layGuest(filepath.Join(overlay, "guest")); err != nil {
		t.Fatal(err)
	}
	if err := vm.CopyQEMU(b.arch, overlay); err != nil {
		t.Fatal(err)
	}
	initrd := filepath.Join(t.TempDir(), "host.cpio")
	// To unpack it would take longer than to read it does.
	args := []string{"--overlay", overlay, "--modules", b.kernel.Modules, "--compress", "none"}
	if b.kernel.Modules != "" {
		args = append(args, "--modules-extra", "kvm-amd", "--modules-extra", "vhost_vsock")
	}
	if err := b.rootfs(t.Context(), append(args, "cpio", initrd)...); err != nil {
		t.Fatal(err)
	}
	// QEMU's emulation of a processor that virtualizes goes wrong now and then: of a
	// sudden one of the two kernels can't handle even a fault. That is no verdict, and
	// the next machine goes on where the last one was lost.
	for fell, held := 0, 0; rounds > 0; {
		part := min(rounds, nestedRounds)
		n, err := b.nestedChecks(t, initrd, part, held)
		if err == nil {
			rounds, fell, held = rounds-part, 0, 0
			continue
		}
		if n > 0 {
			fell, held = 0, held+n
		}
		if fell++; !errors.Is(err, errFellOver) || fell == 6 {
			t.Fatal(err)
		}
		t.Log(err)
	}
}

// setUp is how many of the checks make the machines.
const setUp = 2

// nestedChecks has a machine be the host and makes the checks but those that have been
// held. It returns how many more were, and errFellOver if a machine was lost.
func (b *bench) nestedChecks(t *testing.T, initrd string, rounds, held int) (int, error) {
	c := b.config("", fmt.Sprintf("/usr/bin/guestcheck host /guest 3 %d %d", rounds, held))
	c.Initrd, c.Machine, c.CPU, c.CPUs, c.Memory = initrd, "q35", "max,+svm", 2, 2048
	g := b.boot(t, c, nestedTime)
	defer g.stop()
	g.expect(isReady)
	n, err := g.checksUntil()
	n = max(n-setUp, 0)
	if err == nil {
		g.ends(isOff)
		return n, nil
	}
	// A kernel that ends its machine, or whose PID 1 has died, says so.
	if said := g.Console.All(); errors.Is(err, vm.ErrEnded) && !strings.Contains(said, "Kernel panic") && !strings.Contains(said, "reboot:") {
		err = fmt.Errorf("%w: %w", err, errFellOver)
	}
	return n, fmt.Errorf("%w\n%s", err, g.Console.Tail(12))
}

// How often 20 MiB are moved there and back: as often as Firecracker's own suite
// does, by so many to a machine that is emulated; in CI once there.
const soakRounds, nestedRounds = 50, 2

// hostChecks runs them on this machine.
func (b *bench) hostChecks(t *testing.T, cid uint32, rounds int) {
	dir := t.TempDir()
	if err := b.layGuest(dir); err != nil {
		t.Fatal(err)
	}
	argv := []string{filepath.Join(b.overlay, "usr/bin/guestcheck"), "host", dir, fmt.Sprint(cid), fmt.Sprint(rounds), "0"}
	g := launch(t, argv, nestedTime)
	g.checks()
	if err := g.Wait(g.limit); err != nil {
		t.Error(err)
	}
}

// layGuest puts what the guest is booted from into dir.
func (b *bench) layGuest(dir string) error {
	if err := vm.CopyFile(b.kernel.Image, filepath.Join(dir, "kernel")); err != nil {
		return err
	}
	return vm.CopyFile(b.initrd, filepath.Join(dir, "initrd"))
}
