//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hyperfleet/init/cmd/internal/vm"
)

// Where the machine that is the host has what its guest boots.
const nestedDir = "/guest"

// nestedTime is what an emulated machine that emulates another may take.
const nestedTime = 15 * time.Minute

// nestedRows are those that it has time for.
const nestedRows = "^(ping|exec|file_.*(1 KiB|1 MiB))"

// nested measures vhost-vsock where this machine is no host: a machine within it is.
// To emulate a processor that virtualizes goes wrong now and then; that is said, and
// costs no more than these rows.
func (b *bench) nested(c vm.Config, kernel vm.Kernel, overlay string) error {
	ctx, cancel := context.WithTimeout(b.ctx, nestedTime)
	defer cancel()
	for to, from := range map[string]string{"kernel": c.Kernel, "initrd": c.Initrd} {
		if err := vm.CopyFile(from, filepath.Join(overlay, nestedDir, to)); err != nil {
			return err
		}
	}
	if err := vm.CopyQEMU(c.Arch, overlay); err != nil {
		return err
	}
	c.Initrd = filepath.Join(b.temp, "host.cpio")
	args := []string{"--init", b.init, "--arch", c.Arch.Name, "--overlay", overlay, "--compress", "none"}
	if kernel.Modules != "" {
		args = append(args, "--modules", kernel.Modules, "--modules-extra", "kvm-amd", "--modules-extra", "vhost_vsock")
	}
	if err := vm.Rootfs(ctx, b.root, append(args, "cpio", c.Initrd)...); err != nil {
		return err
	}
	p := plan{where: "host in software, vhost-vsock", agent: "vsock:3:52", remote: true, rows: nestedRows, short: b.short, scale: 100}
	argv := p.argv()
	argv[1] = "nested"
	c.Machine, c.CPU, c.CPUs, c.Memory = "q35", "max,+svm", 2, 2048
	c.Append = "quiet rdinit=/init -- --on-exit=poweroff -- " + strings.Join(argv, " ")
	m, err := vm.Start(ctx, c.Argv(), nil, vm.NewConsole())
	if err != nil {
		return err
	}
	defer func() { cancel(); <-m.Done() }()
	if err := b.collect(func() (string, error) { return m.Console.Next(ctx) }); err != nil {
		fmt.Fprintln(b.stderr, "hf-bench: the nested machine did not come to its end:", err)
	}
	return nil
}

// nestedHost is the workload of the machine that is the host.
func nestedHost(args []string, stdout, stderr io.Writer) int {
	fail := func(err error) int {
		fmt.Fprintf(stdout, "%serror %v\n", mark, err)
		return 1
	}
	if err := vm.BecomeHost(); err != nil {
		return fail(err)
	}
	arch, err := vm.FindArch("")
	if err != nil {
		return fail(err)
	}
	c := vm.Config{
		Arch: arch, KVM: true, Kernel: filepath.Join(nestedDir, "kernel"), Initrd: filepath.Join(nestedDir, "initrd"),
		// Where KVM itself is emulated each character of the console is slow.
		Memory: 512, Append: "quiet rdinit=/init -- --peers=host", CID: 3, BIOS: vm.HostFirmware,
	}
	ctx, cancel := context.WithCancel(context.Background())
	m, err := vm.Start(ctx, c.Argv(), nil, vm.NewConsole())
	if err != nil {
		cancel()
		return fail(err)
	}
	defer func() { cancel(); <-m.Done() }()
	return inside(args, stdout, stderr)
}

// wantsNested tells whether the nested machine is asked for.
func wantsNested(arch vm.Arch) bool { return os.Getenv("HF_NESTED") != "" && arch.Name == "amd64" }
