//go:build linux

package initd_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/internal/cgroup"
	"github.com/hyperfleet/init/applets/nsguest"
	"golang.org/x/sys/unix"
)

// socket is where the agents of guests listen: never on vsock, which has no
// namespaces and would be the machine's own.
const socket = "/run/hyperfleet.sock"

// A guest is init as process 1 of namespaces of its own.
type guest struct {
	t       testing.TB
	pid     int // as the machine sees it
	console console
	died    chan struct{} // closed when process 1 has ended
	status  syscall.WaitStatus
	provoke bool // the agent is made to fail: that it does is no fault
	*client.Client
}

// A console collects what a guest prints.
type console struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.Write(p)
}

func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.String()
}

// start boots a guest and does not wait for it.
func start(t testing.TB, s stage, change func(*exec.Cmd)) *guest {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, for namespaces")
	}
	if s.Binary == "" {
		s.Binary = executable(t)
	}
	s.Root = t.TempDir()
	if !slices.ContainsFunc(s.Args, func(arg string) bool { return strings.HasPrefix(arg, "--listen=unix:/") }) {
		s.Args = append([]string{"--listen=unix:" + socket}, s.Args...)
	}
	config, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{t: t, died: make(chan struct{})}
	cmd := exec.Command(executable(t), string(config))
	cmd.Args[0] = stage1Name
	cmd.Stdout, cmd.Stderr = &g.console, &g.console
	cmd.WaitDelay = patience
	cmd.SysProcAttr = nsguest.Attr()
	group := inGroup(t, cmd.SysProcAttr)
	if change != nil {
		change(cmd)
	}
	if err := cmd.Start(); errors.Is(err, syscall.EPERM) {
		t.Skip("needs namespaces:", err)
	} else if err != nil {
		t.Fatal(err)
	}
	g.pid = cmd.Process.Pid
	g.Client = client.New(client.Unix(g.path(socket)))
	go func() {
		_ = cmd.Wait()
		g.status = cmd.ProcessState.Sys().(syscall.WaitStatus)
		close(g.died)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-g.died
		if group.Valid() {
			if err := group.Remove(); err != nil {
				t.Error(err)
			}
		}
		text := g.console.String()
		if strings.Contains(text, "DATA RACE") || strings.Contains(text, "panic:") && !g.provoke || strings.Contains(text, "stage 1:") {
			t.Error("process 1 or the agent is at fault")
		}
		if t.Failed() {
			t.Logf("console:\n%s", text)
		}
	})
	return g
}

var groups atomic.Int64

// inGroup gives a process that is to be started a cgroup of its own.
func inGroup(t testing.TB, attr *syscall.SysProcAttr) cgroup.Group {
	root, err := cgroup.Root()
	if err != nil {
		return cgroup.Group{}
	}
	group, err := root.Child(fmt.Sprintf("hyperfleet-test-%d-%d", os.Getpid(), groups.Add(1)))
	if err != nil {
		t.Log("no cgroup:", err)
		return cgroup.Group{}
	}
	dir, err := group.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(dir) })
	attr.UseCgroupFD, attr.CgroupFD = true, dir
	return group
}

// boot boots a guest and waits until it is ready.
func boot(t testing.TB, s stage) *guest {
	t.Helper()
	g := start(t, s, nil)
	g.await("ready in ")
	return g
}

// bootWith boots a guest with flags.
func bootWith(t testing.TB, args ...string) *guest {
	t.Helper()
	return boot(t, stage{Args: args})
}

const patience = time.Minute

// eventually waits until f is true.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("in vain: ", what)
		}
	}
}

// await waits until text is on the console.
func (g *guest) await(text string) {
	g.t.Helper()
	for deadline := time.Now().Add(patience); !strings.Contains(g.console.String(), text); time.Sleep(time.Millisecond) {
		select {
		case <-g.died:
			time.Sleep(10 * time.Millisecond)
			if !strings.Contains(g.console.String(), text) {
				g.t.Fatalf("process 1 ended (%s) without %q", g.end(), text)
			}
		default:
			if time.Now().After(deadline) {
				g.t.Fatalf("in vain: %q on the console", text)
			}
		}
	}
}

func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// path is a path of the guest, as the machine reaches it.
func (g *guest) path(name string) string { return nsguest.Path(g.pid, name) }

// read reads a file by way of the agent: what /proc says depends on who asks.
func (g *guest) read(name string) string {
	g.t.Helper()
	var b strings.Builder
	if _, err := g.ReadFile(soon(g.t), name, &b); err != nil {
		g.t.Fatal(err)
	}
	return b.String()
}

func (g *guest) ping() {
	g.t.Helper()
	if err := g.Ping(soon(g.t)); err != nil {
		g.t.Fatal(err)
	}
}

