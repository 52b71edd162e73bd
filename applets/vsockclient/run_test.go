package vsockclient

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/internal/agenttest"
)

// TestMain makes the test binary the program itself where a test starts it as
// such: signals and closed pipes need a process.
func TestMain(m *testing.M) {
	if os.Getenv("HF_TEST_RUN") != "" {
		os.Exit(Run(os.Args, os.Stdin, os.Stdout, os.Stderr))
	}
	// The client leaves alone what was ignored when it started, and tests send it.
	for _, n := range []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM} {
		if signal.Ignored(n) { // nohup, or a shell's background
			signal.Notify(make(chan os.Signal, 1), n)
		}
	}
	status := m.Run()
	cleanUp()
	os.Exit(status)
}

// invoke runs a command line against an agent.
func invoke(stdin string, args ...string) (status int, stdout, stderr string) {
	var out, errs bytes.Buffer
	status = Run(append([]string{program}, args...), strings.NewReader(stdin), &out, &errs)
	return status, out.String(), errs.String()
}

func agent(t *testing.T) (*agenttest.Agent, string) {
	a := new(agenttest.Agent)
	a.Put("/f", agenttest.File{Content: []byte("a\x00b"), Mode: "4755"})
	return a, agenttest.Listen(t, a.Serve)
}

func TestCommands(t *testing.T) {
	_, sock := agent(t)
	t.Setenv("HF_VSOCK", "unix:"+sock)
	t.Setenv("PASSED_ON", "yes")
	for _, test := range []struct {
		args   string // split at spaces
		stdin  string
		status int
		stdout string
		stderr string
	}{
		{"ping --json", "", 0, `{"success":true,"data":{"pong":true}}` + "\n", ""},
		{"--json wait", "", 0, `{"success":true,"data":{"pong":true}}` + "\n", ""},
		{"read /f", "", 0, "a\x00b", ""},
		{"read -- /f -", "", 0, "a\x00b", ""},
		{"read --json /f", "", 0, `{"success":true,"data":{"content":"YQBi","size":3}}` + "\n", ""},
		{"read /none", "", 1, "", "hf-vsock-client: file_read: path: /none: file does not exist\n"},
		{"stat /f", "", 0, "path      /f\nsize      3\nmode      4755 (urwxr-xr-x)\nmodified  2026-11-23 15:04:05 UTC\n", ""},
		{"write --mode 0600 /g", "content", 0, "", ""},
		{"write -append -- /g -", " more", 0, "", ""},
		{"read /g", "", 0, "content more", ""},
		{"rm /g", "", 0, "", ""},
		{"rm /g", "", 1, "", "hf-vsock-client: file_delete: path: /g: file does not exist\n"},
		{"exec echo -n --json", "", 0, "-n --json\n", ""},
		{"exec -- echo", "", 0, "\n", ""},
		{"exec false", "", 1, "", ""},
		{"exec crash", "", 139, "half", "\xff\x00segfault"},
		{"exec nothing", "", 127, "", "nothing: not found\n"},
		{"exec hungry", "", 137, "", "hf-vsock-client: exec: killed by the guest's kernel, which is out of memory\n"},
		{"exec --timeout 5s slow", "", 137, "", "hf-vsock-client: exec: killed after 5s (--timeout D gives it longer, 0 for ever)\n"},
		{"exec --max-output 4 yes", "", 0, "y\ny\n", "hf-vsock-client: exec: output is cut short (--max-output N keeps more)\n"},
		{"exec -i cat", "in\x00\xff", 0, "in\x00\xff", ""},
		{"exec cat", "in", 0, "", ""},
		{"exec -u", "", 2, "", "hf-vsock-client: exec: flag needs an argument: -u (see hf-vsock-client exec --help)\n"},
		{"exec --json false", "", 1, `{"success":true,"data":{"exit_code":1,"timed_out":false,"oom_killed":false,"truncated":false,"duration_ms":7,"stdout":"","stderr":"","stdout_base64":"","stderr_base64":""}}` + "\n", ""},
		{`raw {"operation":"ping"}`, "", 0, `{"success":true,"data":{"pong":true}}` + "\n", ""},
		{"raw", "\n{\"operation\":\"ping\"}\nignored", 0, `{"success":true,"data":{"pong":true}}` + "\n", ""},
		{"raw --json {}", "", 1, `{"success":false,"error":"operation: is missing","code":"EINVAL"}` + "\n", ""},
		{"raw", "", 2, "", "hf-vsock-client: raw: there is no request\n"},
		{"--version", "", 0, "hf-vsock-client devel\n", ""},
		{"exec --version", "", 0, "hf-vsock-client devel\n", ""},

		{"", "", 2, "", "hf-vsock-client: which command? (see hf-vsock-client --help)\n"},
		{"nope", "", 2, "", "hf-vsock-client: nope: no such command (see hf-vsock-client --help)\n"},
		{"--nope", "", 2, "", "hf-vsock-client: flag provided but not defined: -nope (see hf-vsock-client --help)\n"},
		{"ping --nope", "", 2, "", "hf-vsock-client: ping: flag provided but not defined: -nope (see hf-vsock-client ping --help)\n"},
		{"ping x", "", 2, "", "hf-vsock-client: ping: \"x\" is one operand too many (see hf-vsock-client ping --help)\n"},
		{"stat", "", 2, "", "hf-vsock-client: stat: too few operands: want PATH (see hf-vsock-client stat --help)\n"},
		{"exec", "", 2, "", "hf-vsock-client: exec: too few operands: want [--] CMD [ARGS…] (see hf-vsock-client exec --help)\n"},
		{"wait --timeout -1s", "", 2, "", "hf-vsock-client: wait: --timeout must not be negative (see hf-vsock-client wait --help)\n"},
		{"--cid 3 --uds /x ping", "", 2, "", "hf-vsock-client: only one of --cid, --uds and --unix can be given\n"},
		{"--unix /x ping --port 52", "", 2, "", "hf-vsock-client: --port: unix:/x has no ports\n"},
		{"--uds /x ping --port 0", "", 2, "", "hf-vsock-client: --port: \"0\" is not the number of a port\n"},
		{"--cid 3:4 ping", "", 2, "", "hf-vsock-client: --cid: \"3:4\" is not a number\n"},
		{"ping --unix /none", "", 1, "", "hf-vsock-client: ping: /none: no such file or directory: is the agent running, and this the path of its socket?\n"},
		{"exec --unix /none x", "", 125, "", "hf-vsock-client: exec: /none: no such file or directory: is the agent running, and this the path of its socket?\n"},
	} {
		status, stdout, stderr := invoke(test.stdin, strings.Fields(test.args)...)
		if status != test.status || stdout != test.stdout || stderr != test.stderr {
			t.Errorf("%s:\n got %d, %q, %q\nwant %d, %q, %q", test.args, status, stdout, stderr, test.status, test.stdout, test.stderr)
		}
	}
}

