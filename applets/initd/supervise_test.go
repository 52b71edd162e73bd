//go:build linux

package initd_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/nsguest"
	"golang.org/x/sys/unix"
)

// workload returns a stage whose init runs a command.
func workload(flags []string, argv ...string) stage {
	return stage{Args: append(append(flags, "--"), argv...)}
}

func TestWorkload(t *testing.T) {
	s := workload([]string{"--on-exit=stay"}, "hfx", "show", "a b", "")
	s.Env = []string{"HOME=/", "TERM=linux", "GREETING=hello there", "PATH=/x:/bin"}
	g := boot(t, s)
	g.await("the workload ended")
	_, rest, _ := strings.Cut(g.console.String(), "SHOWN ")
	line, _, _ := strings.Cut(rest, "\n")
	var got shown
	if err := json.Unmarshal([]byte(line), &got); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got.Argv, []string{"hfx", "show", "a b", ""}) || got.Cwd != "/" {
		t.Errorf("argv %q in %q", got.Argv, got.Cwd)
	}
	slices.Sort(got.Env)
	if want := []string{"GREETING=hello there", "HOME=/root", "PATH=/x:/bin", "TERM=linux"}; !slices.Equal(got.Env, want) {
		t.Errorf("environment %q, want %q", got.Env, want)
	}
	checkClean(t, got)
	g.wantConsole(`status="exit status 0" code=0 then=stay`)
	g.ping()
}

// checkClean checks that a process got nothing of init but its standard
// descriptors.
func checkClean(t *testing.T, s shown) {
	t.Helper()
	if !slices.Equal(s.FDs, []string{"0", "1", "2"}) {
		t.Errorf("descriptors %q", s.FDs)
	}
	for _, want := range []string{"SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000", "Umask:\t0022"} {
		if !strings.Contains(s.Status, want+"\n") {
			t.Errorf("not so: %s: %s", want, s.Status)
		}
	}
}

// Descriptors that the runtime of a container left open, and signals that it left
// blocked, go no further than init.
func TestForeignState(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	blocked, old := unix.Sigset_t{}, unix.Sigset_t{}
	blocked.Val[0] = 1 << (unix.SIGUSR1 - 1)
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &blocked, &old); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil) }()
	g := start(t, workload([]string{"--on-exit=stay"}, "hfx", "show"), func(cmd *exec.Cmd) { cmd.ExtraFiles = []*os.File{r, w} })
	g.await("the workload ended")
	_, rest, _ := strings.Cut(g.console.String(), "SHOWN ")
	line, _, _ := strings.Cut(rest, "\n")
	var got shown
	if err := json.Unmarshal([]byte(line), &got); err != nil {
		t.Fatal(err)
	}
	checkClean(t, got)
}

func TestOnExit(t *testing.T) {
	for _, test := range []struct {
		name   string
		flags  []string
		argv   []string
		status string // on the console
		end    string // of process 1; empty if it stays
	}{
		{"default", nil, []string{"hfx", "exit", "3"}, `status="exit status 3" code=3 then=poweroff`, "power off"},
		{"poweroff", []string{"--on-exit=poweroff"}, []string{"hfx", "exit", "0"}, `code=0 then=poweroff`, "power off"},
		{"reboot", []string{"--on-exit", "reboot"}, []string{"hfx", "exit", "0"}, `then=reboot`, "restart"},
		{"stay", []string{"--on-exit=stay"}, []string{"hfx", "exit", "9"}, `code=9 then=stay`, ""},
		{"exit", []string{"--on-exit=exit"}, []string{"hfx", "exit", "42"}, `code=42 then=exit`, "exit status 42"},
		{"exit by signal", []string{"--on-exit=exit"}, []string{"hfx", "dieby", "9"}, `status="killed by SIGKILL" code=137`, "exit status 137"},
		{"not found", []string{"--on-exit=exit"}, []string{"no-such-program"}, `no-such-program: not found in /usr/local/bin`, "exit status 127"},
		{"not executable", []string{"--on-exit=exit"}, []string{"/etc"}, `permission denied`, "exit status 126"},
		{"not found, default", nil, []string{"/no/such"}, `no such file or directory`, "power off"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			g := start(t, workload(append(test.flags, "--power-off=poweroff"), test.argv...), nil)
			g.await("the workload ended")
			g.await(test.status)
			if test.end == "" {
				g.await("ready in")
				g.ping()
			} else {
				g.wantEnd(test.end)
			}
		})
	}
}

func TestOptionsOnConsole(t *testing.T) {
	g := bootWith(t, "-d", "quiet", "root=/dev/vda", "--listen=tcp:80", "--peers=all", "--on-exit", "--power-off=never", "--nonsense")
	g.wantConsole(
		`DEBUG init: words that are not for init words="[\"quiet\" \"root=/dev/vda\" \"--nonsense\"]"`,
		`WARN  init: a wrong option is ignored err="--listen: \"tcp:80\"`,
		`err="--peers: \"all\": want host, host+root or any"`,
		`err="--on-exit: needs a value"`,
		`err="--power-off: \"never\": want auto, poweroff or restart"`,
	)
	g.ping()
}

func TestOrphans(t *testing.T) {
	g := bootWith(t)
	before := len(g.processes())
	g.run("hfx", "orphans", "500")
	eventually(t, "all orphans reaped", func() bool { return len(g.processes()) <= before })
}