// run runs a command in the guest, which must succeed, and returns its output.
func (g *guest) run(argv ...string) string {
	g.t.Helper()
	var out, errs strings.Builder
	r, err := g.Exec(soon(g.t), client.ExecRequest{Cmd: argv, Stdout: &out, Stderr: &errs})
	if err != nil {
		g.t.Fatal(err)
	}
	if r.ExitCode != 0 {
		g.t.Fatalf("%q: exit code %d: %s%s", argv, r.ExitCode, out.String(), errs.String())
	}
	return out.String()
}

// launch runs a command in the guest and does not wait for its end, but until it
// has said that it is set. The channel gets the outcome.
func (g *guest) launch(argv ...string) <-chan outcome {
	g.t.Helper()
	ready := func() (n int) {
		for _, p := range g.processes() {
			if p.Name == armedName && p.Line == "hfx "+strings.Join(argv, " ") {
				n++
			}
		}
		return n
	}
	before := ready()
	done := make(chan outcome, 1)
	go func() {
		r, err := g.Exec(context.Background(), client.ExecRequest{Cmd: append([]string{"hfx"}, argv...), Timeout: time.Minute})
		done <- outcome{r, err}
	}()
	eventually(g.t, strings.Join(argv, " "), func() bool { return ready() > before })
	return done
}

type outcome struct {
	*client.ExecResult
	err error
}

// processes lists the guest's.
func (g *guest) processes() []nsguest.Process {
	g.t.Helper()
	return nsguest.Processes(g.path("/proc"))
}

// find returns the numbers of the processes whose command line is that.
func (g *guest) find(line string) []int {
	g.t.Helper()
	var pids []int
	for _, p := range g.processes() {
		if p.Line == line {
			pids = append(pids, p.PID)
		}
	}
	return pids
}

// agent returns the agent's number; 0 while there is none.
func (g *guest) agent() int {
	g.t.Helper()
	for _, p := range g.processes() {
		if p.Parent == 1 && (p.Line == "hf-agent" || strings.HasPrefix(p.Line, "hf-agent ")) && p.State != "Z" {
			return p.PID
		}
	}
	return 0
}

// outside returns the number that the machine has for a process of the guest.
func (g *guest) outside(pid int) int {
	g.t.Helper()
	n := g.lookOutside(pid)
	if n == 0 {
		g.t.Fatalf("process %d of the guest is not to be found", pid)
	}
	return n
}

// lookOutside is outside for a process that may have ended: then it returns 0.
func (g *guest) lookOutside(pid int) int {
	dirs, _ := filepath.Glob("/proc/[0-9]*/status")
	ns, _ := os.Readlink(g.path("/proc/1/ns/pid"))
	for _, dir := range dirs {
		b, _ := os.ReadFile(dir)
		_, rest, ok := strings.Cut(string(b), "NSpid:\t")
		numbers, _, _ := strings.Cut(rest, "\n")
		fields := strings.Fields(numbers)
		if !ok || len(fields) < 2 || fields[len(fields)-1] != strconv.Itoa(pid) {
			continue
		}
		if link, _ := os.Readlink(filepath.Dir(dir) + "/ns/pid"); link == ns {
			n, _ := strconv.Atoi(filepath.Base(filepath.Dir(dir)))
			return n
		}
	}
	return 0
}

// signal signals a process of the guest from outside.
func (g *guest) signal(pid int, n unix.Signal) {
	g.t.Helper()
	outside := g.pid
	if pid != 1 {
		outside = g.outside(pid)
	}
	if err := unix.Kill(outside, n); err != nil {
		g.t.Fatal(err)
	}
}

// end waits for the end of process 1 and says how it ended. From outside, a
// power-off is a death by SIGINT and a restart one by SIGHUP; see
// pid_namespaces(7).
func (g *guest) end() string {
	g.t.Helper()
	select {
	case <-g.died:
	case <-time.After(patience):
		g.t.Fatal("process 1 does not end")
	}
	switch {
	case g.status.Signaled() && g.status.Signal() == unix.SIGINT:
		return "power off"
	case g.status.Signaled() && g.status.Signal() == unix.SIGHUP:
		return "restart"
	case g.status.Signaled():
		return g.status.Signal().String()
	}
	return fmt.Sprintf("exit status %d", g.status.ExitStatus())
}

func (g *guest) wantEnd(want string) {
	g.t.Helper()
	if got := g.end(); got != want {
		g.t.Errorf("the guest ended with %s, want %s", got, want)
	}
}

func (g *guest) wantConsole(texts ...string) {
	g.t.Helper()
	for _, text := range texts {
		if !strings.Contains(g.console.String(), text) {
			g.t.Errorf("not on the console: %q", text)
		}
	}
}

func (g *guest) isAlive() bool {
	select {
	case <-g.died:
		return false
	default:
		return true
	}
}
