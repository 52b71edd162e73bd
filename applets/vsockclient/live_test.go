//go:build linux

package vsockclient

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/internal/cgroup"
	"golang.org/x/sys/unix"
)

// A guest is a real agent in a process of its own.
type guest struct {
	sock string
	cmd  *exec.Cmd
}

// liveAgent starts an agent; HF_VSOCK leads to it until the test ends.
func liveAgent(t testing.TB) *guest {
	t.Helper()
	binary, err := buildAgent()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "hf")
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{sock: filepath.Join(dir, "s")}
	var log bytes.Buffer
	g.cmd = exec.Command(binary, "--listen", "unix:"+g.sock, "--peers", "any")
	g.cmd.Stderr = &log
	g.confine(t)
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g.stop()
		_ = os.RemoveAll(dir)
		if t.Failed() {
			t.Logf("the agent says: %s", log.String())
		}
	})
	t.Setenv("HF_VSOCK", "unix:"+g.sock)
	if status, _, stderr := invoke("", "wait", "--timeout", patience.String()); status != 0 {
		t.Fatalf("no agent: %s", stderr)
	}
	return g
}

// confine gives the agent a cgroup: two in one would take each other's commands for
// their own.
func (g *guest) confine(t testing.TB) {
	t.Helper()
	root, err := cgroup.Root()
	if err != nil || os.Getuid() != 0 {
		return
	}
	group, err := root.Child(fmt.Sprintf("hf-test-%d-%d", os.Getpid(), time.Now().UnixNano()))
	if err != nil {
		return
	}
	own, err := group.Child("agent")
	if err != nil {
		t.Fatal(err)
	}
	d, err := own.Open()
	if err != nil {
		t.Fatal(err)
	}
	g.cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: d}
	t.Cleanup(func() {
		_ = unix.Close(d)
		_ = group.Kill()
		eventually(t, "the test's cgroup can be removed", func() bool { return group.Remove() == nil })
	})
}

func (g *guest) stop() {
	_ = g.cmd.Process.Signal(syscall.SIGTERM)
	_ = g.cmd.Wait()
}

func (g *guest) client() *client.Client { return client.New(client.Unix(g.sock)) }

// eventually waits until what holds is true.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func readInt(t *testing.T, name string) int {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestExecAgainstRealAgent(t *testing.T) {
	liveAgent(t)
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, []byte("no program"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args   string // split at |
		stdin  string
		status int
		stdout string
		stderr string // ends so
	}{
		{"exec|--|sh|-c|echo out; echo err >&2; exit 3", "", 3, "out\n", "err\n"},
		{"exec|sh|-c|kill -9 $$", "", 137, "", ""},
		{"exec|/no/such", "", 127, "", "/no/such: no such file or directory\n"},
		{"exec|" + plain, "", 126, "", "permission denied\n"},
		{"exec|-d|/no/such", "", 127, "", "/no/such: no such file or directory\n"},
		{"exec|-d|" + plain, "", 126, "", "permission denied\n"},
		{"exec|-d|-w|/no/such|true", "", 125, "", "cwd: /no/such: no such file or directory\n"},
		{"exec|-d|-i|/no/such", "", 127, "", "/no/such: no such file or directory\n"},
		{"exec|-u|nobody-is-called-so|true", "", 125, "", "(see PROTOCOL)"},
		{"exec|cat", "not this", 0, "", ""},
		{"exec|-i|cat", "in\x00\xff", 0, "in\x00\xff", ""},
		{"exec|-e|A=1|-w|/proc|--|sh|-c|echo $A $PWD", "", 0, "1 /proc\n", ""},
		{"exec|--timeout|200ms|sleep|60", "", 137, "", "killed after 200ms (--timeout D gives it longer, 0 for ever)\n"},
		{"exec|--max-output|4|echo|abcdef", "", 0, "abcd", "output is cut short (--max-output N keeps more)\n"},
		{"exec|-t|stty|size", "", 0, "24 80\r\n", ""},
		{"exec|-it|true", "", 2, "", "stdin is not a terminal: leave out -t, or -i\n"},
		{"exec|--json|-t|true", "", 2, "", "-t, -d and --keep go with neither --json nor --max-output\n"},
		{"exec|--keep|echo|kept", "", 0, "kept\n", ""},
		{"shell", "echo $HOME in $PWD as $USER; exit 5", 5, "", ""},
		{"shell|--json", "", 2, "", "there is no --json of it: it talks to people (exec --json runs a command)\n"},
	} {
		status, stdout, stderr := invoke(test.stdin, strings.Split(test.args, "|")...)
		switch {
		case test.args == "shell": // its home may be anywhere
			home, rest, _ := strings.Cut(stdout, " in ")
			stdout = strings.TrimPrefix(rest, home+" as root\n")
		case strings.Contains(test.args, "nobody-is-called-so") && strings.Contains(stderr, "nobody-is-called-so"):
			stderr = test.stderr
		}
		if status != test.status || stdout != test.stdout || !strings.HasSuffix(stderr, test.stderr) || (test.stderr == "") != (stderr == "") {
			t.Errorf("%s:\n got %d, %q, %q\nwant %d, %q, %q", test.args, status, stdout, stderr, test.status, test.stdout, test.stderr)
		}
	}
	if status, stdout, _ := invoke("", "sessions"); status != 0 || strings.Count(stdout, "\n") != 1 {
		t.Errorf("--keep left its session behind: %s", stdout)
	}
}

