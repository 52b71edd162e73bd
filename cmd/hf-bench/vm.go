//go:build linux

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/hyperfleet/init/cmd/internal/vm"
)

// machineTime is what the rows of a virtual machine may take, emulated and on a
// busy machine.
const machineTime = 10 * time.Minute

// inMachine has the workload of a virtual machine measure, over vsock's loopback in
// it. Where it is emulated, the ratios are those of the emulator's world: what
// is a system call more weighs more.
func (b *bench) inMachine() error {
	if b.rows != "" && !b.wantsInMachine() {
		return nil
	}
	ctx, cancel := context.WithTimeout(b.ctx, machineTime)
	defer cancel()
	arch, err := vm.FindArch(runtime.GOARCH)
	if err != nil {
		return err
	}
	kernel, err := vm.FetchKernel(ctx, b.stderr, arch.Name, filepath.Join(b.root, "build", "kernel", arch.Name))
	if err != nil {
		return err
	}
	overlay := filepath.Join(b.temp, "overlay")
	for to, from := range map[string]string{guestSelf: b.guestSelf, guestFloor: b.floor, guestBusybox: b.busybox} {
		if err := vm.CopyFile(from, overlay+to); err != nil {
			return err
		}
	}
	initrd := filepath.Join(b.temp, "initramfs.cpio.gz")
	args := []string{"--init", b.init, "--arch", arch.Name, "--overlay", overlay}
	if kernel.Modules != "" {
		args = append(args, "--modules", kernel.Modules)
	}
	if err := vm.Rootfs(ctx, b.root, append(args, "cpio", initrd)...); err != nil {
		return err
	}
	where, scale := "VM with KVM, vsock loopback", 1
	kvm := vm.KVMWorks(ctx, arch, kernel.Image)
	if !kvm {
		where, scale = "VM in software, vsock loopback", 10
	}
	c := vm.Config{Arch: arch, KVM: kvm, Kernel: kernel.Image, Initrd: initrd, Memory: 1536}
	p := plan{where: where, agent: "vsock:1:52", rows: b.rows, short: b.short, scale: scale}
	c.Append = "quiet rdinit=/init -- --peers=any --on-exit=poweroff -- " + strings.Join(p.argv(), " ")
	m, err := vm.Start(ctx, c.Argv(), nil, vm.NewConsole())
	if err != nil {
		return err
	}
	err = b.collect(func() (string, error) { return m.Console.Next(ctx) })
	cancel()
	<-m.Done()
	if err != nil {
		return err
	}
	if host, err := os.OpenFile("/dev/vhost-vsock", os.O_RDWR, 0); err == nil && kvm {
		host.Close()
		return b.asHost(c)
	}
	if wantsNested(arch) {
		return b.nested(c, kernel, overlay)
	}
	return nil
}

// asHost boots the machine once more and measures from here, as every host does: over
// the kernel's vhost-vsock.
func (b *bench) asHost(c vm.Config) error {
	ctx, cancel := context.WithTimeout(b.ctx, machineTime)
	defer cancel()
	c.CID, c.Append = 1000+uint32(os.Getpid()), "quiet rdinit=/init -- --peers=host"
	m, err := vm.Start(ctx, c.Argv(), nil, vm.NewConsole())
	if err != nil {
		return err
	}
	defer func() { cancel(); <-m.Done() }()
	p := plan{where: "VM with KVM, vhost-vsock", agent: fmt.Sprintf("vsock:%d:52", c.CID), remote: true, rows: b.rows, short: b.short, scale: 1}
	return b.fromHere(p)
}

// fromHere measures a guest from this process.
func (b *bench) fromHere(p plan) error {
	out, console := io.Pipe()
	defer out.Close()
	go func() {
		defer console.Close()
		inside(p.argv()[2:], console, b.stderr)
	}()
	lines := bufio.NewReader(out)
	return b.collect(func() (string, error) { return lines.ReadString('\n') })
}

// wantsInMachine tells whether a row that is asked for can be one of the machine's.
func (b *bench) wantsInMachine() bool {
	for _, group := range []string{"ping", "exec", "file", "commands"} {
		if strings.Contains(b.rows, group) {
			return true
		}
	}
	return false
}

// kernelRelease is this machine's.
func kernelRelease() string {
	b, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return strings.TrimSpace(string(b))
}
