//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	api "github.com/hyperfleet/init/applets/client"
	"golang.org/x/sys/unix"
)

// modprobe loads a module of the tree root, such as /lib/modules, with those that
// it needs. One that is loaded or built in is fine.
func modprobe(root, name string) error {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return os.NewSyscallError("uname", err)
	}
	dir := filepath.Join(root, unix.ByteSliceToString(uts.Release[:]))
	dep, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(dep)) {
		file, needs, _ := strings.Cut(line, ":")
		if base, _, _ := strings.Cut(filepath.Base(file), "."); base != name {
			continue
		}
		all := append([]string{file}, strings.Fields(needs)...)
		for i := len(all) - 1; i >= 0; i-- { // what is needed stands last
			if err := insert(filepath.Join(dir, all[i])); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("%s/modules.dep: no %s", dir, name)
}

func insert(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && err != unix.EEXIST {
		return &os.PathError{Op: "finit_module", Path: file, Err: err}
	}
	return nil
}

// openPort opens the virtio-serial port that the suite reads where the console is
// what is wrong.
func openPort() (*os.File, error) {
	if err := modprobe("/lib/modules", "virtio_console"); err != nil {
		return nil, err
	}
	var port *os.File
	err := eventually(20*time.Second, func() error {
		names, _ := filepath.Glob("/dev/vport*")
		if len(names) == 0 {
			return errors.New("no virtio-serial port")
		}
		var err error
		port, err = os.OpenFile(names[0], os.O_WRONLY, 0)
		return err
	})
	return port, err
}

// lateModules is where the suite puts the modules that boot must not find.
const lateModules = "/srv/late"

// lateChecks are for a guest whose vsock comes 5 s after its boot.
func lateChecks() []check {
	var first int
	return []check{
		{"vsock comes late", func() (_ string, err error) {
			if first, err = agent(); err != nil {
				return "", err
			}
			time.Sleep(5 * time.Second)
			if plainPing("--cid", "1") == nil {
				return "", errors.New("it is there: this tests nothing")
			}
			return "", modprobe(lateModules, "vsock_loopback")
		}},
		{"the agent serves vsock", func() (string, error) {
			begin := time.Now()
			err := eventually(30*time.Second, func() error { return plainPing("--cid", "1") })
			return fmt.Sprintf("after %.1f s", time.Since(begin).Seconds()), err
		}},
		{"it is the agent that was there", func() (string, error) {
			now, err := agent()
			if err == nil && now != first {
				err = fmt.Errorf("it is %d, and was %d", now, first)
			}
			return "", err
		}},
		// Without the transport to a host, the kernel gives CID 2 to loopback too.
		{"a stranger who calls the guest by the host's CID", func() (string, error) { return strangers(unix.VMADDR_CID_HOST, 200) }},
		{"a low port is not for strangers", func() (string, error) { return asStranger("low-port") }},
	}
}

// stuckChecks are for a guest whose console nobody reads.
func stuckChecks() []check {
	return []check{
		{"the console is stuck", stickConsole},
		// Each of these is a line of the log at -d, of which 512 may wait.
		{"the agent has much to log", func() (string, error) { return strangers(unix.VMADDR_CID_LOCAL, 600) }},
		{"init has much to log", func() (string, error) { return trickle(600) }},
		{"ping beside a stuck console", func() (string, error) { return "", ping() }},
		{"exec beside a stuck console", func() (string, error) { return "", want(0, "out", "", "exec", "--", self, "say", "out") }},
		{"a killed agent comes back", killAgent},
		{"no zombies", noZombies},
	}
}

const flooded = "/run/flooded"

// stickConsole writes to the console until that takes no more.
func stickConsole() (string, error) {
	if err := exec.Command(self, "flood").Start(); err != nil {
		return "", err
	}
	size := func() int64 {
		st, err := os.Stat(flooded)
		if err != nil {
			return 0
		}
		return st.Size()
	}
	const quiet = 5 * time.Second // without progress
	last, since := int64(0), time.Now()
	for begin := time.Now(); time.Since(begin) < time.Minute; time.Sleep(100 * time.Millisecond) {
		if now := size(); now != last {
			last, since = now, time.Now()
		} else if last > 0 && time.Since(since) > quiet {
			return fmt.Sprintf("after %d pieces", last), nil
		}
	}
	return "", fmt.Errorf("it has taken %d pieces: this tests nothing", last)
}

// flood is a command: it writes to the console, and notes each piece in a file.
func flood(_ []string, _ io.Reader, _, stderr io.Writer) int {
	console, err := os.OpenFile("/dev/console", os.O_WRONLY, 0)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	progress, err := os.Create(flooded)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	for {
		if _, err := console.WriteString(strings.Repeat("x", 1023) + "\n"); err != nil {
			return 1
		}
		_, _ = progress.Write([]byte{'.'})
	}
}

// readOnlyChecks are for a root filesystem that can't be written to.
func readOnlyChecks() []check {
	return []check{
		{"root is read-only", func() (string, error) {
			m := mount{"/", "ext4", "ro"}
			return "", m.check()
		}},
		{"writing to it is EROFS", func() (string, error) {
			a, err := client("", "raw", `{"operation":"file_write","path":"/srv/file","content":""}`)
			if err == nil && !strings.Contains(a.out, `"code":"EROFS"`) {
				err = fmt.Errorf("%q, %q", a.out, a.errout)
			}
			return strings.TrimSpace(a.out), err
		}},
		{"writing elsewhere works", func() (string, error) { return "", want(0, "", "text", "write", "/tmp/file") }},
		{"exec from it", func() (string, error) { return "", want(0, "out", "", "exec", "--", self, "say", "out") }},
		{"cgroup v2 goes away", func() (string, error) {
			if err := unix.Unmount("/sys/fs/cgroup", unix.MNT_DETACH); err != nil {
				return "", os.NewSyscallError("umount", err)
			}
			return killAgent()
		}},
		{"info says so", func() (string, error) {
			d, err := fields("info")
			if err == nil && d["kill_scope"] != "process_group" {
				err = fmt.Errorf("kill_scope %v", d["kill_scope"])
			}
			return "", err
		}},
		{"a timeout ends the process group", func() (string, error) {
			before := len(processes())
			r, _, err := execHere(api.ExecRequest{Cmd: []string{self, "group"}, Timeout: 2 * time.Second})
			if err == nil && !r.TimedOut {
				err = fmt.Errorf("%+v", r)
			}
			if err == nil {
				err = settled(before)
			}
			return "", err
		}},
	}
}

// group is a command: it goes on, and so does its child, which ignores TERM.
func group(_ []string, _ io.Reader, _, stderr io.Writer) int {
	cmd := exec.Command(self, "rabbits", "2")
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	time.Sleep(time.Hour)
	return 0
}