// Output comes while the command runs, and input reaches it then.
func TestExecStreamsAsItComes(t *testing.T) {
	liveAgent(t)
	cmd := process(t, "exec", "-i", "--", "sh", "-c", "echo one; read x; echo two $x >&2; read y; exit $y")
	in, out, errs := pipes(t, cmd)
	line := func(r io.Reader, want string) {
		t.Helper()
		b := make([]byte, len(want))
		if _, err := io.ReadFull(r, b); err != nil || string(b) != want {
			t.Fatalf("%q, %v, want %q", b, err, want)
		}
	}
	line(out, "one\n")
	_, _ = io.WriteString(in, "and\n")
	line(errs, "two and\n")
	_, _ = io.WriteString(in, "7\n")
	if status := exitOf(cmd); status != 7 {
		t.Errorf("status %d", status)
	}
}

func pipes(t *testing.T, cmd *exec.Cmd) (in io.WriteCloser, out, errs io.ReadCloser) {
	t.Helper()
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	errs, err3 := cmd.StderrPipe()
	if err := cmd.Start(); err != nil || err1 != nil || err2 != nil || err3 != nil {
		t.Fatal(err, err1, err2, err3)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return in, out, errs
}

// exitOf is the status of a process, as a shell has it.
func exitOf(cmd *exec.Cmd) int {
	hung := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer hung.Stop()
	_ = cmd.Wait()
	if w := cmd.ProcessState.Sys().(syscall.WaitStatus); w.Signaled() {
		return 128 + int(w.Signal())
	}
	return cmd.ProcessState.ExitCode()
}

// The first ^C is the command's, the second the client's, which ends the command.
func TestSecondSignalEndsClientAndCommand(t *testing.T) {
	liveAgent(t)
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		pidFile := filepath.Join(t.TempDir(), "pid")
		cmd := process(t, "exec", "--", "sh", "-c", `trap 'echo got' INT TERM; echo $$ >"$0"; echo ready; while :; do sleep 0.1; done`, pidFile)
		_, out, _ := pipes(t, cmd)
		expect := func(want string) {
			t.Helper()
			b := make([]byte, len(want))
			if _, err := io.ReadFull(out, b); err != nil || string(b) != want {
				t.Fatalf("%v: %q, %v, want %q", sig, b, err, want)
			}
		}
		expect("ready\n")
		_ = cmd.Process.Signal(sig)
		expect("got\n")
		_ = cmd.Process.Signal(sig)
		if status := exitOf(cmd); status != 128+int(sig) {
			t.Errorf("%v: status %d", sig, status)
		}
		pid := readInt(t, pidFile)
		eventually(t, "the command's end", func() bool { return syscall.Kill(pid, 0) == syscall.ESRCH })
	}
}

// A command that a passed on signal ends gives the client its status.
func TestSignalStatusIsTheCommands(t *testing.T) {
	liveAgent(t)
	cmd := process(t, "exec", "--", "sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done")
	_, out, _ := pipes(t, cmd)
	_, _ = io.ReadFull(out, make([]byte, 6))
	_ = cmd.Process.Signal(syscall.SIGTERM)
	if status := exitOf(cmd); status != 9 {
		t.Errorf("status %d", status)
	}
}

// A reader of the output that goes away ends the client with SIGPIPE, and so the
// command.
func TestClosedStdoutEndsStream(t *testing.T) {
	liveAgent(t)
	cmd := process(t, "exec", "yes")
	_, out, _ := pipes(t, cmd)
	_, _ = io.ReadFull(out, make([]byte, 2))
	_ = out.Close()
	if status := exitOf(cmd); status != 128+int(syscall.SIGPIPE) {
		t.Errorf("status %d", status)
	}
}

// TestLimitsAgainstRealAgent: the flags do what they say.
func TestLimitsAgainstRealAgent(t *testing.T) {
	liveAgent(t)
	for line, want := range map[string]string{
		"exec --umask 027 -- umask":                  "0027\n",
		"exec --umask 027 --max-output 100 -- umask": "0027\n",
		"exec --ulimit nofile=70:80 -- ulimit -n":    "70\n",
	} {
		flags, script, _ := strings.Cut(line, " -- ")
		status, stdout, _ := invoke("", append(strings.Fields(flags), "--", "sh", "-c", script)...)
		if status != 0 || stdout != want {
			t.Errorf("%s: %d %q", line, status, stdout)
		}
	}
	// Its time may be up before it has its trap.
	for timeout := 200 * time.Millisecond; ; timeout *= 4 {
		status, stdout, _ := invoke("", "exec", "--timeout", timeout.String(), "--grace", "1m", "--", "sh", "-c",
			"trap 'echo asked' TERM; sleep 300 & wait; exit 0")
		if status == 0 && stdout == "asked\n" {
			return
		}
		if timeout > patience {
			t.Fatalf("--grace: %d %q", status, stdout)
		}
	}
}
