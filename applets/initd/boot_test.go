//go:build linux

package initd_test

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hyperfleet/init/applets/internal/mounts"
	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

func TestBoot(t *testing.T) {
	g := bootWith(t)
	g.ping()
	if !regexp.MustCompile(`INFO  init: ready in \d+\.\d ms listening=unix:/run/hyperfleet\.sock\n`).MatchString(g.console.String()) {
		t.Error("no line says that it is ready")
	}
	if strings.Contains(g.console.String(), "WARN  ") || strings.Contains(g.console.String(), "ERROR") {
		t.Error("an ordinary boot warns")
	}
	if name := strings.TrimSpace(g.read("/proc/sys/kernel/hostname")); name != "hyperfleet" {
		t.Errorf("hostname %q", name)
	}
	g.run("hfx", "addr")
	if st, err := os.Stat(g.path(socket)); err != nil || st.Mode() != os.ModeSocket|0o600 {
		t.Errorf("%s: %v, %v", socket, st.Mode(), err)
	}
}

func TestBootMounts(t *testing.T) {
	g := bootWith(t)
	type mounted struct{ source, fstype, options, data string }
	found := map[string]mounted{}
	for line := range strings.Lines(g.read("/proc/self/mountinfo")) {
		f := strings.Fields(line)
		found[f[4]] = mounted{f[8], f[7], f[5], f[9]}
	}
	for _, m := range mounts.Table() {
		if m.FSType == "devtmpfs" { // that is the machine's own, and no guest's of this test
			m.Source, m.FSType = "tmpfs", "tmpfs"
		}
		got := found[m.Target]
		if got.source != m.Source || got.fstype != m.FSType {
			t.Errorf("%s: %+v, want %s", m.Target, got, m)
		}
		options := strings.Split(got.options, ",")
		for flag, name := range map[uintptr]string{unix.MS_NOSUID: "nosuid", unix.MS_NODEV: "nodev", unix.MS_NOEXEC: "noexec"} {
			if slices.Contains(options, name) != (m.Flags&flag != 0) {
				t.Errorf("%s: options %q, want %s", m.Target, got.options, m)
			}
		}
		for word := range strings.SplitSeq(m.Data, ",") {
			word = strings.Replace(word, "=0", "=", 1) // the kernel shows no leading zero
			if word != "mode=1777" && word != "mode=755" && word != "" && word != "nsdelegate" && !slices.Contains(strings.Split(got.data, ","), word) {
				t.Errorf("%s: %q is not in %q", m.Target, word, got.data)
			}
		}
		if m.FSType != "tmpfs" {
			continue
		}
		st, err := os.Stat(g.path(m.Target))
		if want := os.ModeDir | m.Mode.Perm(); err != nil || st.Mode()&^os.ModeSticky != want || m.Mode&0o1000 != 0 != (st.Mode()&os.ModeSticky != 0) {
			t.Errorf("%s: %v, want %v (%o)", m.Target, st.Mode(), want, m.Mode)
		}
	}
}

func TestBootDevices(t *testing.T) {
	g := bootWith(t)
	for name, want := range map[string]struct {
		mode         os.FileMode
		major, minor uint32
	}{
		"console": {0o600, 5, 1}, "null": {0o666, 1, 3}, "zero": {0o666, 1, 5}, "full": {0o666, 1, 7}, "random": {0o666, 1, 8},
		"urandom": {0o666, 1, 9}, "kmsg": {0o644, 1, 11}, "tty": {0o666, 5, 0}, "ptmx": {0o666, 5, 2},
	} {
		var st unix.Stat_t
		err := unix.Lstat(g.path("/dev/"+name), &st)
		if err != nil || st.Mode != unix.S_IFCHR|uint32(want.mode) || st.Rdev != unix.Mkdev(want.major, want.minor) {
			t.Errorf("/dev/%s: mode %o, device %d:%d, %v", name, st.Mode, unix.Major(st.Rdev), unix.Minor(st.Rdev), err)
		}
	}
	for name, want := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		if to, err := os.Readlink(g.path("/dev/" + name)); to != want {
			t.Errorf("/dev/%s: %q, %v", name, to, err)
		}
	}
}

// The report is there before the agent is.
func TestBootReportIsEarly(t *testing.T) {
	g := start(t, stage{Files: map[string]string{badAgentFile: "sleep"}}, nil)
	var report wire.Boot
	eventually(t, "a report", func() bool {
		b, err := os.ReadFile(g.path("/run/hyperfleet/boot.json"))
		return err == nil && json.Unmarshal(b, &report) == nil
	})
	if report.ReadyMS != 0 || len(report.Steps) < 10 {
		t.Errorf("%+v", report)
	}
}

// info may be asked for as soon as there is an answer to a ping.
func TestBootReport(t *testing.T) {
	g := start(t, stage{}, nil)
	if err := g.Wait(soon(t)); err != nil {
		t.Fatal(err)
	}
	info, err := g.Info(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	if info.Boot == nil {
		t.Fatal("info has no boot at the first ping")
	}
	g.await("ready in")
	if info, err = g.Info(soon(t)); err != nil {
		t.Fatal(err)
	}
	if info.Boot.ReadyMS <= 0 || info.Boot.ReadyMS > 20_000 {
		t.Errorf("ready after %v ms", info.Boot.ReadyMS)
	}
	var names []string
	sum := 0.0
	for _, s := range info.Boot.Steps {
		names = append(names, s.Name)
		sum += s.MS
		if s.Error != "" {
			t.Errorf("%s: %s", s.Name, s.Error)
		}
	}
	want := []string{"listen on vsock"}
	for _, m := range mounts.Table() {
		if want = append(want, m.String()); m.Target == "/run" {
			want = append(want, "listen in /run")
		}
	}
	want = append(want, "make device nodes", "make links in /dev", "console", "make cgroups", "start agent",
		"keep the log in /run/hyperfleet", "limit processes", "workload from /proc/cmdline", "protect links and FIFOs in shared directories",
		"hostname hyperfleet", "ip link set lo up", "load modules for vsock", "listen", "start workload")
	if !slices.Equal(names, want) {
		t.Errorf("steps: %q\nwant   %q", names, want)
	}
	if sum > info.Boot.ReadyMS || sum == 0 {
		t.Errorf("the steps took %v ms, all of it %v ms", sum, info.Boot.ReadyMS)
	}
	if info.Hostname != "hyperfleet" || info.KillScope != "cgroup" {
		t.Errorf("%+v", info)
	}
}
