package client

import (
	"io/fs"
	"strconv"
	"time"
)

// ExecOptions say as whom a command runs, beyond its user, and what it may use. The
// zero value says nothing. Where the guest's kernel can't keep a limit, the command is
// refused with ENOTSUP; only an agent without OpSessionAttach among its operations
// does not know of them, and passes them over.
type ExecOptions struct {
	// Groups are the supplementary groups, names or numbers. nil are those of the
	// user, and an empty list is none.
	Groups []string

	// Umask are the permission bits that new files do not get; nil is 022.
	Umask *fs.FileMode

	// Rlimits are limits as getrlimit(2) has them, by their names there in small
	// letters and without RLIMIT_: "nofile", "core" and so on. They are of each
	// process.
	Rlimits map[string]Rlimit

	// MemoryMax is how much memory, in bytes, the command may have with all that it
	// starts, 1 MiB at least. Nothing of it is swapped. At the limit all of it is
	// killed, and OOMKilled is true. 0 is no limit of its own.
	MemoryMax int64

	// PidsMax is how many processes and threads the command may have with all that
	// it starts; beyond, fork(2) fails. 0 is the agent's default.
	PidsMax int64

	// CPUMax is how much CPU time, in thousandths of one CPU, the command may have
	// with all that it starts: 1500 is one CPU and a half. 10 is the least, and 0 no
	// limit.
	CPUMax int64

	// Grace is how long, to the millisecond, the command has after its Timeout to
	// end by itself: its process group gets SIGTERM then, and what is left when it
	// has ended or when the grace is over is killed. 0 is not at all.
	Grace time.Duration
}

// An Rlimit is a soft and a hard limit. Its unit is the resource's.
type Rlimit struct{ Soft, Hard int64 }

// Unlimited in an [Rlimit] is no limit.
const Unlimited = -1

func (o *ExecOptions) add(r *request) {
	if o.Groups != nil {
		r.list("groups", o.Groups)
	}
	if o.Umask != nil {
		r.string("umask", strconv.FormatUint(uint64(*o.Umask), 8))
	}
	if len(o.Rlimits) > 0 {
		limits := map[string][2]int64{}
		for name, l := range o.Rlimits {
			limits[name] = [2]int64{l.Soft, l.Hard}
		}
		r.value("rlimits", limits)
	}
	for _, limit := range []struct {
		name  string
		value int64
	}{
		{"memory_max", o.MemoryMax}, {"pids_max", o.PidsMax}, {"cpu_max", o.CPUMax},
		{"grace", int64((o.Grace + time.Millisecond - 1) / time.Millisecond)},
	} {
		if limit.value != 0 {
			r.value(limit.name, limit.value)
		}
	}
}
