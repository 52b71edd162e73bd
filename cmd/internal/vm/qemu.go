package vm

import (
	"cmp"
	"context"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// A Config says what machine QEMU is to be.
type Config struct {
	Arch    Arch
	KVM     bool // use the host's KVM; false is emulation in software
	Kernel  string
	Initrd  string
	Disk    string // a raw image; "" for none
	Memory  int    // MiB
	Append  string // kernel parameters beside the console and what Arch needs
	CID     uint32 // the guest's context ID on the host's vhost-vsock; 0 for none
	Machine string // another machine type than the lean one
	CPU     string // another processor than the one that suits the accelerator
	CPUs    int    // 0 is one
	BIOS    string // another firmware than the machine type's own
	Monitor string // a unix socket for QEMU's monitor; "" for none
	Serial  string // where QEMU puts the serial port; "" for the Machine's Console
	// Args are more of QEMU's arguments: devices that only one test has.
	Args []string
	// Interactive puts the console on this program's own terminal, keys and
	// all; Ctrl-A X ends the machine.
	Interactive bool
}

// Argv returns the command that starts the machine.
func (c Config) Argv() []string {
	argv := []string{
		c.Arch.QEMU, "-M", cmp.Or(c.Machine, c.Arch.Machine), "-m", strconv.Itoa(c.Memory),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
	}
	accel, cpu := "tcg", c.Arch.CPU
	if c.KVM {
		accel, cpu = "kvm", "host"
	}
	argv = append(argv, "-accel", accel, "-cpu", cmp.Or(c.CPU, cpu))
	if c.CPUs > 0 {
		argv = append(argv, "-smp", strconv.Itoa(c.CPUs))
	}
	if c.BIOS != "" {
		argv = append(argv, "-bios", c.BIOS)
	}
	if c.Interactive {
		argv = append(argv, "-chardev", "stdio,id=console,mux=on,signal=off",
			"-serial", "chardev:console", "-mon", "chardev=console")
	} else {
		argv = append(argv, "-serial", cmp.Or(c.Serial, "stdio"))
	}
	argv = append(argv, "-kernel", c.Kernel, "-append", c.KernelParameters())
	if c.Initrd != "" {
		argv = append(argv, "-initrd", c.Initrd)
	}
	if c.Disk != "" {
		argv = append(argv, "-drive", "if=none,id=disk,format=raw,file="+c.Disk,
			"-device", c.Arch.BlockDevice+",drive=disk")
	}
	if c.CID != 0 {
		argv = append(argv, "-device", c.Arch.VsockDevice+",guest-cid="+strconv.FormatUint(uint64(c.CID), 10))
	}
	if c.Monitor != "" {
		argv = append(argv, "-monitor", "unix:"+c.Monitor+",server=on,wait=off")
	}
	return append(argv, c.Args...)
}

// KernelParameters returns the kernel's whole command line. The caller's words
// come last: they may hold a `--`, which ends the kernel's own.
func (c Config) KernelParameters() string {
	words := []string{"console=" + c.Arch.Console, c.Arch.Append}
	if c.Arch.Name == "amd64" && !c.KVM {
		words = append(words, tscParameter())
	}
	return strings.TrimSpace(strings.Join(append(words, c.Append), " "))
}

// booted is what a kernel without a root filesystem prints, quiet or not, when it
// has come all the way to looking for one.
var booted = regexp.MustCompile(`Kernel panic - not syncing: (VFS|No working init)`)

// kvmTime is what a kernel gets to prove that KVM runs it: it needs less than a
// second where KVM works.
const kvmTime = 8 * time.Second

// KVMWorks tries whether KVM on this machine runs this very kernel. That
// /dev/kvm exists proves nothing: it may be there and refuse the host's own
// processor model, or hang.
func KVMWorks(ctx context.Context, arch Arch, kernel string) bool {
	if arch.Name != HostArch() {
		return false
	}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	f.Close()
	ctx, cancel := context.WithTimeout(ctx, kvmTime)
	defer cancel()
	// quiet: where KVM itself is emulated, each character of the console is slow.
	c := Config{Arch: arch, KVM: true, Kernel: kernel, Memory: 256, Append: "quiet"}
	m, err := Start(ctx, c.Argv(), nil, NewConsole())
	if err != nil {
		return false
	}
	_, err = m.Console.Expect(ctx, booted)
	cancel()
	<-m.Done()
	return err == nil
}