func TestUsageErrorsAreOneLine(t *testing.T) {
	t.Setenv("HF_VSOCK", "unix:/none")
	for _, args := range [][]string{
		{"--cid", "x", "ping"}, {"--cid", "4294967295", "ping"}, {"--port", "x\ny", "ping"}, {"exec", "-e", "=x", "ls"},
		{"exec", "--max-output", "0", "ls"}, {"exec", "-u", "", "ls"}, {"exec", "--timeout", "3", "ls"}, {"write", "--mode", "9", "/x"}, {"write", "--mode", "10000", "/x"},
		{"write", "--mode", "", "/x"}, {"read", "a", "b", "c"}, {"bad\ncommand"},
		{"--cid", "", "ping"}, {"--uds=", "ping"}, {"ping", "--unix", ""}, {"--port=", "ping"}, // not the VM of HF_VSOCK
	} {
		status, stdout, stderr := invoke("", args...)
		if status != 2 || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.HasSuffix(stderr, "\n") {
			t.Errorf("%q: %d, %q, %q", args, status, stdout, stderr)
		}
	}
	t.Setenv("HF_VSOCK", "tcp:1.2.3.4")
	if status, _, stderr := invoke("", "ping"); status != 2 || !strings.Contains(stderr, "HF_VSOCK") {
		t.Errorf("%d, %q", status, stderr)
	}
}

