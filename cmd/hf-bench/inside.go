//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/nsguest"
	"github.com/hyperfleet/init/applets/wire"
)

// mark begins the lines of the console that are rows.
const mark = "@bench@ "

// Where a guest has the programs.
const (
	guestSelf    = "/usr/bin/hf-bench"
	guestFloor   = "/usr/bin/floor"
	guestBusybox = "/usr/bin/busybox"
	guestExit    = "/tmp/exit0"
	guestSleep   = "/tmp/asleep"
)

// A plan is what to measure, and for how long.
type plan struct {
	where  string
	agent  string // its address
	remote bool   // the agent is in a guest that this is the host of
	rows   string // a regular expression
	short  bool
	growth bool // and the orphans
	scale  int  // all has so many times fewer samples
}

func (p *plan) flags(fs *flag.FlagSet) {
	fs.StringVar(&p.where, "where", "", "what the rows say")
	fs.StringVar(&p.agent, "agent", "", "the agent's address")
	fs.BoolVar(&p.remote, "remote", false, "of a guest of this host")
	fs.StringVar(&p.rows, "row", "", "rows to measure")
	fs.BoolVar(&p.short, "short", false, "few samples")
	fs.BoolVar(&p.growth, "growth", false, "also what grows")
	fs.IntVar(&p.scale, "scale", 1, "so many times fewer samples")
}

// argv is what the workload of a guest is started with. Where that is a kernel's
// command line, no word of it may hold a blank or a quote.
func (p *plan) argv() []string {
	argv := []string{guestSelf, "inside", "-agent=" + p.agent, fmt.Sprintf("-scale=%d", p.scale), "-where=" + strings.ReplaceAll(p.where, " ", "_")}
	if p.rows != "" {
		argv = append(argv, "-row="+strings.NewReplacer(" ", ".", `"`, ".").Replace(p.rows))
	}
	if p.short {
		argv = append(argv, "-short")
	}
	if p.remote {
		argv = append(argv, "-remote")
	}
	if p.growth {
		argv = append(argv, "-growth")
	}
	return argv
}

// A suite measures what is told of by rows, in the guest.
type suite struct {
	plan
	out     io.Writer
	only    *regexp.Regexp
	client  *client.Client
	watched []int             // the numbers of PID 1 and the agent
	idle    int               // KiB that both have when they idle
	peak    int               // KiB above that, of the rows of large files
	floor   map[string]string // addresses
	buf     []byte            // of all connections: they take turns
	ended   []func()
}

// inside is the workload.
func inside(args []string, stdout, stderr io.Writer) int {
	s := &suite{out: stdout, floor: map[string]string{}, buf: make([]byte, bufferSize)}
	fs := flag.NewFlagSet("inside", flag.ContinueOnError)
	fs.SetOutput(stderr)
	s.flags(fs)
	if fs.Parse(args) != nil {
		return 2
	}
	s.where = strings.ReplaceAll(s.where, "_", " ") // see argv
	err := s.prepare()
	if err == nil {
		err = s.measure()
	}
	for _, end := range s.ended {
		end()
	}
	if err != nil {
		fmt.Fprintf(stdout, "%serror %v\n", mark, err)
		return 1
	}
	fmt.Fprintf(stdout, "%send\n", mark)
	return 0
}

// upTime is what the agent may take to answer, in a machine that is emulated twice.
const upTime = 5 * time.Minute

// prepare waits until the agent idles, and starts the floors.
func (s *suite) prepare() (err error) {
	if s.only, err = regexp.Compile(s.rows); err != nil {
		return err
	}
	target, err := client.ParseTarget(s.agent)
	if err != nil {
		return err
	}
	s.client = client.New(target)
	ctx, cancel := context.WithTimeout(context.Background(), upTime)
	defer cancel()
	if err := s.client.Wait(ctx); err != nil {
		return err
	}
	exit0, asleep, err := programs()
	if err = errors.Join(err, s.place(guestExit, exit0), s.place(guestSleep, asleep)); err != nil {
		return err
	}
	for i, kind := range []string{"echo", "cat", "copy", "spawn"} {
		if err := s.startFloor(kind, 1001+i); err != nil {
			return err
		}
	}
	return s.watchAgent()
}

