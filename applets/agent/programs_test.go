//go:build linux

package agent

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/internal/transport"
	"golang.org/x/sys/unix"
)

// programs are what the test binary is under another name.
func programs() map[string]func() int {
	return map[string]func() int{
		"hf-agent": agentProgram, "hf-connect": connectProgram,
		"hf-confined": confinedProgram, "hf-touch": touchProgram, ShimName: func() int { return Shim(os.Args, os.Stdin, os.Stdout, os.Stderr) },
		"hf-cat": catProgram,
	}
}

// endVariable names the file that tells that the tests came to their end.
const endVariable = "HF_TEST_END"

// toTheEnd runs the tests in a process of their own, and fails if they did not come to
// their end: one that became another program by execve(2), as hf-exec does, would end
// all that follow it, with the status of that program.
func toTheEnd(run func() int) int {
	if end := os.Getenv(endVariable); end != "" {
		_ = os.Unsetenv(endVariable)
		status := run()
		if err := os.WriteFile(end, nil, 0o600); err != nil {
			panic(err)
		}
		return status
	}
	if slices.Contains(os.Args, "-test.fuzzworker") {
		return run()
	}
	dir, err := os.MkdirTemp("", "end")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	end := filepath.Join(dir, "end")
	runtime.LockOSThread() // with which Pdeathsig comes
	tests := exec.Command("/proc/self/exe", os.Args[1:]...)
	tests.Args[0] = os.Args[0]
	tests.Env = append(os.Environ(), endVariable+"="+end)
	tests.Stdin, tests.Stdout, tests.Stderr = os.Stdin, os.Stdout, os.Stderr
	tests.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	err = tests.Run()
	if !exists(end) {
		fmt.Fprintf(os.Stderr, "the tests did not come to their end: %v\n", err)
		return 2
	}
	return tests.ProcessState.ExitCode()
}

// prepare is what an agent process finds when it starts, in the environment as
// JSON.
type prepare struct {
	Mounts    []testMount
	Open      int  // limit on open files
	Processes int  // limit on processes, of users other than root
	NoClone3  bool // as before Linux 5.3, and in some containers
}

// A testMount's Data may be "ro" or "bind" instead. One of type fuse is of this
// process's own, and its Source says what is wrong with it.
type testMount struct{ Source, Target, Type, Data string }

const prepareVariable = "HF_TEST_PREPARE"

// agentProgram is hf-agent, after what a test wants prepared.
func agentProgram() int {
	var p prepare
	if err := json.Unmarshal([]byte(os.Getenv(prepareVariable)), &p); err != nil {
		panic(err)
	}
	_ = os.Unsetenv(prepareVariable)
	for _, m := range p.Mounts {
		if m.Type == "fuse" {
			mountFuse(m.Target, m.Source)
			continue
		}
		flags, data := uintptr(0), m.Data
		switch data {
		case "ro":
			flags, data = unix.MS_RDONLY, ""
		case "bind":
			flags, data = unix.MS_BIND, ""
		}
		if err := unix.Mount(m.Source, m.Target, m.Type, flags, data); err != nil {
			fmt.Fprintln(os.Stderr, "mount", m, err)
			return 1
		}
	}
	if p.Open > 0 {
		limit := unix.Rlimit{Cur: uint64(p.Open), Max: uint64(p.Open)}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			panic(err)
		}
	}
	if p.Processes > 0 {
		limit := unix.Rlimit{Cur: uint64(p.Processes), Max: uint64(p.Processes)}
		if err := unix.Setrlimit(unix.RLIMIT_NPROC, &limit); err != nil {
			panic(err)
		}
	}
	if p.NoClone3 {
		if err := forbidClone3(); err != nil {
			panic(err)
		}
	}
	return Run(os.Args, os.Stdin, os.Stdout, os.Stderr)
}

// connectProgram connects to a socket and says what it is given, first of all as
// a user who may open it.
func connectProgram() int {
	c, err := net.Dial("unix", os.Args[1])
	if err != nil {
		fmt.Println(err)
		return 1
	}
	_, _ = io.WriteString(c, os.Args[2])
	_ = c.SetReadDeadline(time.Now().Add(patience))
	_, err = io.Copy(os.Stdout, c)
	if err != nil && !strings.Contains(err.Error(), "reset") {
		return 2
	}
	return 0
}

// A process is an agent in a process of its own.
type process struct {
	*exec.Cmd
	socket string
	log    string // a file
}