func TestHelp(t *testing.T) {
	_, all, _ := invoke("", "--help")
	for _, c := range commands() {
		if !strings.Contains(all, "\n  "+c.name+" ") {
			t.Errorf("--help does not list %s", c.name)
		}
		status, stdout, stderr := invoke("", append(strings.Fields(c.name), "-h")...)
		if status != 0 || stderr != "" || !strings.HasPrefix(stdout, "usage: hf-vsock-client "+c.name+" ") {
			t.Errorf("%s -h: %d, %q, %q", c.name, status, stdout, stderr)
		}
		for _, line := range strings.Split(all+stdout, "\n") {
			if len([]rune(line)) > 80 {
				t.Errorf("%s: more than 80 columns: %q", c.name, line)
			}
		}
	}
}

func TestExecOptions(t *testing.T) {
	a, sock := agent(t)
	t.Setenv("PASSED_ON", "a=b")
	status, _, stderr := invoke("", "exec", "--unix", sock, "-e", "A=1", "-e", "PASSED_ON", "-e", "HF_NOT_SET_ANYWHERE",
		"-w", "/tmp", "-u", "1000:100", "--timeout", "0", "--max-output", "77", "--", "echo", "--", "-x")
	e := a.LastExec()
	if status != 0 || stderr != "" || strings.Join(e.Cmd, " ") != "echo -- -x" || strings.Join(e.Env, " ") != "A=1 PASSED_ON=a=b" ||
		e.Cwd != "/tmp" || e.User != "1000:100" || e.Timeout != 0 || e.MaxOutput != 77 || e.HasStdin {
		t.Errorf("%d, %q, %+v", status, stderr, e)
	}
	for flag, want := range map[string]time.Duration{"--timeout=7s": 7 * time.Second, "--version=false": 0, "--json": 30 * time.Second} {
		if invoke("", "exec", "--unix", sock, flag, "echo"); a.LastExec().Timeout != want {
			t.Errorf("%s: timeout %v", flag, a.LastExec().Timeout)
		}
	}
}

// What a guest says must not command the terminal of the host.
func TestControlCharactersAreNotPrinted(t *testing.T) {
	_, sock := agent(t)
	status, stdout, stderr := invoke("", "--unix", sock, "info")
	want := `agent       v1.0.0, process 42
protocol    1: ping info
guest       hyperfleet, Linux 6.1.0 x86_64
up          1.5s
kills by    cgroup
boot        ready in 3.5 ms
                0.2 ms  mount /proc
                1.0 ms  mount /tmp  failed: no \x1b[31mmemory
`
	if status != 0 || stdout != want || stderr != "" {
		t.Errorf("%d, %q, %s", status, stderr, stdout)
	}
	evil := agenttest.Listen(t, agenttest.Script(`{"success":false,"error":"\u001b]0;owned\u0007\nsecond line"}`+"\n"))
	if status, _, stderr = invoke("", "--unix", evil, "ping"); status != 1 || strings.ContainsAny(strings.TrimSuffix(stderr, "\n"), "\x1b\a\n") {
		t.Errorf("%d, %q", status, stderr)
	}
}

func TestReadReplacesItsFile(t *testing.T) {
	_, sock := agent(t)
	cut := agenttest.Listen(t, func(c net.Conn) {
		_, _ = agenttest.ReadLine(c)
		_, _ = io.WriteString(c, `{"success":true,"data":{"content":"QUJD`)
	})
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	only := func(names ...string) {
		t.Helper()
		entries, _ := os.ReadDir(dir)
		var got []string
		for _, e := range entries {
			got = append(got, e.Name())
		}
		if strings.Join(got, " ") != strings.Join(names, " ") {
			t.Errorf("the directory holds %q, want %q", got, names)
		}
	}
	if status, _, stderr := invoke("", "--unix", cut, "read", "/f", file("x")); status != 1 || !strings.Contains(stderr, "cut short") {
		t.Errorf("%d, %q", status, stderr)
	}
	only()
	if err := os.WriteFile(file("old"), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("old", file("link")); err != nil {
		t.Fatal(err)
	}
	invoke("", "--unix", cut, "read", "/f", file("link"))
	if b, _ := os.ReadFile(file("old")); string(b) != "old" {
		t.Errorf("a failed read left %q", b)
	}
	only("link", "old")
	if status, _, stderr := invoke("", "--unix", sock, "read", "/f", file("link")); status != 0 {
		t.Fatalf("%d, %q", status, stderr)
	}
	b, _ := os.ReadFile(file("old"))
	old, _ := os.Stat(file("old"))
	link, _ := os.Lstat(file("link"))
	if string(b) != "a\x00b" || old.Mode() != 0o600 || link.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("%q, %v, %v", b, old.Mode(), link.Mode())
	}
	only("link", "old")
	for _, name := range []string{os.DevNull, dir, file("none/x")} {
		status, _, stderr := invoke("", "--unix", sock, "read", "/f", name)
		if want := map[bool]int{true: 0, false: 1}[name == os.DevNull]; status != want {
			t.Errorf("%s: %d, %q", name, status, stderr)
		}
	}
	if info, err := os.Stat(os.DevNull); err != nil || info.Mode().IsRegular() {
		t.Fatalf("%s: %v, %v", os.DevNull, info.Mode(), err)
	}
}

