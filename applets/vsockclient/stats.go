package vsockclient

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/hyperfleet/init/applets/wire"
)

const statsHelp = `Without --watch it looks twice, for the rates. With it there is a line each
time, of which the first tells the rates since the guest's start. With --json
that is an object on a line, which counts from the guest's start.
`

// An interval is the value of --watch, which may be left out.
type interval time.Duration

func (i *interval) IsBoolFlag() bool { return true }
func (i *interval) String() string   { return "" }

func (i *interval) Set(s string) error {
	switch d, err := time.ParseDuration(s); {
	case s == "true":
		*i = interval(time.Second)
		return nil
	case err == nil && d > 0:
		*i = interval(d)
		return nil
	}
	seconds, err := strconv.ParseFloat(s, 64)
	if err != nil || seconds*1000 < wire.MinStatsInterval || seconds > 86400 {
		return errors.New("want a time, as 2s")
	}
	*i = interval(seconds * float64(time.Second))
	return nil
}

func statsFlags(f *flag.FlagSet, o *options) {
	f.Var(&o.watch, "watch", "again every second, or every D with --watch=D, until a signal ends it")
}

// glance is how long stats looks.
const glance = 250 * time.Millisecond

func stats(ctx context.Context, c *call) (int, error) {
	if c.json && c.watch == 0 {
		_, err := c.client.Stats(ctx)
		return 0, err
	}
	every := time.Duration(c.watch)
	if every == 0 {
		every = glance
	}
	before := new(wire.Stats)
	n := 0
	for now, err := range c.quiet.StatsEvery(ctx, every) {
		switch {
		case err != nil:
			return 0, err
		case c.json:
			err = c.line(now)
		case c.watch > 0:
			err = c.print("%s", statsRow(before, now, n))
		case n > 0:
			return 0, c.print("%s", summary(before, now))
		}
		if err != nil {
			return 0, err
		}
		before = now
		n++
	}
	return 0, nil
}

// A period is the time between two looks at what counts up.
type period struct{ from, to *wire.Stats }

// perSecond is the bytes of a second, for people.
func (p period) perSecond(from, to int64) string {
	ms := p.to.TimeMS - p.from.TimeMS
	if ms <= 0 || to < from { // something else has the name now
		return size(0)
	}
	return size(int64(float64(to-from) * 1000 / ms))
}

// share is how much of the CPUs' time one kind of it was, in percent.
func (p period) share(kind func(*wire.CPUStats) int64) float64 {
	total := p.to.CPU.TotalMS - p.from.CPU.TotalMS
	return 100 * float64(max(kind(&p.to.CPU)-kind(&p.from.CPU), 0)) / float64(max(total, 1))
}

func idle(c *wire.CPUStats) int64   { return c.IdleMS }
func iowait(c *wire.CPUStats) int64 { return c.IOWaitMS }
func steal(c *wire.CPUStats) int64  { return c.StealMS }

// busy is what is neither idle nor the host's.
func busy(c *wire.CPUStats) int64 { return c.TotalMS - c.IdleMS - c.IOWaitMS - c.StealMS }

// totals are the bytes of all disks and of all interfaces but the loopback.
func totals(s *wire.Stats) (n [4]int64) {
	for _, d := range s.Disks {
		n[0] += d.ReadBytes
		n[1] += d.WriteBytes
	}
	for _, i := range s.Network {
		if i.Name != "lo" {
			n[2] += i.RxBytes
			n[3] += i.TxBytes
		}
	}
	return n
}

// headingEvery is after how many rows the heading comes again, as vmstat's.
const headingEvery = 20

// statsHeading names the columns in two lines, as vmstat's does.
const statsHeading = `----cpu %----- -load ---------memory- --wait %--- procs ----disk / s--- ---network / s-
busy  io steal    1m     used   total cpu mem  io   run    read written      in     out
`

func statsRow(from, to *wire.Stats, n int) string {
	var b strings.Builder
	if n%headingEvery == 0 {
		b.WriteString(statsHeading)
	}
	p := period{from, to}
	var rates [4]string
	for i, was := range totals(from) {
		rates[i] = p.perSecond(was, totals(to)[i])
	}
	var psi wire.PressureStats
	if to.Pressure != nil {
		psi = *to.Pressure
	}
	m := to.Memory
	fmt.Fprintf(&b, "%4.0f %3.0f %5.0f %5.2f %8s%8s %3.0f %3.0f %3.0f %5d %7s %7s %7s %7s\n",
		p.share(busy), p.share(iowait), p.share(steal), to.CPU.Load[0], size(m.Total-m.Available), size(m.Total),
		psi.CPU.Some.Avg10, psi.Memory.Some.Avg10, psi.IO.Some.Avg10, to.Processes.Running, rates[0], rates[1], rates[2], rates[3])
	return b.String()
}

// summary tells all, for people.
func summary(from, to *wire.Stats) string {
	var b strings.Builder
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-10s  %s\n", name, printable(fmt.Sprintf(format, args...)))
	}
	p := period{from, to}
	row("up", "%s, load %.2f %.2f %.2f", clock(to.UptimeMS), to.CPU.Load[0], to.CPU.Load[1], to.CPU.Load[2])
	row("cpu", "%.0f%% of %d busy, %.0f%% waits for disks, %.0f%% is the host's, %.0f%% idle",
		p.share(busy), to.CPU.CPUs, p.share(iowait), p.share(steal), p.share(idle))
	m := to.Memory
	row("memory", "%s of %s used, %s available, %s cached", size(m.Total-m.Available), size(m.Total), size(m.Available), size(m.Cached))
	if m.SwapTotal > 0 {
		row("swap", "%s of %s used", size(m.SwapTotal-m.SwapFree), size(m.SwapTotal))
	}
	if s := to.Pressure; s != nil {
		row("pressure", "cpu %.1f%%, memory %.1f%%, io %.1f%% of the last 10 s", s.CPU.Some.Avg10, s.Memory.Some.Avg10, s.IO.Some.Avg10)
	}
	n := to.Processes
	row("processes", "%d with %d threads, %d running, %d blocked", n.Processes, n.Threads, n.Running, n.Blocked)
	old := map[string]wire.DiskStats{}
	for _, d := range from.Disks {
		old[d.Name] = d
	}
	for _, d := range to.Disks {
		o := old[d.Name]
		row("disk", "%s: %s/s read, %s/s written", d.Name, p.perSecond(o.ReadBytes, d.ReadBytes), p.perSecond(o.WriteBytes, d.WriteBytes))
	}
	for _, f := range to.Filesystems {
		row("filesystem", "%s: %s of %s used, %s", f.Target, size(f.Size-f.Free), size(f.Size), f.Type)
	}
	was := map[string]wire.NetworkStats{}
	for _, i := range from.Network {
		was[i.Name] = i
	}
	for _, i := range to.Network {
		o := was[i.Name]
		row("network", "%s: %s/s in, %s/s out", i.Name, p.perSecond(o.RxBytes, i.RxBytes), p.perSecond(o.TxBytes, i.TxBytes))
	}
	a := to.Agent
	row("agent", "process %d, %s, %d connections, %d sessions", a.PID, size(a.RSS), a.Connections, a.Sessions)
	return b.String()
}
