package vsockclient

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/wire"
)

// limitFlags are what a command may use, by the names that docker run has for it.
func limitFlags(f *flag.FlagSet, o *options) {
	e := &o.exec
	f.DurationVar(&e.Grace, "grace", 0, "at the timeout send SIGTERM first, and kill after `D` (default: kill at once)")
	f.Func("group", "run it with the supplementary `GROUP`, again for more; \"\" is none (default: those of the user)", func(s string) error {
		if e.Groups == nil {
			e.Groups = []string{}
		}
		if s != "" {
			e.Groups = append(e.Groups, s)
		}
		return nil
	})
	f.Func("umask", "run it with the umask `OCTAL` (default 022)", func(s string) error {
		n, err := strconv.ParseUint(s, 8, 9)
		if err != nil {
			return errors.New("want octal permission bits, as 027")
		}
		mask := fs.FileMode(n)
		e.Umask = &mask
		return nil
	})
	f.Func("ulimit", "limit each of its processes, `NAME=SOFT[:HARD]`, as in nofile=1024:2048, again for more; -1 is no limit", func(s string) error {
		return parseUlimit(e, s)
	})
	f.Func("memory", "kill it when it has more than `BYTES` of memory with all that it starts; 64m is 64 MiB", func(s string) (err error) {
		e.MemoryMax, err = parseBytes(s)
		return err
	})
	f.Func("pids-limit", "let it have up to `N` processes and threads with all that it starts", func(s string) (err error) {
		e.PidsMax, err = strconv.ParseInt(s, 10, 64)
		if err != nil || e.PidsMax < 1 || e.PidsMax > wire.MaxPids {
			return fmt.Errorf("want a number from 1 to %d", wire.MaxPids)
		}
		return nil
	})
	f.Func("cpus", "let it have up to `N` CPUs with all that it starts, as in 1.5", func(s string) error {
		n, err := strconv.ParseFloat(s, 64)
		e.CPUMax = int64(math.Round(n * 1000))
		if err != nil || !(n*1000 >= wire.MinCPU && n*1000 <= wire.MaxCPU) {
			return fmt.Errorf("want a number of CPUs from %v to %d", wire.MinCPU/1000.0, wire.MaxCPU/1000)
		}
		return nil
	})
}

// parseUlimit reads what docker and ulimit(1) call a limit; one number is both.
func parseUlimit(e *client.ExecOptions, s string) error {
	name, value, ok := strings.Cut(s, "=")
	first, second, two := strings.Cut(value, ":")
	if !two {
		second = first
	}
	soft, softErr := strconv.ParseInt(first, 10, 64)
	hard, hardErr := strconv.ParseInt(second, 10, 64)
	switch {
	case !ok || softErr != nil || hardErr != nil || min(soft, hard) < client.Unlimited:
		return errors.New("want NAME=SOFT or NAME=SOFT:HARD, numbers, -1 for no limit")
	case !slices.Contains(wire.RlimitNames(), name):
		return fmt.Errorf("there is no %q: want %s", name, strings.Join(wire.RlimitNames(), ", "))
	case uint64(soft) > uint64(hard): // -1 is the largest:
		return errors.New("the soft limit is above the hard one")
	}
	if e.Rlimits == nil {
		e.Rlimits = map[string]client.Rlimit{}
	}
	e.Rlimits[name] = client.Rlimit{Soft: soft, Hard: hard}
	return nil
}

// parseBytes reads a number with the letter of a unit, as docker has them.
func parseBytes(s string) (int64, error) {
	digits, shift := s, 0
	if n := len(s); n > 0 {
		if i := strings.IndexByte("bkmg", s[n-1]|0x20); i >= 0 {
			digits, shift = s[:n-1], 10*i
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n > 1<<53>>shift || n<<shift < wire.MinMemory {
		return 0, errors.New("want bytes, 1m or more, as 67108864, 64m or 1g")
	}
	return n << shift, nil
}

// checkOptions makes sure that the agent does not pass over what it does not know.
func (c *call) checkOptions(ctx context.Context) error {
	if reflect.ValueOf(c.exec).IsZero() {
		return nil
	}
	info, err := c.quiet.Info(ctx)
	if err != nil {
		return ofExec(err)
	}
	if !slices.Contains(info.Operations, streamMark) {
		return fmt.Errorf("exec: the agent (version %s) is too old for --grace, --group, --umask and limits", info.Version)
	}
	return nil
}
