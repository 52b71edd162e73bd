//go:build linux

package initd_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestGroupsOfADeadAgent: what an agent's commands had is ended with it, whatever
// they were, and the next agent removes their groups. (FAULTS.md 2: the agent
// killed with KILL)
func TestGroupsOfADeadAgent(t *testing.T) {
	g := bootWith(t)
	groups := func() []string {
		dirs, _ := filepath.Glob(g.path("/sys/fs/cgroup/hyperfleet/commands/*/cgroup.procs"))
		return dirs
	}
	if _, err := os.Stat(g.path("/sys/fs/cgroup/hyperfleet/commands/cgroup.procs")); err != nil {
		t.Skip("needs cgroup v2: ", err)
	}
	g.launch("sleep", "on")
	g.launch("deaf")
	g.launch("stopped")
	if n := len(groups()); n != 3 {
		t.Errorf("%d groups for 3 commands", n)
	}
	g.signal(g.agent(), unix.SIGKILL)
	g.await("the agent is back")
	eventually(t, "the commands ended", func() bool {
		return len(g.find("hfx sleep on"))+len(g.find("hfx deaf"))+len(g.find("hfx stopped")) == 0
	})
	eventually(t, "their groups are removed", func() bool { return len(groups()) == 0 })
	g.run("hfx", "exit", "0")
}
