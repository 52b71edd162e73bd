//go:build linux

package agent

import (
	"strings"
	"syscall"
	"testing"

	"github.com/hyperfleet/init/applets/internal/cgroup"
)

// TestShimKeepsSecrets: what a command has in its environment is not for other users,
// who may read the arguments of every process.
func TestShimKeepsSecrets(t *testing.T) {
	mask := uint32(0o77)
	p := &plan{path: "/bin/true", argv: []string{"true"}, env: []string{"TOKEN=secret"}, cwd: "/", umask: &mask}
	s, err := newShim(p, cgroup.Group{}, false, &syscall.ProcAttr{Sys: &syscall.SysProcAttr{}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.ours.Close()
	defer s.theirs.Close()
	if words := strings.Join(s.argv, " "); strings.Contains(words, "secret") {
		t.Error(words)
	}
}
