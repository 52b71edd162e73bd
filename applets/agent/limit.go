//go:build linux

package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"

	"github.com/hyperfleet/init/applets/internal/cgroup"
	"golang.org/x/sys/unix"
)

// A limit is what a command asks of a controller of cgroup v2.
type limit struct {
	field      string // of the request
	controller string
	file       string
	value      string // "" if it asks for none
}

// limits are the limits that a cgroup keeps.
func (p *plan) limits() []limit {
	const period = 100_000 // µs, the kernel's own default
	decimal := func(n int64) string {
		if n == 0 {
			return ""
		}
		return strconv.FormatInt(n, 10)
	}
	cpu := decimal(p.CPUMax * period / 1000)
	if cpu != "" {
		cpu += " " + strconv.Itoa(period)
	}
	return []limit{
		{"memory_max", "memory", "memory.max", decimal(p.MemoryMax)},
		{"pids_max", "pids", "pids.max", decimal(p.PidsMax)},
		{"cpu_max", "cpu", "cpu.max", cpu},
	}
}

// limited tells whether a cgroup has to bound what the command uses.
func (p *plan) limited() bool { return p.MemoryMax > 0 || p.PidsMax > 0 || p.CPUMax > 0 }

// unlimited refuses a command with limits, which nothing here could keep.
func (p *plan) unlimited(missing string) error {
	for _, l := range p.limits() {
		if l.value != "" {
			return refuse(unix.ENOTSUP, "%s: the guest has no %s", l.field, missing)
		}
	}
	return nil
}

// limitedGroup makes a cgroup with limits. Such groups have a parent of their own:
// the controllers that they need would make every other command dearer too. That
// of the CPU is turned on when it is first asked for, since it deals the time out by
// groups then, in the whole tree.
func (cs *commands) limitedGroup(name string, p *plan) (cgroup.Group, error) {
	cs.inhabited = slices.DeleteFunc(cs.inhabited, func(g cgroup.Group) bool { return g.Remove() == nil })
	above := cs.limited.Parent()
	parent, err := above.Child(cgroup.Limited)
	if err != nil {
		return parent, err
	}
	for _, l := range p.limits() {
		if l.value == "" && l.controller == "cpu" {
			continue
		}
		err := above.Provide(l.controller)
		if err == nil {
			err = parent.Provide(l.controller)
		}
		if err != nil && l.value != "" {
			return cgroup.Group{}, refuse(unix.ENOTSUP, "%s: %v", l.field, err)
		}
	}
	g, err := parent.Child(name)
	if err != nil {
		return g, err
	}
	if err := cs.writeLimits(g, p); err != nil {
		_ = g.Remove()
		return cgroup.Group{}, err
	}
	return g, nil
}

func (cs *commands) writeLimits(g cgroup.Group, p *plan) error {
	if cs.most != "" && p.PidsMax == 0 {
		_ = g.Write("pids.max", cs.most)
	}
	for _, l := range p.limits() {
		if l.value == "" || l.controller == "pids" && p.needsShim(cs.join) { // which does that itself
			continue
		}
		err := g.Write(l.file, l.value)
		switch {
		case errors.Is(err, fs.ErrNotExist): // a kernel without CONFIG_CFS_BANDWIDTH, say
			return refuse(unix.ENOTSUP, "%s: %v", l.field, err)
		case err != nil:
			return fmt.Errorf("%s: %w", l.field, err)
		}
	}
	if p.MemoryMax == 0 {
		return nil
	}
	// What would go to swap is beyond the limit too: the command ends at it, instead
	// of going on ever slower. And it ends whole: a part that goes on without the one
	// which was killed is of no use to who waits for it.
	for file, value := range map[string]string{"memory.swap.max": "0", "memory.oom.group": "1"} {
		if err := g.Write(file, value); err != nil && !errors.Is(err, fs.ErrNotExist) { // no swap, Linux < 4.19
			return fmt.Errorf("memory_max: %w", err)
		}
	}
	return nil
}
