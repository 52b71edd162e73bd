//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hyperfleet/init/applets"
	"github.com/hyperfleet/init/applets/nsguest"
	"golang.org/x/sys/unix"
)

// stage1Name is what this program is called as the first PID 1 of a machine.
const stage1Name = "hf-bench-stage1"

// guestSocket is one that this machine itself has not: until the guest has its own
// root, its paths are this machine's.
const guestSocket = "/run/hf-bench-guest.sock"

// A stage is how a machine is prepared.
type stage struct {
	Root  string            // an empty directory, to mount on
	Files map[string]string // where the guest has a program, and where this machine has it
	Argv  []string          // what PID 1 becomes
}

// stage1 is PID 1 until it is the program that is to be booted.
func stage1(config string, stderr io.Writer) int {
	if !nsguest.Inside() {
		fmt.Fprintln(stderr, "not in a namespace")
		return 99
	}
	unix.Umask(0o022)
	var s stage
	err := json.Unmarshal([]byte(config), &s)
	if err == nil {
		err = nsguest.Enter(s.Root, s.fill)
	}
	if err == nil {
		err = nsguest.Starting()
	}
	if err == nil {
		err = unix.Exec(s.Argv[0], s.Argv, nil)
	}
	fmt.Fprintln(stderr, "stage 1:", err)
	return 99
}

func (s *stage) fill() error {
	for to, from := range s.Files {
		if err := nsguest.CopyFile(from, s.Root+to); err != nil {
			return err
		}
	}
	for _, link := range applets.Links() {
		if err := os.Symlink(applets.Binary, s.Root+link); err != nil {
			return err
		}
	}
	return nsguest.Null(s.Root)
}

// A machine is PID 1 in namespaces of its own, and what is below it.
type machine struct {
	cmd   *exec.Cmd
	root  string
	group string // its cgroup; "" for none
	log   bytes.Buffer
	wait  func() error // for the end of PID 1; more than once, too
}

// boot starts one, and does not wait for it. Its console is out, or else kept.
func boot(files map[string]string, argv []string, out io.Writer) (*machine, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	m := new(machine)
	if m.root, err = os.MkdirTemp("", "hf-bench-"); err != nil {
		return nil, err
	}
	config, err := json.Marshal(stage{m.root, files, argv})
	if err != nil {
		return nil, err
	}
	m.cmd = exec.Command(self, string(config))
	m.cmd.Args[0] = stage1Name
	m.cmd.SysProcAttr = nsguest.Attr()
	m.wait = sync.OnceValue(m.cmd.Wait)
	m.cmd.Stdout, m.cmd.Stderr = &m.log, &m.log
	if out != nil {
		m.cmd.Stdout, m.cmd.Stderr = out, out
	}
	close := m.inGroup()
	err = m.cmd.Start()
	close()
	if err != nil {
		m.end()
		return nil, fmt.Errorf("start PID 1 of namespaces (root is needed): %w", err)
	}
	return m, nil
}

// inGroup gives the machine a cgroup, where there are such: the agent makes one for
// each command, as in a guest.
func (m *machine) inGroup() (done func()) {
	const root = "/sys/fs/cgroup"
	var st unix.Statfs_t
	if unix.Statfs(root, &st) != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
		return func() {}
	}
	dir := filepath.Join(root, filepath.Base(m.root))
	if os.Mkdir(dir, 0o755) != nil {
		return func() {}
	}
	m.group = dir
	f, err := os.Open(dir)
	if err != nil {
		return func() {}
	}
	m.cmd.SysProcAttr.UseCgroupFD, m.cmd.SysProcAttr.CgroupFD = true, int(f.Fd())
	return func() { _ = f.Close() }
}

func (m *machine) pid() int { return m.cmd.Process.Pid }

// end ends the machine and removes what is left of it.
func (m *machine) end() {
	if m.cmd.Process != nil {
		_ = m.cmd.Process.Kill()
		_ = m.wait()
	}
	_ = os.Remove(m.root)
	if m.group == "" {
		return
	}
	var groups []string
	_ = filepath.WalkDir(m.group, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			groups = append(groups, path)
		}
		return nil
	})
	slices.Reverse(groups)
	for _, g := range groups { // its last process may be on its way out
		for range 100 {
			if err := unix.Rmdir(g); !errors.Is(err, unix.EBUSY) {
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// bootTime is what a machine may take until it answers.
const bootTime = time.Minute

// answer waits until the machine listens and until it has answered a ping, and
// returns when, from the start of its PID 1.
func (m *machine) answer() (listening, ping time.Duration, err error) {
	address := nsguest.Path(m.pid(), guestSocket)
	var c *conn
	for deadline := time.Now().Add(bootTime); ; time.Sleep(30 * time.Microsecond) {
		if c, err = dial(address, make([]byte, 4<<10)); err == nil {
			break
		}
		if time.Now().After(deadline) {
			return 0, 0, fmt.Errorf("the machine does not come up: %w\n%s", err, m.log.String())
		}
	}
	defer c.Close()
	listening = nsguest.Clock()
	if err := c.call(pingOnce); err != nil {
		return 0, 0, err
	}
	ping = nsguest.Clock()
	began, err := nsguest.Started(m.pid())
	return listening - began, ping - began, err
}

// initArgv starts the init as these machines have it.
func initArgv(more ...string) []string {
	return append([]string{applets.Binary, "--listen=unix:" + guestSocket}, more...)
}

// floorArgv starts the floor, which mounts what the init mounts in namespaces: a
// devtmpfs would be this machine's own.
func floorArgv() []string {
	argv := []string{guestFloor, "pid1", "unix:" + guestSocket}
	for _, m := range applets.MountPoints() {
		source, fstype := m.Source, m.FSType
		if fstype == "devtmpfs" {
			source, fstype = "tmpfs", "tmpfs"
		}
		argv = append(argv, source, m.Target, fstype, fmt.Sprint(m.Flags), m.Data)
	}
	return argv
}

// powerOff asks PID 1 to end the machine and returns how long it took.
func (m *machine) powerOff() (time.Duration, error) {
	began := time.Now()
	if err := m.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return 0, err
	}
	err := m.wait()
	if status := m.cmd.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != unix.SIGINT {
		return 0, fmt.Errorf("the machine did not power off: %w\n%s", err, strings.TrimSpace(m.log.String()))
	}
	return time.Since(began), nil
}
