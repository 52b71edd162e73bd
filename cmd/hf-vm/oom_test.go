//go:build linux

package main

import (
	"testing"

	"github.com/hyperfleet/init/cmd/internal/vm"
)

// TestVMOutOfMemory drives a machine out of memory, and then out of processes: a
// command dies, never the agent, and never PID 1, which would end the machine. Then
// commands meet limits of their own.
// (FAULTS.md 2: out of memory, fork bomb under a pids limit)
func TestVMOutOfMemory(t *testing.T) {
	t.Parallel()
	b := getBench(t, vm.HostArch())
	c := b.config("--on-exit=stay", "/usr/bin/guestcheck oom,limits poweroff")
	// As many processes as the kernel allows by itself in 256 MiB take most of them:
	// with fewer it is their number that a fork bomb meets, and not the memory's end.
	c.Append = "sysctl.kernel.threads-max=800 " + c.Append
	g := b.boot(t, c, bootTime)
	g.expect(isReady)
	g.checks()
	g.ends(isOff)
}
