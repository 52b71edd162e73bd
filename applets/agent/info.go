//go:build linux

package agent

import (
	"encoding/json"
	"maps"
	"os"
	"slices"

	"github.com/hyperfleet/init/applets/internal/handoff"
	"github.com/hyperfleet/init/applets/internal/version"
	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// info tells what the client is talking to.
func (a *Agent) info(r *request) error {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return err
	}
	var up unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &up)
	return replying(wire.WriteData(r.conn, wire.Info{
		Version:    version.String(),
		Protocol:   wire.Version,
		Operations: slices.Sorted(maps.Keys(a.ops)),
		Kernel:     unix.ByteSliceToString(uts.Release[:]),
		Arch:       unix.ByteSliceToString(uts.Machine[:]),
		Hostname:   unix.ByteSliceToString(uts.Nodename[:]),
		PID:        os.Getpid(),
		UptimeMS:   up.Nano() / 1e6,
		KillScope:  a.commands.killScope(),
		Boot:       boot(),
	}))
}

// boot reads what PID 1 left about the boot; nil where PID 1 is another program.
func boot() *wire.Boot {
	b, err := os.ReadFile(handoff.BootFile)
	if err != nil {
		return nil
	}
	var boot wire.Boot
	if json.Unmarshal(b, &boot) != nil {
		return nil
	}
	return &boot
}