// watchAgent finds PID 1 and the agent, and what they have in memory when they idle.
// A guest's is not for its host to see.
func (s *suite) watchAgent() (err error) {
	if s.remote {
		return nil
	}
	s.watched = []int{1}
	for _, p := range nsguest.Processes("/proc") {
		if p.Parent == 1 && p.Name == "hf-agent" {
			s.watched = append(s.watched, p.PID)
		}
	}
	if len(s.watched) != 2 {
		return errors.New("no agent among the processes")
	}
	time.Sleep(500 * time.Millisecond)
	s.idle, err = s.resident("VmRSS")
	return err
}

func (s *suite) dial(address string) (*conn, error) { return dial(address, s.buf) }

// once does something on a connection of its own.
func (s *suite) once(address string, f func(*conn) error) error {
	c, err := s.dial(address)
	if err != nil {
		return err
	}
	defer c.Close()
	return f(c)
}

// resident sums up a line of the status of PID 1 and the agent.
func (s *suite) resident(name string) (sum int, err error) {
	for _, pid := range s.watched {
		n, err := nsguest.Field(fmt.Sprintf("/proc/%d/status", pid), name)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

func (s *suite) measure() error {
	groups := []func() error{s.booted, s.latency, s.execs, s.files, s.streams, s.outputs, s.jobs, s.peaks}
	if s.growth {
		groups = append(groups, s.orphans, s.growConnections, s.growFiles, s.growProcesses)
	}
	for _, g := range groups {
		if err := g(); err != nil {
			return err
		}
	}
	return nil
}

// booted is how this very machine came up, as its PID 1 tells.
func (s *suite) booted() error {
	const group, name = "boot", "PID 1's start → ready, as it tells itself"
	if !strings.HasPrefix(s.agent, "vsock:") || !s.wants(group, name) {
		return nil
	}
	info, err := s.client.Info(context.Background())
	if err != nil || info.Boot == nil {
		return err
	}
	r := row{Where: s.where, Group: group, Name: name, Unit: "ms", Figure: summarize([]float64{info.Boot.ReadyMS}), Steps: medianSteps([]*wire.Boot{info.Boot})}
	return s.tell(r)
}

// wants tells whether a row is asked for.
func (s *suite) wants(group, name string) bool { return s.only.MatchString(group + ": " + name) }

// least shortens what takes too long.
func (s *suite) least(rounds int, limit time.Duration) (int, time.Duration) {
	if s.short {
		rounds, limit = rounds/10, limit/10
	}
	return max(rounds/s.scale, leastRounds), limit
}

// contest measures a row and what memory it takes.
func (s *suite) contest(c contest) error {
	if !s.wants(c.group, c.name) {
		return nil
	}
	c.rounds, c.limit = s.least(c.rounds, c.limit)
	var r row
	peak, err := s.watch(func() (err error) {
		r, err = c.run(s.where)
		return err
	})
	if err != nil {
		return err
	}
	r.PeakKiB, r.AboveKiB = peak, peak-s.idle
	if c.bytes >= s.large() {
		s.peak = max(s.peak, r.AboveKiB)
	}
	return s.tell(r)
}

// watch returns the most that PID 1 and the agent had in memory during f; see
// clear_refs in proc_pid(5).
func (s *suite) watch(f func() error) (int, error) {
	for _, pid := range s.watched {
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
			return 0, err
		}
	}
	if err := f(); err != nil {
		return 0, err
	}
	return s.resident("VmHWM")
}

// tell puts a row on the console.
func (s *suite) tell(r row) error {
	runtime.GC() // now, and not in the next row
	b, err := json.Marshal(r)
	if err == nil {
		_, err = fmt.Fprintf(s.out, "%s%s\n", mark, b)
	}
	return err
}
