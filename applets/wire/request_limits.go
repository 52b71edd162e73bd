package wire

import (
	"encoding/json"
	"math"
	"slices"
	"strconv"
)

// Limits bound what a command, with all that it starts, may use. 0 is no limit of
// its own.
type Limits struct {
	Rlimits   []Rlimit
	MemoryMax int64 // bytes
	PidsMax   int64 // processes and threads
	CPUMax    int64 // thousandths of one CPU's time
}

// An Rlimit is a limit as getrlimit(2) has them, of one process.
type Rlimit struct {
	Resource   int // its number on Linux: the index in RlimitNames
	Soft, Hard uint64
}

// RlimitInfinity is no limit.
const RlimitInfinity = math.MaxUint64

// RlimitNames are the resources that have such a limit.
func RlimitNames() []string {
	return []string{
		"cpu", "fsize", "data", "stack", "core", "rss", "nproc", "nofile",
		"memlock", "as", "locks", "sigpending", "msgqueue", "nice", "rtprio", "rttime",
	}
}

// What limits may say. Less memory than MinMemory is a mistake in the unit, and
// less of a CPU than MinCPU is less than Linux deals out.
const (
	MinMemory = 1 << 20
	MinCPU    = 10
	MaxCPU    = 1_000_000
	MaxPids   = 1 << 22 // as in Linux
	MaxGroups = 1000
)

func (r *fieldReader) limits() Limits {
	return Limits{
		Rlimits:   r.rlimits("rlimits"),
		MemoryMax: r.int("memory_max", 0, MinMemory, 1<<53),
		PidsMax:   r.int("pids_max", 0, 1, MaxPids),
		CPUMax:    r.int("cpu_max", 0, MinCPU, MaxCPU),
	}
}

func (r *fieldReader) groups() []string {
	list := r.list("groups")
	if len(list) > MaxGroups {
		r.fail("groups", "must be at most %d", MaxGroups)
		return nil
	}
	return list
}

func (r *fieldReader) umask() *uint32 {
	if r.get("umask") == nil {
		return nil
	}
	n, err := strconv.ParseUint(r.string("umask"), 8, 32)
	if err != nil || n > 0o777 {
		r.fail("umask", `must be octal permission bits in a string, such as "027"`)
	}
	mask := uint32(n)
	return &mask
}

// rlimits reads an object of [soft, hard], in the order of their numbers.
func (r *fieldReader) rlimits(name string) []Rlimit {
	v := r.get(name)
	if v == nil {
		return nil
	}
	if v[0] != '{' {
		r.fail(name, "must be an object")
		return nil
	}
	var all []Rlimit
	err := members(v, func(key string, value json.RawMessage) error {
		l := Rlimit{Resource: slices.Index(RlimitNames(), key)}
		var ok bool
		l.Soft, l.Hard, ok = pair(value)
		switch {
		case l.Resource < 0:
			r.fail(name, "there is none named %.100q", key)
		case !ok:
			r.fail(name, "%s: must be [soft, hard], whole numbers, -1 for no limit", key)
		case l.Soft > l.Hard:
			r.fail(name, "%s: the soft limit is above the hard one", key)
		}
		at := 0
		for at < len(all) && all[at].Resource < l.Resource {
			at++
		}
		if at < len(all) && all[at].Resource == l.Resource {
			r.fail(name, "%s occurs twice", key)
		}
		if r.err == nil {
			all = slices.Insert(all, at, l)
		}
		return nil
	})
	if err != nil {
		r.fail(name, "must be an object")
	}
	return all
}

// pair reads an array of two limits.
func pair(v json.RawMessage) (soft, hard uint64, ok bool) {
	if v[0] != '[' {
		return 0, 0, false
	}
	first, rest := next(v[1:])
	second, rest := next(rest)
	third, _ := next(rest)
	if first == nil || second == nil || third != nil {
		return 0, 0, false
	}
	soft, softOK := rlimit(first)
	hard, hardOK := rlimit(second)
	return soft, hard, softOK && hardOK
}

func rlimit(v []byte) (uint64, bool) {
	n, ok := wholeNumber(v)
	switch {
	case !ok || n < -1:
		return 0, false
	case n == -1:
		return RlimitInfinity, true
	}
	return uint64(n), true
}