// spawn starts an agent with a socket to call it by, unless args say where to
// listen, in a mount namespace of its own if something is to be mounted there.
func spawn(t testing.TB, p prepare, configure func(*exec.Cmd), args ...string) *process {
	t.Helper()
	dir := shortDir(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	a := &process{Cmd: &exec.Cmd{Path: self}, socket: filepath.Join(dir, "s"), log: filepath.Join(dir, "log")}
	prepared, _ := json.Marshal(p)
	a.Args = append([]string{"hf-agent", "-d", "--peers=any"}, args...)
	if !strings.Contains(strings.Join(args, " "), "--listen") {
		a.Args = append(a.Args, "--listen=unix:"+a.socket)
	}
	a.Env = append(os.Environ(), prepareVariable+"="+string(prepared), "HF_SECRET=of the agent")
	a.SysProcAttr = &syscall.SysProcAttr{}
	if len(p.Mounts) > 0 {
		needRoot(t)
		a.SysProcAttr.Unshareflags = unix.CLONE_NEWNS
	}
	log, err := os.Create(a.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	a.Stdout, a.Stderr = log, log
	// Not where it would make groups in the machine's own.
	if g := testGroup(t); g.Valid() {
		g, err := g.Child("agent")
		if err != nil {
			t.Fatal(err)
		}
		d, err := g.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(d)
		a.SysProcAttr.UseCgroupFD, a.SysProcAttr.CgroupFD = true, d
	}
	if configure != nil {
		configure(a.Cmd)
	}
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if a.ProcessState == nil {
			_ = a.Process.Kill()
			_ = a.Wait()
		}
		if t.Failed() {
			b, _ := os.ReadFile(a.log)
			t.Logf("the agent's log:\n%.2000s", b)
		}
	})
	eventually(t, "the agent serves", func() bool {
		b, _ := os.ReadFile(a.log)
		return strings.Contains(string(b), "serving")
	})
	return a
}

// status returns a field of /proc/PID/status.
func (p *process) status(t testing.TB, field string) string {
	t.Helper()
	return statusField(t, readFile(t, fmt.Sprintf("/proc/%d/status", p.Process.Pid)), field)
}

func statusField(t testing.TB, status, field string) string {
	t.Helper()
	for line := range strings.Lines(status) {
		if v, ok := strings.CutPrefix(line, field+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	t.Errorf("no %s in %q", field, status)
	return ""
}

// kilobytes reads a field such as VmHWM.
func (p *process) kilobytes(t testing.TB, field string) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSuffix(p.status(t, field), " kB"))
	if err != nil {
		t.Error(err)
	}
	return n
}

// root is where the agent's filesystem can be looked at.
func (p *process) root() string { return fmt.Sprintf("/proc/%d/root", p.Process.Pid) }

func (p *process) openFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.Process.Pid))
	if err != nil {
		t.Error(err)
	}
	return len(entries)
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

// TestSIGTERM: replies in flight finish, nothing more is started, and the process
// ends. The agent gives all that 2 s, which a machine may spend on something else:
// only a fault spoils three attempts.
func TestSIGTERM(t *testing.T) {
	var err error
	for range 3 {
		if err = endBySIGTERM(t); err == nil {
			return
		}
		t.Log(err)
	}
	t.Error(err)
}

func endBySIGTERM(t *testing.T) error {
	a := spawn(t, prepare{}, nil)
	running := keep(t, a.socket)
	running.send(sh(`trap 'echo ended; exit 5' TERM; echo started > ` + a.socket + `.started; sleep 60 & wait`).line())
	idle := keep(t, a.socket)
	half := keep(t, a.socket) // has begun a request
	half.send(`{"operation":`)
	eventually(t, "the command runs", func() bool { _, err := os.Stat(a.socket + ".started"); return err == nil })
	awaitRead(t, half)

	begin := time.Now()
	if err := a.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if line, _ := running.lines.ReadString('\n'); !strings.Contains(line, `"exit_code":5,`) || !strings.Contains(line, `"stdout":"ended\n"`) {
		return fmt.Errorf("the running command: %q", line)
	}
	if n, err := idle.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		return fmt.Errorf("the idle connection: %d, %w", n, err)
	}
	_, _ = io.WriteString(half, "\"exec\",\"cmd\":[\"true\"]}\n")
	if line, _ := half.lines.ReadString('\n'); !strings.Contains(line, `"ESHUTDOWN"`) || !strings.Contains(line, `"shutting down"`) {
		return fmt.Errorf("a command after SIGTERM: %q", line)
	}
	if err := a.Wait(); err != nil {
		t.Errorf("the agent: %v", err)
	}
	if took := time.Since(begin); took > 3*time.Second {
		return fmt.Errorf("took %v", took)
	}
	return nil
}

