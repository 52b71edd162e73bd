// Package machine ends the machine: it knows which call makes it stop.
package machine

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// An Action is what becomes of the machine after a shutdown.
type Action int

// The actions.
const (
	PowerOff Action = iota
	Restart
)

func (a Action) String() string {
	if a == Restart {
		return "restart"
	}
	return "power off"
}

// A Method says how PowerOff is asked for.
type Method string

// The methods. Auto asks for a power-off where the machine has one, and for a
// restart where it has not.
const (
	Auto        Method = "auto"
	ByPowerOff  Method = "poweroff"
	ByRestart   Method = "restart"
	acpiTables         = "/sys/firmware/acpi/tables"
	firecracker        = "FIRECKVM" // its hypervisor vendor identity in the FADT
)

// ParseMethod reads a Method.
func ParseMethod(s string) (Method, error) {
	switch m := Method(s); m {
	case Auto, ByPowerOff, ByRestart:
		return m, nil
	}
	return "", fmt.Errorf("%q: want auto, poweroff or restart", s)
}

// Command returns the argument of reboot(2) for an action.
func Command(a Action, m Method) int {
	if a == Restart || m == ByRestart || m == Auto && !canPowerOff(runtime.GOARCH, os.DirFS(acpiTables)) {
		return unix.LINUX_REBOOT_CMD_RESTART
	}
	return unix.LINUX_REBOOT_CMD_POWER_OFF
}

// End ends the machine at once: nothing is stopped, synced or unmounted. It
// returns only if the kernel refuses.
func End(a Action, m Method) error {
	return os.NewSyscallError("reboot", unix.Reboot(Command(a, m)))
}
