package cgroup

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// testGroup makes a group that is gone after the test.
func testGroup(t *testing.T) Group {
	t.Helper()
	root, err := Root()
	if err != nil || os.Getuid() != 0 {
		t.Skip("needs cgroup v2 and root: ", err)
	}
	g, err := root.Child(fmt.Sprintf("hf-test-cgroup-%d", os.Getpid()))
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		if err := g.Kill(); err != nil {
			t.Error(err)
		}
		if !soon(func() bool { return g.Remove() == nil }) {
			t.Errorf("%s can't be removed", g)
		}
	})
	return g
}

func soon(f func() bool) bool {
	for range 6000 {
		if f() {
			return true
		}
		time.Sleep(5 * time.Millisecond)
	}
	return false
}

// startIn starts a script in a group, and collects it.
func startIn(t *testing.T, g Group, script string) (pid int, ended chan error) {
	t.Helper()
	d, err := g.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(d)
	c := exec.Command("sh", "-c", script)
	c.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: d, Setsid: true}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended = make(chan error, 1)
	go func() { ended <- c.Wait() }()
	return c.Process.Pid, ended
}

func TestKill(t *testing.T) {
	for _, row := range []struct {
		name string
		kill func(Group) error
	}{{"cgroup.kill", Group.Kill}, {"before Linux 5.14", Group.killFrozen}} {
		t.Run(row.name, func(t *testing.T) {
			g := testGroup(t)
			inner, err := g.Child("inner")
			if err != nil {
				t.Fatal(err)
			}
			const family = `trap '' TERM; setsid sleep 300 & sleep 300 & sh -c 'kill -STOP $$' & while :; do sh -c : ; done`
			_, ended := startIn(t, g, family)
			_, endedInner := startIn(t, inner, family)
			if !soon(func() bool { pids, err := g.Tree(); return err == nil && len(pids) >= 8 }) {
				t.Error("the processes do not start")
			}
			if err := row.kill(g); err != nil {
				t.Error(err)
			}
			<-ended
			<-endedInner
			if !soon(func() bool { pids, err := g.Tree(); return err == nil && len(pids) == 0 }) {
				t.Error("processes are left")
			}
			if err := row.kill(g); err != nil {
				t.Errorf("an empty group: %v", err)
			}
		})
	}
	if err := (Group{filepath.Join(t.TempDir(), "nosuch")}).Kill(); err == nil {
		t.Error("a group that is not there was killed")
	}
}

func TestRemove(t *testing.T) {
	g := testGroup(t)
	c, err := g.Child("c")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"a", "a/b", "a/b/c", "d"} {
		if _, err := c.Child(path); err != nil {
			t.Fatal(err)
		}
	}
	if again, err := g.Child("c"); err != nil || again != c || again.Parent() != g {
		t.Errorf("%v %v", again, err)
	}
	pid, ended := startIn(t, Group{c.dir + "/a/b"}, "exec sleep 300")
	if err := c.Remove(); !errors.Is(err, unix.EBUSY) {
		t.Errorf("a group with a process: %v", err)
	}
	other, err := g.Child("other")
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Add(pid); err != nil {
		t.Error(err)
	}
	if pids, err := other.Procs(); err != nil || len(pids) != 1 || pids[0] != pid {
		t.Errorf("%v %v", pids, err)
	}
	if err := c.Remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(c.String()); err == nil {
		t.Error("is still there")
	}
	if err := other.Kill(); err != nil {
		t.Error(err)
	}
	<-ended
}

func TestOwn(t *testing.T) {
	g := testGroup(t)
	own, err := Own()
	if err != nil || !own.Valid() || own.IsAgent() {
		t.Errorf("%v %v", own, err)
	}
	pids, err := own.Procs()
	found := false
	for _, pid := range pids {
		found = found || pid == os.Getpid()
	}
	if err != nil || !found {
		t.Errorf("%s is not this process's group: %v", own, err)
	}
	if !(Group{"/x/" + Tree + "/" + Agent}).IsAgent() || (Group{"/x/" + Agent}).IsAgent() || (Group{}).Valid() || !g.Valid() {
		t.Error("IsAgent or Valid")
	}
}