func TestWriteFromFile(t *testing.T) {
	a, sock := agent(t)
	name := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(name, []byte("from a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	if status, _, stderr := invoke("not this", "--unix", sock, "write", "/w", name); status != 0 {
		t.Fatalf("%d, %q", status, stderr)
	}
	if f, _ := a.Get("/w"); string(f.Content) != "from a file" || f.Mode != "644" {
		t.Errorf("%q", f)
	}
	for _, bad := range []string{name + "x", filepath.Dir(name)} {
		if status, _, stderr := invoke("", "--unix", sock, "write", "/v", bad); status != 1 || !strings.Contains(stderr, bad) {
			t.Errorf("%s: %d, %q", bad, status, stderr)
		}
	}
	if _, ok := a.Get("/v"); ok {
		t.Error("written from a file that can't be read")
	}
}

// process starts hf-vsock-client as a process of its own.
func process(t testing.TB, args ...string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Args[0] = program
	cmd.Env = append(os.Environ(), "HF_TEST_RUN=1")
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// ^C closes the connection, which is what kills the command in the guest.
func TestSignals(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		asked, gone := make(chan struct{}), make(chan struct{})
		sock := agenttest.Listen(t, func(c net.Conn) {
			_, _ = agenttest.ReadLine(c)
			close(asked)
			agenttest.Linger(c)
			close(gone)
		})
		cmd := process(t, "--unix", sock, "exec", "sleep")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		<-asked
		_ = cmd.Process.Signal(sig)
		err := cmd.Wait()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 128+int(sig) {
			t.Errorf("%v: %v", sig, err)
		}
		<-gone
	}
}

func TestClosedStdout(t *testing.T) {
	a, sock := agent(t)
	a.Put("/big", agenttest.File{Content: bytes.Repeat([]byte("0123456789abcdef"), 1<<16)})
	for _, args := range [][]string{{"read", "/big"}, {"read", "--json", "/big"}} {
		cmd := process(t, append([]string{"--unix", sock}, args...)...)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		_, _ = io.ReadFull(out, make([]byte, 10))
		_ = out.Close()
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		select {
		case err := <-done:
			if err == nil {
				t.Errorf("%q: a lost output passed for success", args)
			}
		case <-time.After(30 * time.Second):
			_ = cmd.Process.Kill()
			t.Errorf("%q hangs", args)
		}
	}
}

func TestTimeLimit(t *testing.T) {
	silent := agenttest.Listen(t, agenttest.Linger)
	status, _, stderr := invoke("", "--unix", silent, "stat", "--timeout", "30ms", "/x")
	if status != 1 || !strings.HasPrefix(stderr, "hf-vsock-client: file_stat: ") || !strings.HasSuffix(stderr, ": no answer within 30ms (--timeout)\n") {
		t.Errorf("%d, %q", status, stderr)
	}
	status, _, stderr = invoke("", "--unix", "/none", "wait", "--timeout", "30ms")
	if status != 1 || !strings.HasPrefix(stderr, "hf-vsock-client: no answer within 30ms (--timeout); the last attempt: ping: /none: ") {
		t.Errorf("%d, %q", status, stderr)
	}
}

func TestClientGivesUpOnBrokenAgent(t *testing.T) {
	hangsUp := agenttest.Listen(t, func(c net.Conn) { _, _ = agenttest.ReadLine(c) })
	status, _, stderr := invoke("", "--unix", hangsUp, "exec", "x")
	if status != 125 || !strings.Contains(stderr, "closed the connection without a reply") {
		t.Errorf("%d, %q", status, stderr)
	}
}
