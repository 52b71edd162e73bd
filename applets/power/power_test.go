//go:build linux

package power

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/hyperfleet/init/applets/internal/machine"
	"golang.org/x/sys/unix"
)

// As a child the test binary is hf-poweroff.
func TestMain(m *testing.M) {
	if len(os.Args) > 0 && os.Args[0] == "hf-poweroff" {
		os.Exit(Off(os.Args, os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// None of these may get as far as to do anything: on the machine that runs the
// tests, process 1 is another program, and nothing here says --force.
func TestRun(t *testing.T) {
	other := tell(0).Error() + "\n" // signal 0 is none
	if os.Geteuid() != 0 {
		other = "must be root\n"
	} else if !strings.Contains(other, "PID 1 is") {
		t.Fatalf("%q", other)
	}
	for _, test := range []struct {
		args        []string
		status      int
		stdout, err string // how they begin
	}{
		{[]string{"hf-poweroff"}, 1, "", "hf-poweroff: " + other},
		{[]string{"hf-poweroff", "--power-off=restart"}, 1, "", "hf-poweroff: " + other},
		{[]string{"hf-poweroff", "--help"}, 0, "usage: hf-poweroff [--force]", ""},
		{[]string{"hf-poweroff", "-h"}, 0, "usage: hf-poweroff [--force]", ""},
		{[]string{"hf-poweroff", "--version"}, 0, "hf-poweroff ", ""},
		{[]string{"hf-poweroff", "--now"}, 2, "", "hf-poweroff: flag provided but not defined: -now\n"},
		{[]string{"hf-poweroff", "now"}, 2, "", "hf-poweroff: unexpected argument \"now\"\n"},
		{[]string{"hf-poweroff", "--power-off=halt"}, 2, "", "hf-poweroff: invalid value \"halt\" for flag -power-off: \"halt\": want auto, poweroff or restart\n"},
	} {
		var stdout, stderr strings.Builder
		status := run(test.args, machine.PowerOff, unix.SIGTERM, &stdout, &stderr)
		if status != test.status || !strings.HasPrefix(stdout.String(), test.stdout) || (test.stdout == "") != (stdout.String() == "") || stderr.String() != test.err {
			t.Errorf("%q: %d, %q, %q", test.args, status, stdout.String(), stderr.String())
		}
	}
}

func TestHelp(t *testing.T) {
	var off, reboot strings.Builder
	Off([]string{"poweroff", "--help"}, nil, &off, nil)
	Reboot([]string{"reboot", "--help"}, nil, &reboot, nil)
	if !strings.Contains(off.String(), "power off at once: sync, then reboot(2)") || !strings.Contains(reboot.String(), "restart at once: sync") {
		t.Errorf("%s\n%s", off.String(), reboot.String())
	}
}

// Only root may, with --force or without.
func TestNotRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be another")
	}
	exe, err := os.Open("/proc/self/exe") // whoever may not reach its directory
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	cmd := exec.Command("/proc/self/fd/3")
	cmd.Args, cmd.ExtraFiles = []string{"hf-poweroff"}, []*os.File{exe}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != 1 || string(out) != "hf-poweroff: must be root\n" {
		t.Errorf("%v, %q", err, out)
	}
}

// A program is the same whichever of its builds it is, and no other is.
func TestSameProgram(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	copied := t.TempDir() + "/copy"
	content, err := os.ReadFile(self)
	if err == nil {
		err = os.WriteFile(copied, append(content, 0), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	other, err := exec.LookPath("go") // one that was built by the same linker
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		a, b string
		want bool
	}{
		{self, self, true}, {self, copied, true}, {copied, self, true},
		{self, other, false}, {other, self, false}, {self, "/bin/sh", false}, {"/bin/sh", self, false}, {"/bin/sh", "/bin/cat", false}, {"/bin/sh", "/bin/sh", true},
	} {
		if same, err := sameProgram(test.a, test.b); same != test.want || err != nil {
			t.Errorf("%s and %s: %v, %v", test.a, test.b, same, err)
		}
	}
	if name, err := mainPackage(self); name != "github.com/hyperfleet/init/applets/power.test" || err != nil {
		t.Errorf("%q, %v", name, err)
	}
	if _, err := sameProgram(self, "/nowhere"); err == nil {
		t.Error("a program that is not there")
	}
}
