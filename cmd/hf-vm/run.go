package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"time"

	"github.com/hyperfleet/init/cmd/internal/vm"
)

// What each part may take. Software emulation takes seconds where KVM takes
// milliseconds; a machine that takes longer than this is stuck.
const (
	firecrackerTime = 15 * time.Second // before QEMU is tried instead
	readyTime       = 90 * time.Second
	stepTime        = 30 * time.Second
	powerOffTime    = 30 * time.Second
)

var (
	ready      = regexp.MustCompile(`ready in [0-9.]+ ?ms`)
	poweredOff = regexp.MustCompile(`reboot: (Power down|Restarting system)`)
)

// A parts is what a machine is started from.
type parts struct {
	arch          vm.Arch
	kernel        vm.Kernel
	initrd        string
	client        []string // the command line of hf-vsock-client on this host
	dir           string   // for this run's own files
	build, root   string
	cid           uint32 // of the guest on the host's vhost-vsock; 0 if there is none
	kvm, firecrkr bool
}

// runVM is `hf-vm run`.
func runVM(ctx context.Context, o *options) error {
	p, err := o.prepare(ctx)
	if err != nil {
		return err
	}
	defer os.RemoveAll(p.dir)
	if o.shell {
		return o.runShell(ctx, p)
	}
	return o.demo(ctx, p)
}

