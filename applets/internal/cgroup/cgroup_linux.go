// Package cgroup makes the cgroups (v2) that commands run in, so that all a
// command started can be ended at once; see cgroups(7).
package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Mount is where PID 1 mounts the hierarchy.
const Mount = "/sys/fs/cgroup"

// The groups that PID 1 makes inside Tree; Commands, Limited and Left are also what an
// agent makes inside its own, under another PID 1.
const (
	Tree     = "hyperfleet"
	Agent    = "agent"    // the agent itself
	Commands = "commands" // what it runs, each in a group of its own
	Limited  = "limited"  // those of commands that have limits of their own
	Left     = "left"     // what commands that have ended left running
	Workload = "workload" // what PID 1 was given to run
)

// A Group is a cgroup by its directory. The zero Group is none at all.
type Group struct{ dir string }

// Own returns the group that this process is in.
func Own() (Group, error) {
	self, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return Group{}, err
	}
	mounted, err := mountPoint()
	if err != nil {
		return Group{}, err
	}
	for line := range strings.Lines(string(self)) {
		if path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			return Group{filepath.Join(mounted, path)}, nil
		}
	}
	return Group{}, errors.New("/proc/self/cgroup: no cgroup v2")
}

// mountPoint finds where cgroup v2 is mounted: not always Mount, where version 1
// is used beside it.
func mountPoint() (string, error) {
	var st unix.Statfs_t
	if unix.Statfs(Mount, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		return Mount, nil
	}
	if unix.Statfs(Mount+"/unified", &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		return Mount + "/unified", nil
	}
	return "", fmt.Errorf("%s: no cgroup v2 is mounted", Mount)
}

// Root returns the top group of the hierarchy that is mounted.
func Root() (Group, error) {
	dir, err := mountPoint()
	return Group{dir}, err
}

// Valid tells whether g is a group.
func (g Group) Valid() bool { return g.dir != "" }

// Exists tells whether g is a group, and still to be found where it was.
func (g Group) Exists() bool { return g.Valid() && unix.Access(g.dir, unix.W_OK) == nil }

// String returns the directory.
func (g Group) String() string { return g.dir }

// IsAgent tells whether g is the one that PID 1 made for the agent.
func (g Group) IsAgent() bool {
	return filepath.Base(g.dir) == Agent && filepath.Base(filepath.Dir(g.dir)) == Tree
}

// Parent returns the group that g is in.
func (g Group) Parent() Group { return Group{filepath.Dir(g.dir)} }

// Sibling returns the group beside g that has that name; none for none.
func (g Group) Sibling(name string) Group {
	if !g.Valid() {
		return g
	}
	return Group{filepath.Join(filepath.Dir(g.dir), name)}
}

// Child makes a group inside g, or takes the one that is there.
func (g Group) Child(name string) (Group, error) {
	c := Group{filepath.Join(g.dir, name)}
	if err := os.Mkdir(c.dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return Group{}, err
	}
	return c, nil
}

// Open opens the directory, for clone3 to start a process in it.
func (g Group) Open() (fd int, err error) {
	if fd, err = unix.Open(g.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		err = &os.PathError{Op: "open", Path: g.dir, Err: err}
	}
	return fd, err
}

// Write writes one of the group's files.
func (g Group) Write(file, value string) error { return WriteFile(g.dir, file, value) }

// WriteFile writes a file of the kernel's with three system calls, and does not ask
// whether it can be polled, as package os does.
func WriteFile(dir, file, value string) error {
	path := dir + "/" + file
	for {
		op := "open"
		fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			op = "write"
			_, err = unix.Write(fd, []byte(value))
			_ = unix.Close(fd)
		}
		switch {
		case err == nil:
			return nil
		case err != unix.EINTR:
			return &os.PathError{Op: op, Path: path, Err: err}
		}
	}
}

// Enable turns on, for the groups inside g, those of the controllers that the
// hierarchy has.
func (g Group) Enable(controllers ...string) error {
	b, err := os.ReadFile(filepath.Join(g.dir, "cgroup.controllers"))
	errs := []error{err}
	available := strings.Fields(string(b))
	for _, c := range controllers {
		if slices.Contains(available, c) { // each alone: one that is refused holds back no other
			errs = append(errs, g.Write("cgroup.subtree_control", "+"+c))
		}
	}
	return errors.Join(errs...)
}

