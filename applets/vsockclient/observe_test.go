//go:build linux

package vsockclient

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/internal/agenttest"
	"github.com/hyperfleet/init/applets/wire"
)

// ^C is how these end: with its status, and nothing to read about it.
func TestWatchTellsWhatHappens(t *testing.T) {
	liveAgent(t)
	for _, test := range []struct {
		flags string
		lines []string
	}{
		{"-r", []string{"create    old/file", "rename    old/file -> moved", "delete    moved"}},
		{"--recursive -e delete", []string{"delete    moved"}},
		{"-r -e rename --json", []string{`{"type":"rename","name":"moved","from":"old/file","is_dir":false}`}},
	} {
		dir := t.TempDir()
		file, moved := filepath.Join(dir, "old/file"), filepath.Join(dir, "moved")
		if err := os.Mkdir(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := process(t, append(append([]string{"watch"}, strings.Fields(test.flags)...), dir)...)
		_, out, errs := pipes(t, cmd)
		hung := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
		defer hung.Stop()
		said := bufio.NewReader(errs)
		if line, err := said.ReadString('\n'); err != nil || line != "watching "+dir+"\n" {
			t.Fatalf("%q, %v", line, err)
		}
		lines := bufio.NewScanner(out)
		for _, step := range []func() error{
			func() error { return os.WriteFile(file, nil, 0o644) },
			func() error { return os.Rename(file, moved) },
			func() error { return os.Remove(moved) },
		} {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
		for _, want := range test.lines {
			if lines.Scan(); lines.Text() != want {
				t.Errorf("%s: %q, want %q", test.flags, lines.Text(), want)
			}
		}
		_ = cmd.Process.Signal(syscall.SIGINT)
		rest, _ := io.ReadAll(said)
		if status := exitOf(cmd); status != 130 || len(rest) > 0 {
			t.Errorf("%s: status %d, %q", test.flags, status, rest)
		}
	}
}

// logAgent has three lines, and a fourth for who follows.
func logAgent(c net.Conn) {
	line, _ := agenttest.ReadLine(c)
	if strings.Contains(line, `"stats"`) {
		_, _ = io.WriteString(c, `{"success":true,"data":{"time_ms":5000}}`+"\n")
		agenttest.Linger(c)
		return
	}
	_, _ = io.WriteString(c, `{"success":true,"data":{"unreadable":{"agent":"there is none"}}}`+"\n")
	var request struct {
		Follow bool  `json:"follow"`
		Since  int64 `json:"since_ms"`
	}
	_ = json.Unmarshal([]byte(line), &request)
	frames := wire.NewFrameWriter(c)
	lines := []wire.LogLine{
		{Source: "kernel", TimeMS: 1.5, Level: "info", Message: "one"}, {Source: "kernel", TimeMS: 3000, Level: "warn", Message: "two\x1b[2J\nlines\n"},
		{Source: "init", TimeMS: 4000, Level: "info", Message: "three"},
	}
	for len(lines) > 0 && lines[0].TimeMS < float64(request.Since) {
		lines = lines[1:]
	}
	_ = frames.Encode(wire.KindEvent, wire.LogLines{Lines: lines})
	if request.Follow {
		_ = frames.Encode(wire.KindEvent, wire.LogLines{Lines: []wire.LogLine{{Source: "init", TimeMS: 6000, Message: "four"}}})
	}
	_ = frames.Encode(wire.KindExit, wire.LogsEnd{})
	agenttest.Linger(c)
}

func TestLogs(t *testing.T) {
	sock := agenttest.Listen(t, logAgent)
	const (
		one   = "[    0.001500] kernel: one\n"
		two   = "[    3.000000] kernel: two\\x1b[2J\n[    3.000000] kernel: lines\n"
		three = "[    4.000000] init: three\n"
		four  = "[    6.000000] init: four\n"
		none  = program + ": logs: agent: there is none\n"
	)
	for _, test := range []struct{ args, stdout, stderr string }{
		{"", one + two + three, none},
		{"-f", one + two + three + four, none},
		{"-n 1", three, none},
		{"-n 0", "", none},
		{"-f -n 2", two + three + four, none},
		{"-f -n 0", four, none},
		{"--since 2s", two + three, none},
		{"--since 1h", one + two + three, none},
		{"--json -n 1", `{"source":"init","time_ms":4000,"level":"info","message":"three"}` + "\n", none},
	} {
		status, stdout, stderr := invoke("", append([]string{"--unix", sock, "logs"}, strings.Fields(test.args)...)...)
		if status != 0 || stdout != test.stdout || stderr != test.stderr {
			t.Errorf("logs %s: %d, %q, %q", test.args, status, stdout, stderr)
		}
	}
}

func TestStats(t *testing.T) {
	liveAgent(t)
	status, stdout, stderr := invoke("", "stats")
	for _, row := range []string{"up  ", "cpu  ", "memory  ", "processes  ", "agent  "} {
		if status != 0 || stderr != "" || !strings.Contains("\n"+stdout, "\n"+row) {
			t.Errorf("%d, %q, no %q in %s", status, stderr, row, stdout)
		}
	}
	cmd := process(t, "stats", "--watch=20ms")
	_, out, errs := pipes(t, cmd)
	lines := bufio.NewScanner(out)
	for range headingEvery + 2 + 2 { // the heading comes again
		lines.Scan()
	}
	if want, _, _ := strings.Cut(statsHeading[strings.Index(statsHeading, "\n")+1:], "\n"); lines.Text() != want {
		t.Errorf("%q, want %q", lines.Text(), want)
	}
	_ = cmd.Process.Signal(syscall.SIGINT)
	if rest, _ := io.ReadAll(errs); len(rest) > 0 {
		t.Errorf("%q", rest)
	}
	if status := exitOf(cmd); status != 130 {
		t.Errorf("status %d", status)
	}
	cmd = process(t, "stats", "--json", "--watch=20ms")
	_, out, _ = pipes(t, cmd)
	dec := json.NewDecoder(out)
	for range 3 {
		var st wire.Stats
		if err := dec.Decode(&st); err != nil || st.Memory.Total == 0 {
			t.Errorf("%+v, %v", st, err)
		}
	}
	for arg, want := range map[string]int{"--watch=2s": 0, "--watch=0.5": 0, "--watch": 0, "--watch=0": 2, "--watch=-1s": 2, "--watch=soon": 2} {
		if status, _, _ := invoke("", "stats", arg, "--help"); status != want {
			t.Errorf("%s: %d", arg, status)
		}
	}
}

func TestStatsRates(t *testing.T) {
	from, to := &wire.Stats{TimeMS: 1000}, &wire.Stats{TimeMS: 3000}
	to.CPU = wire.CPUStats{CPUs: 2, TotalMS: 4000, IdleMS: 2000, IOWaitMS: 400, StealMS: 600, Load: [3]float64{0.5}}
	to.Memory = wire.MemoryStats{Total: 4 << 30, Available: 3 << 30}
	to.Disks = []wire.DiskStats{{Name: "vda", ReadBytes: 2 << 20}}
	to.Network = []wire.NetworkStats{{Name: "lo", RxBytes: 1 << 30}, {Name: "eth0", RxBytes: 1000, TxBytes: 1 << 11}}
	want := "  25  10    15  0.50  1.0 GiB 4.0 GiB   0   0   0     0 1.0 MiB     0 B   500 B 1.0 KiB\n"
	if got := statsRow(from, to, 1); got != want {
		t.Errorf("\n%q, want\n%q", got, want)
	}
	heading := strings.SplitAfter(statsRow(from, to, 0), "\n")
	for _, line := range heading[:3] {
		if len(line) != len(want) {
			t.Errorf("%q is not as wide as %q", line, want)
		}
	}
	// A counter that begins anew is no rate.
	if got := (period{to, from}).perSecond(5, 3); got != "0 B" {
		t.Error(got)
	}
}
