//go:build linux

package initd_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets"
	"github.com/hyperfleet/init/applets/initd"
	"golang.org/x/sys/unix"
)

// TestMain makes the test binary the programs under test too: the guests of these
// tests boot it. Started as anything but a test, it is the binary that cmd/hf is,
// the first stage that prepares a guest, or hfx, the tools that run in one.
func TestMain(m *testing.M) {
	switch name := filepath.Base(os.Args[0]); {
	case name == stage1Name:
		stage1(os.Args[1])
	case name == "hfx" && os.Getpid() != 1:
		os.Exit(tool(os.Args[1:]))
	case strings.HasSuffix(name, ".test"):
		os.Exit(runTests(m))
	}
	if filepath.Base(os.Args[0]) == "hf-agent" {
		endQuickly()
		badAgent()
	}
	if limits, err := os.ReadFile(limitsFile); err == nil && os.Getpid() == 1 {
		var sync, umount, all int
		if _, err := fmt.Sscan(string(limits), &sync, &umount, &all); err != nil {
			panic(err)
		}
		os.Exit(initd.RunWithin(os.Args, time.Duration(sync)*time.Millisecond, time.Duration(umount)*time.Millisecond, time.Duration(all)*time.Millisecond))
	}
	os.Exit(applets.Main())
}

// limitsFile holds the limits of a guest's shutdown, in milliseconds.
const limitsFile = "/etc/limits"

// endQuickly starts an agent again without the second that the race detector
// sleeps at the end of a process.
func endQuickly() {
	if raced && os.Getenv("GORACE") == "" {
		_ = unix.Exec("/init", os.Args, append(os.Environ(), "GORACE=atexit_sleep_ms=0"))
	}
}

// badAgentFile makes the agents of a guest misbehave as it says.
const badAgentFile = "/etc/bad-agent"

func badAgent() {
	if how, err := os.ReadFile(badAgentFile); err == nil {
		_ = os.WriteFile("/proc/self/comm", []byte("bad-agent"), 0)
		os.Exit(tool(strings.Fields(string(how))))
	}
}
