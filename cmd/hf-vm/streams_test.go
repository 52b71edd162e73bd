//go:build linux

package main

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/init/cmd/internal/vm"
)

// TestVMStreams makes the checks of all that is streamed in one machine of each
// architecture, over AF_VSOCK.
func TestVMStreams(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		t.Run(arch, func(t *testing.T) {
			t.Parallel()
			b := getBench(t, arch)
			g := b.boot(t, b.config("--on-exit=stay", "/usr/bin/guestcheck streams,terminals,sessions,files,trees poweroff"), 6*time.Minute)
			g.expect(isReady)
			g.checks()
			g.ends(isOff)
		})
	}
}

// openStream is what the guest says of a stream that the shutdown ended.
var openStream = regexp.MustCompile(`(?m)^@open@ ([a-z_ ]+): (.*?)\r?$`)

// TestVMEndsWithStreams shuts down while a stream of each kind is open: each client
// is told of an end, and none of them holds up the machine. Commands that do not heed
// TERM do, for as long as any process may (FAULTS.md 2: a shutdown with open streams).
func TestVMEndsWithStreams(t *testing.T) {
	t.Run("each ends", func(t *testing.T) {
		t.Parallel()
		// Two seconds are what PID 1 leaves them, which a machine in software may need
		// for something else: a fault is there each time.
		wrong := endsWithStreams(t)
		for tries := 1; len(wrong) > 0 && tries < 3; tries++ {
			t.Logf("tried again: %q", wrong)
			wrong = endsWithStreams(t)
		}
		for _, w := range wrong {
			t.Error(w)
		}
	})
	t.Run("commands are killed", func(t *testing.T) {
		t.Parallel()
		b := getBench(t, vm.HostArch())
		g := b.boot(t, b.config("--on-exit=stay", "/usr/bin/guestcheck stubborn poweroff"), bootTime)
		g.expect(isReady)
		g.checks()
		g.ends(isOff)
		if !strings.Contains(g.Console.All(), hadToKill) {
			t.Error("nothing had to be killed: this tests nothing")
		}
	})
}

// hadToKill is what PID 1 says when some process did not end in its time.
const hadToKill = "killing what did not end in time"

// endsWithStreams returns what is wrong with the ends of one machine's streams.
func endsWithStreams(t *testing.T) (wrong []string) {
	b := getBench(t, vm.HostArch())
	g := b.boot(t, b.config("--on-exit=stay", "/usr/bin/guestcheck open poweroff"), bootTime)
	g.expect(isReady)
	g.checks()
	g.ends(isOff)
	told := map[string]string{}
	for _, m := range openStream.FindAllStringSubmatch(g.Console.All(), -1) {
		told[m[1]] = m[2]
	}
	for what, want := range map[string]string{
		"exec": "signal 15", "exec with a terminal": "signal 15", "session_attach": "signal 15",
		"forward": "shutting down", "listen": "shutting down", "file_watch": "shutting down", "logs": "shutting down", "stats": "shutting down",
	} {
		if !strings.Contains(told[what], want) {
			wrong = append(wrong, fmt.Sprintf("%s ended with %q, want %q", what, told[what], want))
		}
	}
	if strings.Contains(g.Console.All(), hadToKill) {
		wrong = append(wrong, "something had to be killed")
	}
	return wrong
}
