package vm

import (
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
)

// An Arch is what differs between the architectures a machine is started for.
type Arch struct {
	Name    string // as Go and Debian call it
	QEMU    string // the emulator's program
	Package string // the Debian package that holds it
	Machine string // -M of the lean machine type
	CPU     string // -cpu when emulated
	Console string // the guest's serial console
	// Append is what the kernel needs on its command line whoever starts it:
	// panic=-1 restarts at once, which ends QEMU under -no-reboot, and
	// reboot=t is the restart that microvm understands.
	Append string
	// VsockDevice is the name of QEMU's host-backed vsock device.
	VsockDevice string
	// BlockDevice is the name of QEMU's disk on this machine type.
	BlockDevice string
}

func arches() []Arch {
	return []Arch{
		{
			Name: "amd64", QEMU: "qemu-system-x86_64", Package: "qemu-system-x86",
			// ACPI stays on: without it a distribution's kernel finds no
			// virtio-mmio device and cannot power off.
			Machine: "microvm,rtc=on,isa-serial=on", CPU: "max",
			Console: "ttyS0", Append: "reboot=t panic=-1",
			VsockDevice: "vhost-vsock-device", BlockDevice: "virtio-blk-device",
		},
		{
			Name: "arm64", QEMU: "qemu-system-aarch64", Package: "qemu-system-arm",
			Machine: "virt", CPU: "cortex-a57", // max spends its time emulating pointer authentication
			Console: "ttyAMA0", Append: "panic=-1",
			VsockDevice: "vhost-vsock-device", BlockDevice: "virtio-blk-device",
		},
	}
}

// HostArch is the architecture of this machine.
func HostArch() string { return runtime.GOARCH }

// FindArch returns the architecture of that name; "" is this machine's.
func FindArch(name string) (Arch, error) {
	if name == "" {
		name = HostArch()
	}
	var names []string
	for _, a := range arches() {
		if a.Name == name {
			return a, nil
		}
		names = append(names, a.Name)
	}
	return Arch{}, fmt.Errorf("no architecture %q: there are %s", name, strings.Join(names, ", "))
}

// tscParameter tells an emulated x86 kernel the frequency of its time-stamp
// counter, and to trust it. Left to measure it against the timer chip, the kernel
// fails now and then (7 boots of 8 on a machine whose cores were busy) and hangs
// there without a word; left to watch it, it gives it up where the emulator is
// held up, for a clock that counts in steps of 4 ms. QEMU hands the host's own
// counter through.
func tscParameter() string {
	return "tsc=reliable tsc_early_khz=" + strconv.Itoa(hostKHz())
}

func hostKHz() int {
	if b, err := os.ReadFile("/sys/devices/system/cpu/cpu0/tsc_freq_khz"); err == nil {
		if n, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && n > 0 {
			return n
		}
	}
	b, _ := os.ReadFile("/proc/cpuinfo")
	return cpuinfoKHz(string(b))
}

// The frequency in a model's name is the counter's; that of the "cpu MHz" line
// may be what the core runs at this moment, but in most virtual machines it is
// the only one there.
var (
	modelGHz = regexp.MustCompile(`(?m)^model name\s*:.*@ ([0-9.]+)GHz`)
	cpuMHz   = regexp.MustCompile(`(?m)^cpu MHz\s*:\s*([0-9.]+)`)
)

func cpuinfoKHz(cpuinfo string) int {
	for _, c := range []struct {
		re  *regexp.Regexp
		khz float64
	}{{modelGHz, 1e6}, {cpuMHz, 1e3}} {
		if m := c.re.FindStringSubmatch(cpuinfo); m != nil {
			if f, err := strconv.ParseFloat(m[1], 64); err == nil && f > 0 {
				return int(f * c.khz)
			}
		}
	}
	return 1_000_000 // QEMU counts nanoseconds where the host has no such counter
}