func TestAgentKilled(t *testing.T) {
	g := bootWith(t)
	g.run("hfx", "daemon")
	var daemons []int
	eventually(t, "a daemon", func() bool { daemons = g.find("hfx sleep daemon"); return len(daemons) == 1 })
	running := g.launch("sleep", "running")
	first := g.agent()

	g.signal(first, unix.SIGKILL)
	g.ping() // the socket is open all the time
	if second := g.agent(); second == first || second == 0 {
		t.Errorf("agent %d after %d", second, first)
	}
	if o := <-running; o.err == nil {
		t.Errorf("the lost command got a reply: %+v", o)
	}
	eventually(t, "the running command ended", func() bool { return len(g.find("hfx sleep running")) == 0 })
	if !slices.Equal(g.find("hfx sleep daemon"), daemons) {
		t.Error("the daemon of a command that had ended did not survive")
	}
	g.await("the agent is back")
	g.wantConsole(`ERROR init: the agent ended status="killed by SIGKILL"`, "retry_in=0s")
	g.run("hfx", "exit", "0")
}

func TestAgentCrashes(t *testing.T) {
	g := start(t, stage{Files: map[string]string{badAgentFile: "exit 3"}}, nil)
	g.await("retry_in=160ms")
	g.wantConsole("retry_in=0s", "retry_in=10ms", "retry_in=20ms", "retry_in=40ms", "retry_in=80ms", `status="exit status 3"`)
	if strings.Contains(g.console.String(), "ready in") {
		t.Error("ready without an agent")
	}
	if err := os.Remove(g.path(badAgentFile)); err != nil {
		t.Fatal(err)
	}
	g.await("ready in")
	g.ping()
}

// An agent that can't be started at boot is tried again until it can.
func TestAgentCannotBeStarted(t *testing.T) {
	g := start(t, stage{Unlinked: true}, nil)
	g.await(`boot: start agent err="fork/exec /init: no such file or directory"`)
	g.await("the agent can't be started")
	if err := nsguest.CopyFile(executable(t), g.path("/init.new")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(g.path("/init.new"), g.path("/init")); err != nil {
		t.Fatal(err)
	}
	g.await("ready in")
	g.ping()
}

// Only PID 1 stops the agent, which would serve nobody while a command is in flight
// (FAULTS.md 2: "the agent gets TERM or INT").
func TestAgentSignalled(t *testing.T) {
	g := bootWith(t, "--power-off=poweroff")
	g.launch("late", "0")
	agent := g.agent()
	for _, n := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGTERM} {
		g.signal(agent, n)
		time.Sleep(50 * time.Millisecond) // that it would take
		g.ping()
	}
	g.run("hfx", "exit", "0")
	if g.agent() != agent {
		t.Error("it is another agent")
	}
	g.signal(1, unix.SIGTERM)
	g.wantEnd("power off")
}

// The next agent has a socket again whose name somebody removed, but not one of
// somebody else's.
func TestSocketRemoved(t *testing.T) {
	g := bootWith(t, "--listen=unix:"+socket, "--listen=unix:/tmp/taken")
	for _, name := range []string{socket, "/tmp/taken"} {
		if err := os.Remove(g.path(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(g.path("/tmp/taken"), []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	g.signal(g.agent(), unix.SIGKILL)
	g.await("the agent is back")
	g.ping()
	if content, err := os.ReadFile(g.path("/tmp/taken")); string(content) != "mine" {
		t.Errorf("%q, %v", content, err)
	}
	g.wantConsole("nobody can connect address=unix:/tmp/taken")
}

// A socket that can be opened only later reaches the agent that runs.
func TestLateListener(t *testing.T) {
	g := bootWith(t, "--listen=unix:"+socket, "--listen=unix:/tmp/late/socket")
	agent := g.agent()
	if err := os.Mkdir(g.path("/tmp/late"), 0o755); err != nil {
		t.Fatal(err)
	}
	g.await("listening address=unix:/tmp/late/socket")
	late := dial(t, g, "/tmp/late/socket")
	if _, err := late.Write([]byte(`{"operation":"ping"}` + "\n")); err != nil {
		t.Fatal(err)
	}
	if reply := readLine(t, late); !strings.Contains(reply, "true") {
		t.Errorf("%q", reply)
	}
	if g.agent() != agent {
		t.Error("the agent was restarted for it")
	}
	// The next agent gets it too.
	g.signal(agent, unix.SIGKILL)
	g.await("the agent is back")
	again := dial(t, g, "/tmp/late/socket")
	_, _ = again.Write([]byte(`{"operation":"ping"}` + "\n"))
	if reply := readLine(t, again); !strings.Contains(reply, "true") {
		t.Errorf("%q", reply)
	}
}

// Every signal that a process of the guest can send leaves init alive.
func TestSignals(t *testing.T) {
	for _, how := range []string{"kill", "queue"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			g := bootWith(t)
			g.run("hfx", "signal", how, "1", "64")
			time.Sleep(50 * time.Millisecond)
			if !g.isAlive() {
				for n := 1; n <= 64; n++ {
					h := bootWith(t)
					_, _ = h.Exec(context.Background(), execRequest("hfx", "signal", how, fmt.Sprint(n), fmt.Sprint(n)))
					time.Sleep(50 * time.Millisecond)
					if !h.isAlive() {
						t.Errorf("signal %d ends process 1: %s", n, h.end())
					}
				}
			}
			g.ping()
			g.run("hfx", "orphans", "20")
		})
	}
	t.Run("KILL and STOP", func(t *testing.T) {
		g := bootWith(t)
		for _, n := range []string{"9", "19"} {
			g.run("hfx", "one", n)
		}
		g.ping()
	})
}
