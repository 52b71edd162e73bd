//go:build linux

package agent

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What requests cost, other than time: numbers that no other load of the machine
// changes. The bounds are what they were when they were set, and some room: who
// makes a request cheaper may lower them, who has to raise one says why.

// A cost is a request on a connection that is kept, and what it may take.
type cost struct {
	name        string
	request     object
	calls       float64 // system calls of the agent, those of Go's scheduler left out; 0: not counted
	allocations float64
}

// costs are for requests about a file of 1 KiB. The calls of exec are not counted: strace
// that leaves while a child of vfork(2) has not executed hangs, with both.
func costs(path string) []cost {
	kept := func(o object) object { o["keep_alive"] = true; return o }
	return []cost{
		{"ping", kept(object{"operation": "ping"}), 3, 22},
		{"exec", kept(object{"operation": "exec", "cmd": []string{"/bin/true"}}), 0, 92},
		{"file_write", kept(object{"operation": "file_write", "path": path, "content": base64Of(make([]byte, 1<<10))}), 20, 68},
		{"file_read", kept(object{"operation": "file_read", "path": path}), 10, 42},
	}
}

// An asker sends a request again and again, and takes no memory for it.
type asker struct {
	t       testing.TB
	conn    io.ReadWriter
	request []byte
	buf     [8 << 10]byte
}

func (c *asker) ask() {
	if _, err := c.conn.Write(c.request); err != nil {
		c.t.Error(err)
		return
	}
	for read := 0; ; {
		n, err := c.conn.Read(c.buf[read:])
		if read += n; err != nil {
			c.t.Error(err)
			return
		}
		if c.buf[read-1] == '\n' {
			if !strings.HasPrefix(string(c.buf[:16]), `{"success":true,`) {
				c.t.Errorf("%s", c.buf[:read])
			}
			return
		}
	}
}

func TestAllocationsPerRequest(t *testing.T) {
	if raceEnabled() {
		t.Skip("not under the race detector, which allocates too")
	}
	l := serve(t, testLimits())
	for _, c := range costs(filepath.Join(t.TempDir(), "f")) {
		if c.name == "file_read" {
			run(t, l.socket, sh("head -c 1024 /dev/zero >"+c.request["path"].(string)))
		}
		t.Run(c.name, func(t *testing.T) {
			asker := &asker{t: t, conn: dial(t, l.socket), request: []byte(c.request.line())}
			got := testing.AllocsPerRun(100, asker.ask)
			t.Logf("%.0f allocations", got)
			if got > c.allocations {
				t.Errorf("%.0f allocations, want at most %.0f", got, c.allocations)
			}
		})
	}
}

// TestSystemCallsPerRequest counts them with strace.
func TestSystemCallsPerRequest(t *testing.T) {
	if raceEnabled() {
		t.Skip("not under the race detector, which makes some too")
	}
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("needs strace: make deps-test installs it")
	}
	a := spawn(t, prepare{}, nil)
	const requests = 50
	for _, c := range costs(filepath.Join(filepath.Dir(a.socket), "f")) {
		if c.calls == 0 {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			asker := &asker{t: t, conn: dial(t, a.socket), request: []byte(c.request.line())}
			asker.ask() // the first of a kind does more
			trace := startTrace(t, strace, a.Process.Pid)
			for range requests {
				asker.ask()
			}
			byName := trace.end()
			sum := 0
			for _, n := range byName {
				sum += n
			}
			got := float64(sum) / requests
			t.Logf("%.1f calls: %v of %d requests", got, byName, requests)
			if got > c.calls || got < 2 {
				t.Errorf("%.1f system calls, want 2 to %.0f", got, c.calls)
			}
		})
	}
}

// A trace is strace, attached to all threads of an agent.
type trace struct {
	t    *testing.T
	cmd  *exec.Cmd
	file string
	pid  int
}

func startTrace(t *testing.T, strace string, pid int) *trace {
	t.Helper()
	tr := &trace{t: t, file: filepath.Join(t.TempDir(), "trace"), pid: pid}
	tr.cmd = exec.Command(strace, "-f", "-o", tr.file, "-p", strconv.Itoa(pid))
	says, err := tr.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(says).ReadString('\n')
	if !strings.Contains(line, "attached") {
		_ = tr.cmd.Wait()
		t.Skip("strace can't attach here: ", line)
	}
	go func() { _, _ = io.Copy(io.Discard, says) }()
	return tr
}

// scheduling are the calls of Go's scheduler, which come as they may.
var scheduling = regexp.MustCompile(`^(futex|nanosleep|epoll_p?wait|sched_yield|tgkill|getpid|rt_sig.*|madvise|mmap|munmap|restart_syscall|sigaltstack|gettid|clone|mprotect|prctl|sched_getaffinity)$`)

var traced = regexp.MustCompile(`^(\d+) +([a-z0-9_]+)\(`)

// end detaches and counts the agent's calls: not those of its commands.
func (tr *trace) end() map[string]int {
	tr.t.Helper()
	_ = tr.cmd.Process.Signal(unix.SIGINT)
	_ = tr.cmd.Wait()
	threads := map[string]bool{}
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", tr.pid))
	if err != nil {
		tr.t.Fatal(err)
	}
	for _, task := range tasks {
		threads[task.Name()] = true
	}
	b, err := os.ReadFile(tr.file)
	if err != nil {
		tr.t.Fatal(err)
	}
	count := map[string]int{}
	for line := range strings.Lines(string(b)) {
		m := traced.FindStringSubmatch(line)
		if m != nil && threads[m[1]] && !scheduling.MatchString(m[2]) {
			count[m[2]]++
		}
	}
	return count
}

// TestMemoryOfOneFile: one client with a file of 100 MiB, each way, takes little more
// than an agent that idles.
func TestMemoryOfOneFile(t *testing.T) {
	if raceEnabled() {
		t.Skip("not under the race detector, whose memory is not the agent's")
	}
	const size, most = int64(100<<20) / 3 * 3, 6 << 10
	a := spawn(t, prepare{}, nil)
	path := filepath.Join(filepath.Dir(a.socket), "f")
	call(t, a.socket, object{"operation": "ping"})
	time.Sleep(100 * time.Millisecond)
	idle := a.kilobytes(t, "VmRSS")
	// The peak of a start is not that of the file; see clear_refs in proc_pid(5).
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", a.Process.Pid), []byte("5"), 0); err != nil {
		t.Fatal(err)
	}
	head, _ := pour(t, a.socket, strings.NewReader(`{"operation":"file_write","path":"`+path+`","content":"`), zeros(size), strings.NewReader("\"}\n"))
	if !strings.Contains(string(head), `"success":true`) {
		t.Errorf("%s", head)
	}
	if _, n := pour(t, a.socket, strings.NewReader(object{"operation": "file_read", "path": path}.line())); n < size/3*4 {
		t.Errorf("%d bytes came back", n)
	}
	above := a.kilobytes(t, "VmHWM") - idle
	t.Logf("%d kB above %d kB", above, idle)
	if above > most {
		t.Errorf("%d kB above what an idle agent takes, want at most %d", above, most)
	}
}
