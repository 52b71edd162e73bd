//go:build linux

// Package power is hf-poweroff and hf-reboot: they ask PID 1 to end the machine,
// or end it themselves.
package power

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	ossignal "os/signal"
	"time"

	"github.com/hyperfleet/init/applets/internal/machine"
	"github.com/hyperfleet/init/applets/internal/version"
	"golang.org/x/sys/unix"
)

// Off is hf-poweroff.
func Off(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	return run(args, machine.PowerOff, unix.SIGTERM, stdout, stderr)
}

// Reboot is hf-reboot.
func Reboot(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	return run(args, machine.Restart, unix.SIGINT, stdout, stderr)
}

const usage = `usage: %[1]s [--force] [--power-off=auto|poweroff|restart]

Asks PID 1 to %[2]s the machine: commands are ended, filesystems unmounted.

  -f, --force  %[2]s at once: sync, then reboot(2). Nothing is stopped or
               unmounted, and it does not matter what PID 1 is.
  --power-off=METHOD
               with --force: how a power-off is asked for. auto (the default)
               restarts where the machine has no power-off, as in Firecracker.
  --version    print the version
`

func run(args []string, action machine.Action, signal unix.Signal, stdout, stderr io.Writer) int {
	name := args[0]
	method := machine.Auto
	var force, showVersion bool
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.BoolVar(&force, "force", false, "")
	fs.BoolVar(&force, "f", false, "")
	fs.BoolVar(&showVersion, "version", false, "")
	fs.Func("power-off", "", func(s string) (err error) {
		method, err = machine.ParseMethod(s)
		return err
	})
	err := fs.Parse(args[1:])
	if err == nil && fs.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprintf(stdout, usage, name, action)
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "%s: %v\n", name, err)
		return 2
	case showVersion:
		fmt.Fprintf(stdout, "%s %s\n", name, version.String())
		return 0
	case os.Geteuid() != 0:
		fmt.Fprintf(stderr, "%s: must be root\n", name)
		return 1
	case force:
		sync()
		err = machine.End(action, method)
	default:
		err = tell(signal)
	}
	if err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", name, err)
		return 1
	}
	return 0
}

// syncLimit is how long a disk may take with --force, which is for when nothing
// else helps: one that hangs must not hinder it.
const syncLimit = 10 * time.Second

func sync() {
	done := make(chan struct{})
	go func() { unix.Sync(); close(done) }()
	select {
	case <-done:
	case <-time.After(syncLimit):
	}
}

// tell signals PID 1, if that is this program too: any other may mean something else
// by the signal.
func tell(signal unix.Signal) error {
	same, err := sameProgram("/proc/self/exe", "/proc/1/exe")
	if err != nil {
		return fmt.Errorf("can't tell what PID 1 is: %w (--force does without it)", err)
	}
	if !same {
		return errors.New("PID 1 is another program: use its own command, or --force")
	}
	// The shutdown may be so fast that its TERM comes before the end of this
	// process, whose status somebody may want.
	ossignal.Ignore(unix.SIGTERM)
	return os.NewSyscallError("kill 1", unix.Kill(1, signal))
}

// sameProgram tells whether two files are the same program: one file, or builds of the
// same package. PID 1 goes on to run from the file that it was started from when a
// newer one takes the place of that.
func sameProgram(a, b string) (bool, error) {
	ours, err := os.Stat(a)
	if err != nil {
		return false, err
	}
	theirs, err := os.Stat(b)
	if err != nil || os.SameFile(ours, theirs) {
		return err == nil, err
	}
	name, err := mainPackage(a)
	if err != nil || name == "" {
		return false, err
	}
	other, err := mainPackage(b)
	return name == other, err
}

// mainPackage returns the path of the package that a Go program was built of, or "" of
// another program. It is the first line of what the linker writes into each, stripped
// or not: runtime/debug.BuildInfo. That and debug/buildinfo are large.
func mainPackage(file string) (string, error) {
	program, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	// Put together only here, or it would be found where this program says it.
	start := append([]byte(infoStart), "path\t"...)
	_, after, _ := bytes.Cut(program, start)
	name, _, ok := bytes.Cut(after[:min(len(after), maxName)], []byte("\n"))
	if !ok {
		return "", nil
	}
	return string(name), nil
}

const (
	infoStart = "\x30\x77\xaf\x0c\x92\x74\x08\x02\x41\xe1\xc1\x07\xe6\xd6\x18\xe6" // see ModInfoData in cmd/go
	maxName   = 1024
)
