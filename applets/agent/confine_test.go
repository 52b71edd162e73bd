//go:build linux

package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/hyperfleet/init/applets/internal/agenttest"
	"golang.org/x/sys/unix"
)

// A confined is an agent that can do no harm, whatever it is asked: process 1 of
// namespaces of its own, on a root that can't be written to and holds two
// programs, which only read and write /tmp.
type confined struct {
	cmd    *exec.Cmd
	socket string   // an abstract one: it has no file that could be deleted
	root   *os.Root // of its filesystem
	files  int      // that it has open when it has nothing to do
	log    tail
	count  int
}

// confine starts one and ends it with the test.
func confine(t testing.TB) *confined {
	t.Helper()
	needRoot(t)
	if raceEnabled() {
		t.Skip("the race detector's programs need more than this root has, and a second each")
	}
	a := &confined{socket: fmt.Sprintf("@hf-confined-%d", os.Getpid())}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: a.socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	a.cmd = &exec.Cmd{
		Path:       self,
		Args:       []string{"hf-confined", "--peers=any", "--linger=200ms", "--max-content=1048576"},
		Env:        []string{"LISTEN_FDS=1", "LISTEN_PID=1"},
		Stdout:     &a.log,
		Stderr:     &a.log,
		ExtraFiles: []*os.File{f},
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET,
			Pdeathsig:  syscall.SIGKILL,
		},
	}
	if err := a.cmd.Start(); errors.Is(err, syscall.EPERM) {
		t.Skip("needs namespaces:", err)
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = a.cmd.Process.Kill()
		_ = a.cmd.Wait()
		if a.root != nil {
			_ = a.root.Close()
		}
		if t.Failed() {
			t.Logf("the agent's log:\n%s", a.log.String())
		}
	})
	for range 3 { // what the runtime opens
		if got := say(t, a.socket, pingLine); got != pong {
			t.Fatalf("%q\n%s", got, a.log.String())
		}
	}
	if a.root, err = os.OpenRoot(fmt.Sprintf("/proc/%d/root", a.cmd.Process.Pid)); err != nil {
		t.Fatal(err)
	}
	if _, err := a.root.Stat("etc"); err == nil {
		t.Fatal("the agent is not confined")
	}
	a.files = a.openFiles(t)
	return a
}

func (a *confined) openFiles(t testing.TB) int {
	return len(readDir(t, fmt.Sprintf("/proc/%d/fd", a.cmd.Process.Pid)))
}

// clean empties the agent's /tmp.
func (a *confined) clean(t testing.TB) {
	t.Helper()
	entries, err := fs.ReadDir(a.root.FS(), "tmp")
	for _, e := range entries {
		err = errors.Join(err, a.root.RemoveAll("tmp/"+e.Name()))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// confinedProgram builds the root and is the agent on it.
func confinedProgram() int {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "not in a namespace")
		return 1
	}
	if err := buildRoot(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if _, err := os.Stat("/proc"); err == nil {
		fmt.Fprintln(os.Stderr, "this is still the machine's root")
		return 1
	}
	return Run(os.Args, os.Stdin, os.Stdout, os.Stderr)
}

func buildRoot() error {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer self.Close()
	program := fmt.Sprintf("/proc/self/fd/%d", self.Fd())
	install := map[string]string{"/bin/hf-touch": program, "/bin/hf-cat": program}
	for _, lib := range agenttest.Libraries(program) {
		f, err := os.Open(lib) // now: the root covers what may lead to it
		if err != nil {
			return err
		}
		defer f.Close()
		install[lib] = fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	}
	const root = "/tmp" // which every machine has
	err = errors.Join(
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("root", root, "tmpfs", 0, "size=1m,mode=0755"),
		os.Mkdir(root+"/tmp", 0o777), os.Mkdir(root+"/dev", 0o755),
		unix.Mknod(root+"/dev/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		unix.Mknod(root+"/dev/zero", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))),
		unix.Mkfifo(root+"/dev/fifo", 0o600),
	)
	for name, from := range install {
		err = errors.Join(err, os.MkdirAll(filepath.Dir(root+name), 0o755), os.WriteFile(root+name, nil, 0o755),
			unix.Mount(from, root+name, "", unix.MS_BIND, ""),
			unix.Mount("", root+name, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
	}
	if err != nil {
		return fmt.Errorf("build the root: %w", err)
	}
	err = errors.Join(os.Chdir(root), unix.PivotRoot(".", "."), unix.Unmount(".", unix.MNT_DETACH), os.Chdir("/"))
	if err != nil {
		return fmt.Errorf("enter the root: %w", err)
	}
	return errors.Join(
		unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, ""),
		unix.Mount("tmp", "/tmp", "tmpfs", unix.MS_NODEV|unix.MS_NOEXEC, "size=8m,nr_inodes=500,mode=1777"))
}

// touchProgram makes the files that it is given in /tmp.
func touchProgram() int {
	for _, name := range os.Args[1:] {
		if dir, base := filepath.Split(name); dir == "/tmp/" && base != "" {
			_ = os.WriteFile(name, nil, 0o600)
		}
	}
	return 0
}

// catProgram copies its input to both outputs.
func catProgram() int {
	_, _ = io.Copy(io.MultiWriter(os.Stdout, os.Stderr), os.Stdin)
	return len(os.Args) - 1
}

// A tail keeps the end of what is written to it.
type tail struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *tail) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.b.Len() > 64<<10 {
		l.b.Next(32 << 10)
	}
	return l.b.Write(p)
}

func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestConfined: the agent that fuzzing talks to does what it is asked, so that
// what it does not do means something; and can't do more.
func TestConfined(t *testing.T) {
	a := confine(t)
	for _, row := range []struct{ request, says string }{
		{a.witness(0, "/tmp/a"), `"exit_code":0`},
		{a.witness(1, "/tmp/b"), `"bytes_written":1`},
		{`{"operation":"exec","cmd":["hf-cat","x"],"stdin":"QUJD"}`, `"exit_code":1,"stdout":"ABC","stdout_base64":"QUJD","stderr":"ABC"`},
		{`{"operation":"exec","cmd":["sh","-c","echo"]}`, `"exit_code":127`},
		{`{"operation":"exec","cmd":["hf-touch","/dev/x"]}`, `"exit_code":0`},
		{`{"operation":"file_read","path":"/etc/passwd"}`, `"code":"ENOENT"`},
		{`{"operation":"file_write","path":"/x","content":""}`, `"code":"EROFS"`},
		{`{"operation":"file_write","path":"/bin/hf-cat","content":"","append":true}`, `"code":"E`},
		{`{"operation":"file_delete","path":"/bin/hf-cat"}`, `"code":"E`},
		{`{"operation":"file_stat","path":"/proc/self"}`, `"code":"ENOENT"`},
	} {
		if got := say(t, a.socket, row.request+"\n"); !strings.Contains(got, row.says) {
			t.Errorf("%s: %s", row.request, got)
		}
	}
	for _, lib := range agenttest.Libraries("/proc/self/exe") {
		if r := put(t, a.socket, lib, "", "append", "true"); r.Code != "EROFS" && r.Code != "ETXTBSY" {
			t.Errorf("%s, which is the machine's: %+v", lib, r)
		}
	}
	for _, name := range []string{"tmp/a", "tmp/b"} {
		if _, err := a.root.Stat(name); err != nil {
			t.Error(err)
		}
	}
	a.clean(t)
	if left, err := fs.ReadDir(a.root.FS(), "tmp"); len(left) > 0 || err != nil {
		t.Errorf("left %v, %v", left, err)
	}
}