// awaitRead waits until the agent has read all that was sent.
func awaitRead(t *testing.T, c *session) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the request is read", func() bool {
		unread := -1
		_ = raw.Control(func(fd uintptr) { unread, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
		if err != nil {
			t.Fatal(err)
		}
		return unread == 0
	})
	time.Sleep(50 * time.Millisecond) // and noted
}

// TestChildIsClean: whatever the agent itself has or ignores, a command starts as
// from a fresh login. (FAULTS.md 1.20)
func TestChildIsClean(t *testing.T) {
	stray, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer stray.Close()
	a := spawn(t, prepare{}, func(c *exec.Cmd) {
		// A shell ignores signals on behalf of what it executes.
		c.Args = append([]string{"sh", "-c", `trap '' HUP INT QUIT TSTP TTIN TTOU USR1 PIPE CHLD; exec -a hf-agent "$0" "$@"`, c.Path}, c.Args[1:]...)
		c.Path = "/bin/bash"
		c.ExtraFiles = []*os.File{stray, stray}
	})
	r := run(t, a.socket, object{"cmd": []string{"cat", "/proc/self/status"}})
	for _, field := range []string{"SigBlk", "SigIgn", "SigCgt"} {
		if v := statusField(t, r.Data.Stdout, field); v != "0000000000000000" {
			t.Errorf("%s: %s", field, v)
		}
	}
	for _, row := range []struct{ name, script, want string }{
		{"open files", "ls /proc/self/fd", "0\n1\n2\n3\n"}, // 3 is the directory that ls reads
		{"stdin", "readlink /proc/self/fd/0", "/dev/null\n"},
		{"umask", "umask", "0022\n"},
		{"working directory", "pwd", "/\n"},
		{"environment", "exec env -u PWD -u OLDPWD -u SHLVL -u _ env | sort", "HOME=/root\nPATH=/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin\nTERM=linux\n"},
		{"session", "set -- $(cat /proc/self/stat); test $6 = $$ && echo its own", "its own\n"},
		{"soft limit of open files", "test $(ulimit -n) -le " + softNOFILE(t) + " && echo as the agent had it", "as the agent had it\n"},
	} {
		if r := run(t, a.socket, sh(row.script)); r.Data.Stdout != row.want || r.Data.Stderr != "" {
			t.Errorf("%s: %q %q, want %q", row.name, r.Data.Stdout, r.Data.Stderr, row.want)
		}
	}
}

func softNOFILE(t *testing.T) string {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		t.Fatal(err)
	}
	return strconv.FormatUint(r.Cur, 10)
}

// TestBlockedSignals: a parent that blocks signals has no say in the commands.
func TestBlockedSignals(t *testing.T) {
	env, err := exec.LookPath("env")
	if err != nil || exec.Command(env, "--block-signal=USR1", "true").Run() != nil {
		t.Skip("needs an env that can block signals (coreutils 8.31)")
	}
	a := spawn(t, prepare{}, func(c *exec.Cmd) {
		c.Args = append([]string{"env", "--block-signal=USR1,TERM", "bash", "-c", `exec -a hf-agent "$0" "$@"`, c.Path}, c.Args[1:]...)
		c.Path = env
	})
	r := run(t, a.socket, object{"cmd": []string{"cat", "/proc/self/status"}})
	if v := statusField(t, r.Data.Stdout, "SigBlk"); v != "0000000000000000" {
		t.Errorf("SigBlk: %s", v)
	}
}

// TestOOMScore: the OOM killer takes commands before the agent.
func TestOOMScore(t *testing.T) {
	a := spawn(t, prepare{}, nil)
	score := "-900"
	if os.WriteFile(oomScore(a.Process.Pid), []byte(score), 0) != nil {
		score = "300" // takes no capability, and would be inherited as well
		if err := os.WriteFile(oomScore(a.Process.Pid), []byte(score), 0); err != nil {
			t.Fatal(err)
		}
	}
	for range 50 {
		r := run(t, a.socket, sh("until grep -qx 0 /proc/$$/oom_score_adj; do sleep 0.01; done; cat /proc/self/oom_score_adj; cat /proc/$$/oom_score_adj"))
		if r.Data.Stdout != "0\n0\n" {
			t.Fatalf("a command's: %q", r.Data.Stdout)
		}
	}
	if own := readFile(t, oomScore(a.Process.Pid)); own != score+"\n" {
		t.Errorf("the agent's: %q", own)
	}
}

