//go:build linux

package initd

import (
	"errors"
	"os"
	"strconv"
	"strings"

	"github.com/hyperfleet/init/applets/internal/cgroup"
	"golang.org/x/sys/unix"
)

// makeGroups makes the cgroups of the agent, its commands and the workload.
func (s *supervisor) makeGroups() error {
	root, err := cgroup.Root()
	if err != nil {
		return err
	}
	tree, err := root.Child(cgroup.Tree)
	if err != nil {
		return err
	}
	for name, g := range map[string]*cgroup.Group{
		cgroup.Agent: &s.agentGroup, cgroup.Commands: &s.commandGroup, cgroup.Limited: &s.limitedGroup,
		cgroup.Left: &s.leftGroup, cgroup.Workload: &s.workloadGroup,
	} {
		if *g, err = tree.Child(name); err != nil {
			return err
		}
	}
	return nil
}

// limitGroups bounds how many processes the groups may have.
func (s *supervisor) limitGroups() error {
	if !s.workloadGroup.Valid() { // which was the last to be made
		return nil
	}
	tree := s.workloadGroup.Parent()
	// With memory, the kernel counts whom it kills for want of it. What that costs,
	// in instructions of an exec of a small program: less than 0.5 % for these two
	// here, 1.3 % for pids in each command's own group, where the agent turns it
	// on; but 5 % for memory there, and 7.6 % for cpu. So commands that ask for
	// limits have a parent of their own, where the agent turns these on.
	err := errors.Join(tree.Parent().Enable("memory", "pids"), tree.Enable("memory", "pids"))
	if err != nil { // in a container, whose processes are in its root group
		s.log.Debug("not all controllers are there", "err", err)
	}
	if err := limitProcesses(tree, s.commandGroup, s.limitedGroup, s.leftGroup, s.workloadGroup); err != nil {
		s.log.Debug("processes are not limited", "err", err)
	}
	return nil
}

// limitProcesses keeps a fork bomb from taking the last process: the Go runtime
// ends a program for which it can make no thread, and PID 1's end is the
// machine's. So what PID 1 starts leaves it a reserve, and each of the groups
// leaves the agent another.
func limitProcesses(tree cgroup.Group, groups ...cgroup.Group) error {
	most, err := maxProcesses()
	if err != nil {
		return err
	}
	reserve := max(most/10, minReserve)
	errs := []error{tree.Write("pids.max", strconv.Itoa(max(most-reserve, minReserve)))}
	for _, g := range groups {
		errs = append(errs, g.Write("pids.max", strconv.Itoa(max(most-2*reserve, minReserve))))
	}
	return errors.Join(errs...)
}

// minReserve is enough for the threads of PID 1, or of the agent at its busiest.
const minReserve = 64

// maxProcesses is how many threads the machine can make beside those that it has.
func maxProcesses() (int, error) {
	var now unix.Sysinfo_t
	if err := unix.Sysinfo(&now); err != nil {
		return 0, os.NewSyscallError("sysinfo", err)
	}
	most := int(^uint(0) >> 1)
	for _, file := range []string{"/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"} {
		b, err := os.ReadFile(file)
		if err != nil {
			return 0, err
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			return 0, err
		}
		most = min(most, n)
	}
	return most - int(now.Procs), nil
}
