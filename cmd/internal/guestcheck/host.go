//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	api "github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/cmd/internal/vm"
)

// What one call may take where the guest's processor is emulated twice and the
// machine below is busy. Only a fault takes longer.
const hostPatience = 5 * time.Minute

// A hostVM is this machine as the host of another, which it reaches as every
// host does: from CID 2, through the kernel's own vhost-vsock.
type hostVM struct {
	config  vm.Config
	rounds  int // of 20 MiB, there and back
	held    int // checks that another machine has made, behind the first two
	guest   *api.Client
	machine *vm.Machine
	kill    context.CancelFunc
}

// host makes this machine a host and checks the whole way from it to the agent
// of a guest. Its arguments are the directory that holds the guest's kernel and
// initrd, the guest's CID, how often to move 20 MiB, and how many checks to leave out
// behind those that make the guest.
func host(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	if len(args) != 4 {
		fmt.Fprintln(stderr, "usage: guestcheck host DIR CID ROUNDS HELD")
		return 2
	}
	arch, err := vm.FindArch("")
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	cid := uint32(number(args[1]))
	h := &hostVM{
		config: vm.Config{
			Arch: arch, KVM: true, Kernel: filepath.Join(args[0], "kernel"), Initrd: filepath.Join(args[0], "initrd"),
			// Where KVM itself is emulated each character of the console is slow.
			Memory: 256, Append: "quiet rdinit=/init -- -d --peers=host", CID: cid,
		},
		rounds: number(args[2]),
		held:   number(args[3]),
		guest:  api.New(api.Vsock(cid, api.DefaultPort)),
	}
	if arch.Name == "amd64" {
		h.config.BIOS = vm.HostFirmware
	}
	status := h.report(stdout)
	fmt.Fprintf(stdout, "%s end\n", mark)
	return status
}

// report runs the checks until one fails: those behind it would have nothing to
// stand on. Then it shows the guest's console.
func (h *hostVM) report(w io.Writer) int {
	defer func() {
		if h.machine != nil {
			h.end()
		}
	}()
	checks := h.checks()
	for _, c := range slices.Delete(checks, 2, 2+h.held) {
		fell := false
		held := report(w, check{c.name, func() (string, error) {
			note, err := c.run()
			if fell = err != nil && h.fellOver(); fell {
				return fmt.Sprintf("%s: %v", fellOver, err), nil
			}
			return note, err
		}})
		if held && !fell {
			continue
		}
		if h.machine != nil {
			for line := range strings.Lines(h.machine.Console.Tail(40) + "\n") {
				fmt.Fprintf(w, "guest: %s", line)
			}
		}
		return 1
	}
	return 0
}

// fellOver, in the note of a check, says that the guest's machine is gone, or stands
// still, and that its kernel did not bring that about: an emulator's fault and no
// check's verdict.
const fellOver = "the machine fell over"

func (h *hostVM) fellOver() bool {
	if h.machine == nil {
		return false
	}
	select {
	case <-h.machine.Done():
	case <-time.After(10 * time.Second):
		// It is a guest's kernel that answers, whatever its agent does.
		c, err := h.dial()
		if err == nil {
			c.Close()
		}
		if !errors.Is(err, unix.ETIMEDOUT) {
			return false
		}
	}
	console := h.machine.Console.All()
	return !strings.Contains(console, "Kernel panic") && !strings.Contains(console, "reboot:")
}

// start starts the guest.
func (h *hostVM) start() error {
	ctx, cancel := context.WithCancel(context.Background())
	m, err := vm.Start(ctx, h.config.Argv(), nil, vm.NewConsole())
	if err != nil {
		cancel()
		return err
	}
	h.machine, h.kill = m, cancel
	return nil
}

// end takes the guest's machine away from under it.
func (h *hostVM) end() {
	h.kill()
	<-h.machine.Done()
}

// soon is a context in which all that a check does must be done.
func soon() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), hostPatience)
}

// run runs guestcheck in the guest and returns what it prints.
func (h *hostVM) run(ctx context.Context, args ...string) (string, error) {
	var stdout, stderr strings.Builder
	r, err := h.guest.Exec(ctx, api.ExecRequest{
		Cmd: append([]string{self}, args...), Stdout: &stdout, Stderr: &stderr, Timeout: hostPatience,
	})
	if err == nil && r.ExitCode != 0 {
		err = fmt.Errorf("%q: status %d, %q", args, r.ExitCode, stderr.String())
	}
	return stdout.String(), err
}

// census prints what a client that comes and goes must not leave behind: the
// agent's open files, and processes.
func census(_ []string, _ io.Reader, stdout, stderr io.Writer) int {
	pid, err := agent()
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	fmt.Fprintln(stdout, len(files), userProcesses())
	return 0
}

// userProcesses counts the processes that are not the kernel's own threads.
func userProcesses() (n int) {
	for _, p := range processes() {
		if b, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.pid), "cmdline")); len(b) > 0 || p.state == 'Z' {
			n++
		}
	}
	return n
}
