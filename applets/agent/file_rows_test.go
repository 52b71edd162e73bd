//go:build linux

package agent

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// These are the rows of FAULTS.md 2, "Files", that no other test of this package
// has; applets/FAULTS.md tells where the others are.

// TestSparse: a file of 1 TiB without content is refused by its size, and costs no
// memory. (FAULTS.md 2: sparse 1 TiB)
func TestSparse(t *testing.T) {
	a := spawn(t, prepare{}, nil)
	path := filepath.Join(t.TempDir(), "sparse")
	if err := cmp.Or(os.WriteFile(path, nil, 0o600), os.Truncate(path, 1<<40)); err != nil {
		t.Fatal(err)
	}
	before := a.kilobytes(t, "VmPeak")
	for range 10 {
		if r := get(t, a.socket, path); r.Code != "EFBIG" || !strings.Contains(r.Error, "1099511627776 bytes") {
			t.Errorf("%+v", r)
		}
	}
	if grown := a.kilobytes(t, "VmPeak") - before; grown > 64<<20 && !raceEnabled() {
		t.Errorf("the agent's address space has grown by %d kB", grown)
	}
	if r := call(t, a.socket, object{"operation": "file_stat", "path": path}); r.Data.Size != 1<<40 {
		t.Errorf("%+v", r)
	}
}

// TestFaultyFilesystem: an error of a write, and one that only close(2) tells, is
// the client's; the old content is still there and no temporary file is.
// (FAULTS.md 1.17; FAULTS.md 2: EDQUOT)
func TestFaultyFilesystem(t *testing.T) {
	needFuse(t)
	for _, row := range []struct{ fault, code string }{{fuseQuota, "EDQUOT"}, {fuseCloses, "EIO"}} {
		dir := shortDir(t)
		a := spawn(t, prepare{Mounts: []testMount{{row.fault, dir, "fuse", ""}}}, nil)
		if r := put(t, a.socket, dir+"/f", "old", "mode", "640"); !r.Success {
			t.Fatalf("%s: %+v", row.fault, r)
		}
		for _, size := range []int{60 << 10, 120 << 10, 1 << 20} { // in memory at first, and not
			for _, name := range []string{"f", "g"} {
				r := put(t, a.socket, dir+"/"+name, strings.Repeat("x", size))
				if fits := row.fault == fuseQuota && size < 100<<10; !fits && r.Code != row.code {
					t.Errorf("%s: %d bytes: %+v", row.fault, size, r)
				} else if fits {
					_ = put(t, a.socket, dir+"/f", "old")
					call(t, a.socket, object{"operation": "file_delete", "path": dir + "/g"})
				}
				if got := get(t, a.socket, dir+"/f"); string(got.Data.Content) != "old" {
					t.Errorf("%s: %d bytes to %s: f holds %d", row.fault, size, name, len(got.Data.Content))
				}
				if names := get(t, a.socket, dir+"/"+fuseNames); string(names.Data.Content) != "f names" {
					t.Errorf("%s: %d bytes to %s: there are %q, %+v", row.fault, size, name, names.Data.Content, names)
				}
			}
		}
	}
}

func needFuse(t *testing.T) {
	t.Helper()
	needRoot(t)
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skip("needs /dev/fuse:", err)
	}
	_ = unix.Close(fd)
}