// TestSocketActivation: listeners come from systemd as sd_listen_fds(3) says, and
// only if they are meant for this process.
func TestSocketActivation(t *testing.T) {
	for _, row := range []struct {
		name, pid string
		taken     bool
	}{
		{"for the agent", "$$", true},
		{"for nobody in particular, as from PID 1", "", true},
		{"for another process", "1", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			handed := filepath.Join(shortDir(t), "handed")
			f, err := transport.Listen(transport.Address{Path: handed})
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			a := spawn(t, prepare{}, func(c *exec.Cmd) {
				set := "LISTEN_PID=" + row.pid
				if row.pid == "" {
					set = "unset LISTEN_PID"
				}
				c.Args = append([]string{"sh", "-c", "export LISTEN_FDS=1 LISTEN_FDNAMES=x LISTEN_PID; " + set + `; exec -a hf-agent "$0" "$@"`, c.Path}, c.Args[1:]...)
				c.Path = "/bin/bash"
				c.ExtraFiles = []*os.File{f}
			})
			f.Close()
			serves := func(socket string) bool {
				c, err := net.Dial("unix", socket)
				if err != nil {
					return false
				}
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(patience))
				_, _ = io.WriteString(c, execTrue)
				_, err = bufio.NewReader(c).ReadString('\n')
				return err == nil
			}
			if own := serves(a.socket); own == row.taken {
				t.Errorf("listens where its arguments say: %v", own)
			}
			if !row.taken {
				return // in the backlog of a socket that is not the agent's
			}
			if !serves(handed) {
				t.Error("does not serve the socket that it was handed")
			}
			r := run(t, handed, sh("ls /proc/self/fd; env | grep LISTEN"))
			if r.Data.Stdout != "0\n1\n2\n3\n" {
				t.Errorf("a command's files and environment: %q", r.Data.Stdout)
			}
		})
	}
}

// TestSmallMemory: a 100 MiB file passes through 16 MB, in both directions, and so
// does half as much output.
// (FAULTS.md 1.21)
func TestSmallMemory(t *testing.T) {
	a := spawn(t, prepare{}, nil)
	path := filepath.Join(filepath.Dir(a.socket), "big")
	size := int64(100 << 20)
	if raceEnabled() {
		size = 4 << 20
	}
	t.Logf("before: VmHWM %d kB", a.kilobytes(t, "VmHWM"))
	sum := writeRandom(t, a.socket, path, size)
	if got, n := checksumFile(t, path); got != sum || n != size {
		t.Errorf("the file: %d bytes, checksum right: %v", n, got == sum)
	}
	t.Logf("after file_write: VmHWM %d kB", a.kilobytes(t, "VmHWM"))
	if got, n := readBack(t, a.socket, path); got != sum || n != size {
		t.Errorf("file_read: %d bytes, checksum right: %v", n, got == sum)
	}
	t.Logf("after file_read: VmHWM %d kB", a.kilobytes(t, "VmHWM"))
	request := sh(fmt.Sprintf("yes 0123456789abcde | head -c %d", size/2+1))
	request["max_output"] = size / 2
	r := run(t, a.socket, request)
	if int64(len(r.Data.StdoutBase64)) != size/2 || !r.Data.Truncated {
		t.Errorf("%d bytes of output, truncated %v", len(r.Data.StdoutBase64), r.Data.Truncated)
	}
	t.Logf("after %d MiB of output: VmHWM %d kB", size>>21, a.kilobytes(t, "VmHWM"))
	if peak := a.kilobytes(t, "VmHWM"); peak > 16<<10 && !raceEnabled() {
		t.Errorf("the agent's peak is %d kB", peak)
	}
	if n := len(readDir(t, filepath.Dir(a.socket))); n != 3 { // s, log, big
		t.Errorf("%d files are left", n)
	}
}

func readDir(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Error(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// oomScore is a process's file; see proc(5).
func oomScore(pid int) string { return fmt.Sprintf("/proc/%d/oom_score_adj", pid) }
