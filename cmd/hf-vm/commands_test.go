package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/init/cmd/internal/vm"
)

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args   []string
		status int
		says   string
	}{
		{nil, 2, "no command"},
		{[]string{"walk"}, 2, "walk"},
		{[]string{"run", "--nope"}, 2, "nope"},
		{[]string{"run", "extra"}, 2, "extra"},
		{[]string{"run", "--arch", "vax"}, 2, "vax"},
		{[]string{"run", "--modules", "/x"}, 2, "--kernel"},
		{[]string{"run", "--accel", "warp"}, 2, "warp"},
		{[]string{"run", "--kernel", "/no/such/kernel", "--build", t.TempDir()}, 1, "/no/such/kernel"},
		{[]string{"deps", "everything"}, 2, "everything"},
		{[]string{"kernel", "--kernel", "/no/such/kernel"}, 1, "/no/such/kernel"},
		{[]string{"--help"}, 0, ""},
		{[]string{"run", "--help"}, 0, ""},
	} {
		if c.args != nil && c.args[0] == "run" && c.status == 1 {
			if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
				continue // it would be installed
			}
		}
		var out, errs bytes.Buffer
		status := run(c.args, strings.NewReader(""), &out, &errs)
		if status != c.status || !strings.Contains(errs.String(), c.says) {
			t.Errorf("hf-vm %q: status %d, %q; want %d, %q", c.args, status, errs.String(), c.status, c.says)
		}
		if status == 2 && strings.Count(errs.String(), "\n") != 1 {
			t.Errorf("hf-vm %q: not one line: %q", c.args, errs.String())
		}
		if status == 0 && !strings.HasPrefix(out.String(), "usage: hf-vm ") {
			t.Errorf("hf-vm %q: %q", c.args, out.String())
		}
	}
}

func TestVerify(t *testing.T) {
	reply := step{check: data("pong", true)}
	for _, c := range []struct {
		s      step
		status int
		out    string
		ok     bool
	}{
		{reply, 0, `{"success":true,"data":{"pong":true}}` + "\n", true},
		{reply, 1, `{"success":true,"data":{"pong":true}}`, false},
		{reply, 0, `{"success":false,"data":{"pong":true}}`, false},
		{reply, 0, `{"success":true,"data":{}}`, false},
		{reply, 0, ``, false},
		{step{check: equal("a\n")}, 0, "a\n", true},
		{step{check: equal("a\n")}, 0, "a", false},
		{step{check: match("^a")}, 0, "ab", true},
		{step{check: match("^a")}, 0, "ba", false},
		{step{status: 3}, 3, "", true},
		{step{status: 3}, 0, "", false},
	} {
		if err := c.s.verify(c.status, c.out); (err == nil) != c.ok {
			t.Errorf("verify(%d, %q): %v", c.status, c.out, err)
		}
	}
}

// TestScript runs the guest's script on this machine, with a stand-in for the
// client, and follows it as the demo does.
func TestScript(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "demo")
	if err := writeScript(script); err != nil {
		t.Fatal(err)
	}
	// It answers with its arguments and input, and no newline at the end.
	standIn := "#!/bin/sh\nprintf '%s|' \"$@\"\ncat </dev/stdin\nexit 5\n"
	for name, text := range map[string]string{"hf-vsock-client": standIn, "hf-poweroff": "#!/bin/sh\necho off\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	m, err := vm.Start(t.Context(), []string{"sh", script}, strings.NewReader(""), vm.NewConsole())
	if err != nil {
		t.Fatal(err)
	}
	g := &guestCaller{m.Console}
	for i, s := range steps() {
		status, out, err := g.call(t.Context(), i, s)
		want := strings.Join(s.args, "|") + "|" + s.stdin
		if err != nil || status != 5 || out != want {
			t.Errorf("%q: status %d, %q, %v; want %q", s.typed(), status, out, err, want)
		}
	}
	if err := g.powerOff(t.Context()); err != nil {
		t.Error(err)
	}
	if line, err := m.Console.Next(t.Context()); line != "off" {
		t.Errorf("the script's end: %q, %v", line, err)
	}
}

// TestGuestThatStops must be an error, not a wait for ever.
func TestGuestThatStops(t *testing.T) {
	m, err := vm.Start(t.Context(), []string{"sh", "-c", fmt.Sprintf("echo '%s begin 0'; echo partly", mark)}, nil, vm.NewConsole())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		_, _, err := (&guestCaller{m.Console}).call(t.Context(), 0, steps()[0])
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil {
			t.Error("an answer that was cut off was taken")
		}
	case <-time.After(30 * time.Second):
		t.Fatal("still waiting for a machine that has ended")
	}
}