// TestHungFilesystem: requests that wait for a filesystem that does not answer
// hold up nobody else, not even those that start commands.
// (FAULTS.md 2: hung FUSE)
func TestHungFilesystem(t *testing.T) {
	needFuse(t)
	dir := shortDir(t)
	a := spawn(t, prepare{Mounts: []testMount{{fuseHangs, dir, "fuse", ""}}}, nil)
	var hung []*session
	for _, request := range []object{
		{"operation": "file_stat", "path": dir + "/x"}, {"operation": "file_read", "path": dir + "/x"}, {"operation": "file_delete", "path": dir + "/x"},
		{"operation": "file_write", "path": dir + "/x", "content": "QUJD"}, {"operation": "file_write", "path": dir + "/x", "content": "QUJD", "append": true},
		{"operation": "exec", "cmd": []string{dir + "/x"}}, {"operation": "exec", "cmd": []string{"x"}, "env": map[string]string{"PATH": dir}},
		{"operation": "exec", "cmd": []string{"true"}, "cwd": dir + "/x"},
	} {
		for range 4 {
			s := keep(t, a.socket)
			s.send(request.line())
			hung = append(hung, s)
		}
	}
	time.Sleep(200 * time.Millisecond) // for them to hang
	other := filepath.Join(shortDir(t), "f")
	for range 20 {
		if got := say(t, a.socket, pingLine); got != pong {
			t.Fatalf("%q", got)
		}
		if r := run(t, a.socket, sh("echo ok")); r.Data.Stdout != "ok\n" {
			t.Fatalf("%+v", r)
		}
		if r := put(t, a.socket, other, "x"); !r.Success {
			t.Fatalf("%+v", r)
		}
	}
	for _, s := range hung {
		_ = s.SetReadDeadline(time.Now().Add(time.Millisecond))
		if line, err := s.lines.ReadString('\n'); err == nil {
			t.Errorf("did not hang: %s", line)
		}
	}
}

// TestKilledAmidWrite: the agent that dies amid a file_write leaves the old file,
// and nothing else. (FAULTS.md 2: writer killed midway)
func TestKilledAmidWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for _, size := range []int{10 << 10, 1 << 20} {
		a := spawn(t, prepare{}, nil)
		if r := put(t, a.socket, path, "old"); !r.Success {
			t.Fatalf("%+v", r)
		}
		line := object{"operation": "file_write", "path": path}.line()
		s := keep(t, a.socket)
		s.send(strings.TrimSuffix(line, "}\n") + `,"content":"` + base64Of(make([]byte, size)))
		eventually(t, "the content is on its way", func() bool {
			fds := filepath.Join("/proc", a.status(t, "Pid"), "fd")
			for _, fd := range readDir(t, fds) {
				// Its directory is open, and the file that is to be once it is large.
				link, _ := os.Readlink(filepath.Join(fds, fd))
				if link == dir && size < spoolMemory || strings.HasPrefix(link, dir+"/") {
					return true
				}
			}
			return false
		})
		_ = a.Process.Kill()
		_ = a.Wait()
		if left := readDir(t, dir); len(left) != 1 || readFile(t, path) != "old" {
			t.Errorf("%d bytes: left %v", size, left)
		}
	}
}

// TestRunningProgram: to add to one is ETXTBSY; to replace it is fine, and what
// runs goes on. (FAULTS.md 2: ETXTBSY)
func TestRunningProgram(t *testing.T) {
	l := serve(t, testLimits())
	dir := shortDir(t)
	program := filepath.Join(dir, "sleeper")
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", sleep, program).CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	c := &exec.Cmd{Path: program, Args: []string{"sleep", "600"}} // a multicall binary goes by its name
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	old := readFile(t, program)
	if r := put(t, l.socket, program, "x", "append", "true"); r.Code != "ETXTBSY" || readFile(t, program) != old {
		t.Errorf("to append: %+v", r)
	}
	if r := put(t, l.socket, program, "new"); !r.Success || readFile(t, program) != "new" {
		t.Errorf("to replace: %+v", r)
	}
	if link, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", c.Process.Pid)); err != nil || !strings.HasSuffix(link, "(deleted)") {
		t.Errorf("what runs: %s, %v", link, err)
	}
	_ = c.Process.Kill()
	_ = c.Wait()
	if left := readDir(t, dir); len(left) != 1 {
		t.Errorf("left %v", left)
	}
}