// prepare makes what the machine takes, installing what is missing.
func (o *options) prepare(ctx context.Context) (p *parts, err error) {
	p = new(parts)
	if p.arch, err = vm.FindArch(o.arch); err != nil {
		return nil, err
	}
	if o.initrd != "" && o.init != "" && o.build != "" {
		p.build = o.build // nothing is built: Go and the source tree are not needed
	} else if p.build, p.root, err = o.buildDir(); err != nil {
		return nil, err
	}
	if err := vm.Ensure(ctx, o.stderr, vm.RunNeeds(p.arch)); err != nil {
		return nil, err
	}
	if p.kernel, err = o.findKernel(ctx, p.build); err != nil {
		return nil, err
	}
	o.say("kernel    %s", p.kernel.Image)
	if err := os.MkdirAll(p.build, 0o755); err != nil {
		return nil, err
	}
	// Short and outside the tree: a Unix socket's path must fit into 108 bytes.
	if p.dir, err = os.MkdirTemp("", "hf-vm-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(p.dir)
		}
	}()
	if p.initrd = o.initrd; p.initrd == "" {
		if err := o.makeInitrd(ctx, p); err != nil {
			return nil, err
		}
	}
	p.kvm = o.accel == "kvm" || o.accel == "auto" && vm.KVMWorks(ctx, p.arch, p.kernel.Image)
	_, err = exec.LookPath("firecracker")
	p.firecrkr = err == nil && p.kvm
	if !p.firecrkr {
		p.cid = hostCID()
	}
	if p.cid != 0 || p.firecrkr {
		if err := o.findClient(ctx, p); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// findClient names the client on this host: the init's binary is one, if it is
// for this machine.
func (o *options) findClient(ctx context.Context, p *parts) error {
	binary := o.init
	if binary == "" || p.arch.Name != vm.HostArch() {
		binary = filepath.Join(p.build, "init-"+vm.HostArch())
		if err := vm.BuildInit(ctx, p.root, vm.HostArch(), binary, o.version); err != nil {
			return err
		}
	}
	binary, err := filepath.Abs(binary)
	p.client = []string{binary, "hf-vsock-client"}
	return err
}

// hostCID returns a context ID for the guest if this host has vhost-vsock. Two
// machines can't have the same.
func hostCID() uint32 {
	f, err := os.OpenFile("/dev/vhost-vsock", os.O_RDWR, 0)
	if err != nil {
		return 0
	}
	f.Close()
	return 1000 + uint32(os.Getpid())
}

// makeInitrd builds the root filesystem: the binary, a shell, the kernel's
// modules for vsock, and the script that calls the operations.
func (o *options) makeInitrd(ctx context.Context, p *parts) error {
	binary := o.init
	if binary == "" {
		binary = filepath.Join(p.build, "init-"+p.arch.Name)
		if err := vm.BuildInit(ctx, p.root, p.arch.Name, binary, o.version); err != nil {
			return err
		}
	}
	// hf-rootfs runs in the source tree.
	binary, err := filepath.Abs(binary)
	if err != nil {
		return err
	}
	overlay := filepath.Join(p.dir, "overlay")
	if err := writeScript(filepath.Join(overlay, demoScript)); err != nil {
		return err
	}
	p.initrd = filepath.Join(p.dir, "initramfs.cpio.gz")
	args := []string{"--init", binary, "--arch", p.arch.Name, "--userland", "--overlay", overlay}
	if p.kernel.Modules != "" {
		args = append(args, "--modules", p.kernel.Modules)
	}
	o.say("rootfs    the init, u-root's shell and commands, the kernel's vsock modules (the first time takes a minute)")
	return vm.Rootfs(ctx, p.root, append(args, "cpio", p.initrd)...)
}

// say prints one line about what goes on.
func (o *options) say(format string, args ...any) {
	fmt.Fprintf(o.stdout, format+"\n", args...)
}

// initArgs returns the kernel parameters that start init with flags and the
// workload; the kernel itself stops at a second `--`, and init reads on from
// /proc/cmdline.
func initArgs(flags, workload string) string {
	return "quiet rdinit=/init -- " + flags + " -- " + workload
}

// start starts the machine and names what runs it.
func (o *options) start(ctx context.Context, p *parts, append string, interactive bool) (*vm.Machine, error) {
	if p.firecrkr {
		return o.startFirecracker(ctx, p, append, interactive)
	}
	c := vm.Config{
		Arch: p.arch, KVM: p.kvm, Kernel: p.kernel.Image, Initrd: p.initrd,
		Memory: o.memory, Append: append, CID: p.cid, Interactive: interactive,
	}
	switch {
	case p.kvm:
		o.say("machine   QEMU with KVM")
	default:
		o.say("machine   QEMU in software, not with KVM, which is not there, does not run this kernel, or is not wanted: this takes seconds")
	}
	return o.launch(ctx, c.Argv(), interactive)
}

func (o *options) startFirecracker(ctx context.Context, p *parts, append string, interactive bool) (*vm.Machine, error) {
	kernel, err := vm.FirecrackerKernel(p.arch, p.kernel.Image, p.dir)
	if err != nil {
		return nil, err
	}
	f := vm.Firecracker{Kernel: kernel, Initrd: p.initrd, Memory: o.memory, Append: append, Dir: p.dir}
	argv, err := f.Argv()
	if err != nil {
		return nil, err
	}
	o.say("machine   Firecracker")
	return o.launch(ctx, argv, interactive)
}

func (o *options) launch(ctx context.Context, argv []string, interactive bool) (*vm.Machine, error) {
	o.say("          %s", vm.CommandLine(argv))
	console := vm.NewConsole()
	if interactive {
		return vm.StartOn(ctx, argv, o.stdin, o.stdout, o.stderr, console)
	}
	if o.verbose {
		console.Tee = o.stderr
	}
	return vm.Start(ctx, argv, nil, console)
}

// runShell gives the user's terminal to a shell on the machine's console.
func (o *options) runShell(ctx context.Context, p *parts) error {
	end := ", Ctrl-A X ends it at once"
	if p.firecrkr { // which reads nothing but the guest's input
		end = ""
	}
	o.say("shell     a root shell in the guest; exit powers it off%s", end)
	m, err := o.start(ctx, p, initArgs("--on-exit=poweroff", "/bin/sh"), true)
	if err != nil {
		return err
	}
	return m.Wait(ctx)
}
