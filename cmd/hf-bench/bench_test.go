//go:build linux

package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets"
	"github.com/hyperfleet/init/applets/nsguest"
	"golang.org/x/sys/unix"
)

// TestMain makes the test binary the first PID 1 of machines, too.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == stage1Name {
		os.Exit(stage1(os.Args[1], os.Stderr))
	}
	os.Exit(m.Run())
}

func TestSummarize(t *testing.T) {
	var samples []float64
	for i := range 101 {
		samples = append(samples, float64(100-i))
	}
	if got, want := summarize(samples), (stats{101, 0, 10, 50, 90, 99, 100}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got, want := summarize([]float64{7}), (stats{1, 7, 7, 7, 7, 7, 7}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// Actions take turns, each is first as often as the others, and the first round does
// not count.
func TestAlternate(t *testing.T) {
	var order strings.Builder
	action := func(name string, took time.Duration) action {
		return func() (time.Duration, error) { order.WriteString(name); return took, nil }
	}
	seconds, err := alternate(3, time.Hour, action("a", time.Second), action("b", time.Minute))
	if err != nil || order.String() != "abbaabba" {
		t.Errorf("%s, %v", order.String(), err)
	}
	if len(seconds[0]) != 3 || seconds[0][0] != 1 || seconds[1][2] != 60 {
		t.Errorf("%v", seconds)
	}
	if seconds, _ := alternate(1000, 0, action("a", 1)); len(seconds[0]) != leastRounds {
		t.Errorf("%d rounds when there is no time, want %d", len(seconds[0]), leastRounds)
	}
	fails := errors.New("fails")
	if _, err := alternate(3, 0, func() (time.Duration, error) { return 0, fails }); !errors.Is(err, fails) {
		t.Error(err)
	}
}

func TestJudge(t *testing.T) {
	for _, test := range []struct {
		figure, floor float64
		reach         *reach
		met           bool
	}{
		{12, 10, atMost(1.2), true},
		{13, 10, atMost(1.2), false},
		{8, 10, atLeast(0.7), true},
		{6, 10, atLeast(0.7), false},
		{5, 0, atMost(5), true},
		{5.01, 0, atMost(5), false},
	} {
		r := row{Figure: stats{Median: test.figure}, Reach: test.reach}
		if test.floor > 0 {
			r.Floors = []floor{{"floor", stats{Median: test.floor}}}
		}
		if r.judge(); *r.Met != test.met {
			t.Errorf("%+v: met is %v", test, *r.Met)
		}
	}
}

// A contest's rates are of what its actions move in the time that they take.
func TestContest(t *testing.T) {
	c := contest{bytes: 10e6, rounds: 3, limit: time.Hour, reach: atLeast(0.7)}
	c.figure = func() (time.Duration, error) { return 2 * time.Second, nil }
	c.floors = []named{{"floor", func() (time.Duration, error) { return time.Second, nil }}}
	r, err := c.run("here")
	if err != nil || r.Unit != "MB/s" || r.Figure.Median != 5 || r.Floors[0].Median != 10 || r.Ratio != 0.5 || *r.Met {
		t.Errorf("%+v, %v", r, err)
	}
}

// The two programs of machine code do what they are for.
func TestPrograms(t *testing.T) {
	exit0, asleep := filepath.Join(t.TempDir(), "exit0"), filepath.Join(t.TempDir(), "asleep")
	exits, sleeps, err := programs()
	if err := errors.Join(err, os.WriteFile(exit0, exits, 0o755), os.WriteFile(asleep, sleeps, 0o755)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(exit0, "x").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	cmd := exec.Command(asleep)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		t.Errorf("it ended: %v", err)
	case <-time.After(50 * time.Millisecond):
		_ = cmd.Process.Signal(unix.SIGKILL)
		<-ended
	}
}

// The chart is well-formed whatever the figures are.
func TestChart(t *testing.T) {
	r := report{CPU: `a <b> & "c"`, Rows: []row{
		{Where: native, Group: "boot", Name: "exec of /init → listening", Unit: "ms", Figure: stats{Median: 5}, Floors: []floor{{"C", stats{Median: 2}}}, Reach: atMost(1.5),
			Steps: []bootStep{{"mount -t proc proc /proc", 1}, {"mount -t tmpfs tmpfs /tmp", 1}, {"start agent", 2}, {"ready", 5}}},
		{Where: native, Group: "boot", Name: "exec of /init → first ping answered", Unit: "ms", Figure: stats{Median: 7}, Floors: []floor{{"C", stats{Median: 2}}}, Reach: atMost(2)},
		{Where: native, Group: "ping", Name: "kept", Unit: "µs", Figure: stats{Median: 30}, Floors: []floor{{"echo", stats{Median: 20}}}, Reach: atMost(1.2)},
		{Where: "VM", Group: "commands", Name: "200, 8 at a time", Unit: "/s", Figure: stats{Median: 30}, Floors: []floor{{"xargs", stats{Median: 20}}}, Reach: atLeast(0.9)},
		{Where: "VM", Group: "size", Name: "the binary", Unit: "MB", Figure: stats{Median: 5}},
	}}
	for i := range r.Rows {
		r.Rows[i].judge()
	}
	for _, drawn := range []*report{&r, {}} {
		text := drawn.chart()
		d := xml.NewDecoder(strings.NewReader(text))
		for {
			if _, err := d.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("%v in %s", err, text)
			}
		}
	}
	for _, want := range []string{"mounts", "the agent comes up", "commands, 8 at a time", "a &lt;b&gt;"} {
		if !strings.Contains(r.chart(), want) {
			t.Errorf("no %q in the chart", want)
		}
	}
	var table strings.Builder
	if r.table(&table); !strings.Contains(table.String(), "1 of 4 reached") || strings.Count(table.String(), "NOT MET") != 3 {
		t.Error(table.String())
	}
}

// needMachine skips a test where no machine can be made of namespaces.
func needMachine(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, for namespaces")
	}
	for _, program := range []string{"cc", "busybox"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%v: make deps-test installs it", err)
		}
	}
}