// Provide turns a controller on for the groups inside g. Of the groups above only
// that of PID 1's Tree may be changed for it: others are somebody else's.
func (g Group) Provide(controller string) error {
	lists := func(file string) bool {
		b, _ := os.ReadFile(filepath.Join(g.dir, file))
		return slices.Contains(strings.Fields(string(b)), controller)
	}
	if lists("cgroup.subtree_control") {
		return nil
	}
	if !lists("cgroup.controllers") {
		if filepath.Base(g.dir) != Tree {
			return fmt.Errorf("%s: no controller %q", g.dir, controller)
		}
		if err := g.Parent().Provide(controller); err != nil {
			return err
		}
	}
	return g.Write("cgroup.subtree_control", "+"+controller)
}

// Procs returns the processes in g, not those of groups inside it. A zombie may
// or may not be among them.
func (g Group) Procs() ([]int, error) {
	b, err := os.ReadFile(filepath.Join(g.dir, "cgroup.procs"))
	var pids []int
	for _, field := range bytes.Fields(b) {
		if pid, err := strconv.Atoi(string(field)); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids, err
}

// Add moves a process into g.
func (g Group) Add(pid int) error { return g.Write("cgroup.procs", strconv.Itoa(pid)) }

// Kill kills all processes in g and in groups inside it, those that are being
// forked included. On kernels before 5.14, which have no cgroup.kill, it freezes
// g and kills what is in it, again until nothing is, for up to a second.
func (g Group) Kill() error {
	err := g.Write("cgroup.kill", "1")
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return g.killFrozen()
}

// killFrozen is Kill without cgroup.kill. What is frozen can't fork, but dies. A
// process freezes only when it next leaves the kernel, and one that is about to
// be forked freezes when it is there: hence again and again.
func (g Group) killFrozen() error {
	defer g.freeze()()
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		pids, err := g.Tree()
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	return fmt.Errorf("%s: processes are left", g.dir)
}

// freeze stops what is in g and in groups inside it (Linux 5.2), until thaw.
func (g Group) freeze() (thaw func()) {
	_ = g.Write("cgroup.freeze", "1")
	return func() { _ = g.Write("cgroup.freeze", "0") }
}

// Tree returns the processes in g and in groups inside it. Who is in those may
// remove them meanwhile, or have made them threaded: then they can't be read, and
// the group above has their processes.
func (g Group) Tree() ([]int, error) {
	all, err := g.Procs()
	if err != nil {
		return nil, err
	}
	inside, _ := g.Children()
	for _, c := range inside {
		pids, _ := c.Tree()
		all = append(all, pids...)
	}
	return all, nil
}

// Children returns the groups inside g.
func (g Group) Children() ([]Group, error) {
	entries, err := os.ReadDir(g.dir)
	var all []Group
	for _, e := range entries {
		if e.IsDir() {
			all = append(all, Group{filepath.Join(g.dir, e.Name())})
		}
	}
	return all, err
}

// MoveTo moves what is in g and in groups inside it to another group. frozen is
// for what forks faster than it can be moved; it interrupts system calls, such
// as epoll_wait(2), of the processes.
func (g Group) MoveTo(to Group, frozen bool) {
	if frozen {
		defer g.freeze()()
	}
	pids, _ := g.Tree()
	for _, pid := range pids {
		_ = to.Add(pid) // or it is dying
	}
}

// Remove removes g, which must hold no process, and the groups inside it.
func (g Group) Remove() error {
	err := unix.Rmdir(g.dir)
	if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	inside, readErr := g.Children()
	if readErr != nil {
		return readErr
	}
	for _, c := range inside {
		if err := c.Remove(); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return unix.Rmdir(g.dir)
}

// CanStartIn tells whether clone3(2) can start a process in a group, so that
// nothing it forks is ever outside. It can't before Linux 5.7, nor where a
// container's seccomp(2) filter has no clone3. The call fails in any case: no
// descriptor has that number.
func CanStartIn() bool {
	args := struct {
		flags uint64
		_     [9]uint64
		group uint64
	}{flags: unix.CLONE_INTO_CGROUP, group: 1 << 32}
	_, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
	return errno == unix.EINVAL
}
