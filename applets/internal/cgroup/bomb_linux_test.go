package cgroup

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// hopper is a process that is hard to hit: it goes on in a child, in a session
// of its own, and ends, without a pause. Its population stays as it is.
func hopper(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "hopper")
	if err := os.WriteFile(path, []byte("#!/bin/sh\nsetsid $0 &\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestKillForking: what forks without end, in the group and in groups inside it,
// is ended all the same; also what its own group keeps frozen, while others make
// and remove groups. (FAULTS.md 1.8)
func TestKillForking(t *testing.T) {
	for _, row := range []struct {
		name string
		kill func(Group) error
	}{{"cgroup.kill", Group.Kill}, {"before Linux 5.14", Group.killFrozen}} {
		t.Run(row.name, func(t *testing.T) {
			g := testGroup(t)
			var groups []Group
			for _, name := range []string{".", "a", "a/b", "frozen"} {
				c, err := g.Child(name)
				if err != nil {
					t.Fatal(err)
				}
				groups = append(groups, c)
			}
			// To look through them takes longer than a hopper lives: none is ever hit
			// that is not stopped before.
			for n := range 500 {
				if _, err := groups[2].Child(strconv.Itoa(n)); err != nil {
					t.Fatal(err)
				}
			}
			bomb := hopper(t)
			var all []chan error
			start := func(g Group, script string) {
				_, ended := startIn(t, g, script)
				all = append(all, ended)
			}
			for _, c := range groups {
				start(c, bomb+" & "+bomb+" & "+bomb+" & wait")
			}
			start(groups[1], "while :; do mkdir "+g.String()+"/a/c; rmdir "+g.String()+"/a/c; done")
			time.Sleep(100 * time.Millisecond)
			groups[3].freeze()
			if err := row.kill(g); err != nil {
				t.Error(err)
			}
			for _, ended := range all {
				<-ended
			}
			if !soon(func() bool { pids, err := g.Tree(); return err == nil && len(pids) == 0 }) {
				t.Error("processes are left")
			}
		})
	}
}

// TestMoveTo: what forks without end can be moved, and then lives on.
func TestMoveTo(t *testing.T) {
	g := testGroup(t)
	from, err := g.Child("from")
	if err != nil {
		t.Fatal(err)
	}
	inner, err := from.Child("inner")
	if err != nil {
		t.Fatal(err)
	}
	to, err := g.Child("to")
	if err != nil {
		t.Fatal(err)
	}
	bomb := hopper(t)
	_, ended := startIn(t, inner, bomb+" & "+bomb+" & "+bomb+" & wait")
	<-ended
	if !soon(func() bool { from.MoveTo(to, true); return from.Remove() == nil }) {
		pids, err := from.Tree()
		t.Errorf("%v are left: %v", pids, err)
	}
	one := func() int {
		pids, _ := to.Procs()
		for _, pid := range pids {
			return pid
		}
		return 0
	}
	first := one()
	if first == 0 || !soon(func() bool { pid := one(); return pid != 0 && pid != first }) {
		t.Error("they do not run where they were moved to")
	}
}

func TestCanStartIn(t *testing.T) {
	testGroup(t)
	if !CanStartIn() {
		t.Error("where the other tests start processes in groups")
	}
}

// TestEnable: a controller that the kernel does not have is passed over.
func TestEnable(t *testing.T) {
	g := testGroup(t)
	if err := g.Enable("nosuch", "memory"); err != nil {
		t.Error(err)
	}
	if err := (Group{filepath.Join(t.TempDir(), "nosuch")}).Enable("memory"); err == nil {
		t.Error("a group that is not there")
	}
}