// TestSysctl: the files of /proc/sys and /sys are written in place.
// (FAULTS.md 2: /proc/sys and /sys)
func TestSysctl(t *testing.T) {
	needRoot(t)
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	sys := shortDir(t)
	a := spawn(t, prepare{Mounts: []testMount{{"sysfs", sys, "sysfs", ""}}}, func(c *exec.Cmd) {
		c.SysProcAttr.Cloneflags |= unix.CLONE_NEWUTS | unix.CLONE_NEWNET
	})
	for _, row := range []struct{ path, content, want, code string }{
		{"/proc/sys/kernel/hostname", "fuzzed\n", "fuzzed\n", ""},
		{"/proc/sys/kernel/hostname", "again", "again\n", ""},
		{"/proc/sys/net/ipv4/ip_forward", "1", "1\n", ""},
		{"/proc/sys/net/ipv4/ip_forward", "x", "1\n", "EINVAL"},
		{"/proc/sys/kernel/osrelease", "x", "", "EACCES"},
		{"/proc/sys/kernel/nosuch", "x", "", "ENOENT"},
		{sys + "/class/net/lo/mtu", "1500", "1500\n", ""},
		{sys + "/class/net/lo/mtu", "-1", "1500\n", "E"},
		{sys + "/class/net/lo/address", "x", "00:00:00:00:00:00\n", "E"},
	} {
		if r := put(t, a.socket, row.path, row.content); !strings.HasPrefix(r.Code, row.code) || (r.Code == "") != (row.code == "") {
			t.Errorf("%s to %s: %+v, want %q", row.content, row.path, r, row.code)
		}
		if got := get(t, a.socket, row.path); row.want != "" && string(got.Data.Content) != row.want {
			t.Errorf("%s holds %q, want %q", row.path, got.Data.Content, row.want)
		}
	}
	if now, err := os.Hostname(); now != host || err != nil {
		t.Errorf("the machine's name has become %s, %v", now, err)
	}
}

// TestOversizedLine: it is answered once, and costs no more memory than a line may
// have. (FAULTS.md 2: oversized line)
func TestOversizedLine(t *testing.T) {
	a := spawn(t, prepare{}, nil)
	for _, begin := range []string{`{"operation":"ping","x":"`, `{"operation":"exec","cmd":["true","`, `{"x":[1`} {
		c := keep(t, a.socket)
		go func() {
			_, _ = io.WriteString(c, begin)
			for range 30 {
				if _, err := io.WriteString(c, strings.Repeat("1", 1<<20)); err != nil {
					return
				}
			}
		}()
		line, err := c.lines.ReadString('\n')
		if r := parseReply(t, line); r.Code != "EMSGSIZE" || err != nil {
			t.Errorf("%s…: %+v, %v", begin, r, err)
		}
		_ = c.Close()
	}
	if peak := a.kilobytes(t, "VmHWM"); peak > 64<<10 && !raceEnabled() {
		t.Errorf("the agent's peak is %d kB", peak)
	}
	if got := say(t, a.socket, pingLine); got != pong {
		t.Error(got)
	}
}

// TestInterrupted: a call that a signal interrupts is made again, and signals that
// come while the agent reads and writes are not the end of anything. (FAULTS.md 1.26)
func TestInterrupted(t *testing.T) {
	calls := 0
	n, err := retry(func() (int, error) {
		if calls++; calls < 4 {
			return 0, unix.EINTR
		}
		return 7, nil
	})
	if n != 7 || err != nil || calls != 4 {
		t.Errorf("%d, %v after %d calls", n, err, calls)
	}
	a := spawn(t, prepare{}, nil)
	path := filepath.Join(shortDir(t), "f")
	var sent atomic.Int32
	var done atomic.Bool
	defer done.Store(true)
	go func() {
		for ; !done.Load(); time.Sleep(20 * time.Microsecond) {
			_ = a.Process.Signal([]os.Signal{unix.SIGURG, unix.SIGWINCH, unix.SIGCONT}[sent.Add(1)%3])
		}
	}()
	size := int64(2 << 20)
	if raceEnabled() {
		size >>= 3
	}
	content, _ := io.ReadAll(noise(9, size))
	for rounds := 0; rounds < 2 || sent.Load() < 100; rounds++ {
		if r := put(t, a.socket, path, string(content)); !r.Success {
			t.Fatalf("%+v", r)
		}
		if r := get(t, a.socket, path); string(r.Data.Content) != string(content) {
			t.Fatalf("read %d bytes of %d", len(r.Data.Content), len(content))
		}
		r := run(t, a.socket, object{"cmd": []string{"sh", "-c", "cat; exit 7"}, "stdin": base64Of(content)})
		if r.Data.ExitCode != 7 || string(r.Data.StdoutBase64) != string(content) {
			t.Fatalf("exit code %d, %d bytes of output", r.Data.ExitCode, len(r.Data.StdoutBase64))
		}
	}
}