// A short run of a few rows works, in namespaces as it is measured.
func TestRun(t *testing.T) {
	needMachine(t)
	bench := filepath.Join(t.TempDir(), "hf-bench")
	if out, err := exec.Command("go", "build", "-o", bench, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	file := filepath.Join(t.TempDir(), "bench.json")
	out, err := exec.Command(bench, "-short", "-no-vm", "-row", "^(ping|boot: exec|exec: on a new|output)", "-json", file).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"boot: exec of /init → listening", "ping: on a kept connection", "exec: on a new connection", "output: written 4 KiB at a time", " reached\n"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if b, err := os.ReadFile(file); err != nil || !strings.Contains(string(b), `"steps"`) {
		t.Errorf("%v: %.300s", err, b)
	}
}

// A host measures its guest: here from outside of the namespaces, in place of
// vhost-vsock.
func TestHost(t *testing.T) {
	needMachine(t)
	b := &bench{ctx: t.Context(), temp: t.TempDir(), stdout: io.Discard, stderr: io.Discard, version: "test"}
	if err := b.build(); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{applets.Binary: b.init, guestFloor: b.floor, guestBusybox: b.busybox}
	m, err := boot(files, initArgv(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.end()
	if _, _, err := m.answer(); err != nil {
		t.Fatal(err)
	}
	p := plan{where: "here", agent: "unix:" + nsguest.Path(m.pid(), guestSocket), remote: true, short: true, scale: 20, rows: "^(ping|exec|file|commands)"}
	if err := b.fromHere(p); err != nil {
		t.Fatalf("%v\n%s", err, m.log.String())
	}
	if len(b.result.Rows) != 15 {
		t.Errorf("%d rows, want 15", len(b.result.Rows))
	}
}

// A workload's words survive a kernel's command line.
func TestArgv(t *testing.T) {
	p := plan{where: native, agent: "vsock:1:52", rows: `^(ping|"exec"): on a .*(1 KiB|1 MiB)`, short: true, scale: 10}
	for _, word := range p.argv() {
		if strings.ContainsAny(word, " \"'") {
			t.Errorf("%q", word)
		}
	}
}
