//go:build linux

package initd_test

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Without standard descriptors, and without a device to open instead, PID 1 comes
// up all the same: the Go runtime alone does not (FAULTS.md 2: "Console missing").
func TestNoDescriptorsNoDevices(t *testing.T) {
	for _, test := range []struct {
		name  string
		stage stage
		leads string // where fd 2 of PID 1 leads in the end
	}{
		{"an empty /dev", stage{}, "/dev/null"},
		{"a read-only root", stage{ReadOnly: true}, "/dev/null"},
		{"no /proc and a read-only root", stage{ReadOnly: true, Without: []string{"/proc"}}, ""},
		{"no /dev and a read-only root", stage{ReadOnly: true, Without: []string{"/dev"}}, "/"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := test.stage
			s.Binary, s.Tools = hf(t), executable(t)
			s.CloseFDs, s.EmptyDev = true, true
			s.Args = []string{"--power-off=poweroff"}
			g := start(t, s, nil)
			if err := g.Wait(soon(t)); err != nil {
				t.Fatalf("%v; process 1 has ended: %v", err, !g.isAlive())
			}
			if test.leads != "" {
				if to := strings.TrimSpace(g.run("hfx", "readlink", "/proc/1/fd/2")); to != test.leads {
					t.Errorf("fd 2 leads to %s, want %s", to, test.leads)
				}
			}
			g.run("hfx", "exit", "0")
			g.signal(1, unix.SIGTERM)
			g.wantEnd("power off")
		})
	}
}
