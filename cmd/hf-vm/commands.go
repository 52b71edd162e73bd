package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/hyperfleet/init/cmd/internal/vm"
)

// A command is one of hf-vm's. It gets its flags parsed and its words in o.args.
type command struct {
	name     string
	args     string
	synopsis string
	flags    func(*flag.FlagSet, *options)
	run      func(context.Context, *options) error
}

func commands() []command {
	return []command{
		{"run", "", "boot a VM, call one operation after the other, power it off; --shell: a shell in it instead", runFlags, runVM},
		{"kernel", "", "fetch the distribution's kernel and print where it is", kernelFlags, printKernel},
		{"deps", "[run|image|test]…", "install what these take (default test)", depsFlags, installDeps},
	}
}

// options are the flags and words of all commands; each uses its own.
type options struct {
	arch, kernel, modules, build, init, initrd, accel, version string
	shell, race, verbose                                       bool
	memory                                                     int
	args                                                       []string

	stdin          io.Reader
	stdout, stderr io.Writer
}

func commonFlags(fs *flag.FlagSet, o *options) {
	fs.StringVar(&o.arch, "arch", vm.HostArch(), "`ARCH`itecture of the machine: amd64 or arm64")
	fs.StringVar(&o.build, "build", "", "`DIR`ectory for what is made (default build/ of the source tree)")
}

func kernelFlags(fs *flag.FlagSet, o *options) {
	commonFlags(fs, o)
	fs.StringVar(&o.kernel, "kernel", "", "boot this kernel `IMAGE` (default the distribution's)")
	fs.StringVar(&o.modules, "modules", "", "`DIR` of that kernel's modules, such as /lib/modules/VERSION")
}

func runFlags(fs *flag.FlagSet, o *options) {
	kernelFlags(fs, o)
	fs.StringVar(&o.init, "init", "", "the built binary's `PATH` (default: it is built)")
	fs.StringVar(&o.accel, "accel", "auto", "auto: KVM if it runs this kernel, which is tried; kvm: without trying; tcg: in software")
	fs.StringVar(&o.initrd, "initrd", "", "boot this initramfs `FILE`, made by hf-vm or like it (default: one is made)")
	fs.StringVar(&o.version, "version-string", "", "`VERSION` to build it with")
	fs.BoolVar(&o.shell, "shell", false, "a console shell in the guest; it powers off when the shell ends")
	fs.BoolVar(&o.verbose, "console", false, "show the machine's console too")
	fs.IntVar(&o.memory, "memory", 256, "`MIB` of memory for the machine")
}

func depsFlags(fs *flag.FlagSet, o *options) {
	commonFlags(fs, o)
	fs.BoolVar(&o.race, "race", false, "also what go test -race takes: a C compiler")
}

// A usageError is one in the command line itself: exit status 2.
type usageError struct{ error }

// run is hf-vm: it returns the exit status.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	err := runArgs(args, stdin, stdout, stderr)
	var bad usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &bad):
		fmt.Fprintf(stderr, "hf-vm: %v (hf-vm --help lists what there is)\n", err)
		return 2
	}
	fmt.Fprintf(stderr, "hf-vm: %v\n", err)
	return 1
}

func runArgs(args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		return usageError{errors.New("no command")}
	}
	if args[0] == "--help" || args[0] == "-h" || args[0] == "help" {
		help(stdout)
		return nil
	}
	for _, c := range commands() {
		if c.name == args[0] {
			return c.start(args[1:], stdin, stdout, stderr)
		}
	}
	return usageError{fmt.Errorf("%s: no such command", args[0])}
}

// start parses the command's flags, before and between its words, and runs it
// until it ends or the user interrupts it.
func (c command) start(args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	o := &options{stdin: stdin, stdout: stdout, stderr: stderr}
	fs := flag.NewFlagSet("hf-vm "+c.name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	c.flags(fs, o)
	for len(args) > 0 {
		if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
			fmt.Fprintf(stdout, "usage: hf-vm %s\n%s\n", strings.TrimSpace(c.name+" [FLAGS] "+c.args), c.synopsis)
			fs.SetOutput(stdout)
			fs.PrintDefaults()
			return nil
		} else if err != nil {
			return usageError{fmt.Errorf("%s: %w", c.name, err)}
		}
		if args = fs.Args(); len(args) > 0 {
			o.args, args = append(o.args, args[0]), args[1:]
		}
	}
	if len(o.args) > 0 && c.args == "" {
		return usageError{fmt.Errorf("%s: unexpected %q", c.name, o.args[0])}
	}
	if _, err := vm.FindArch(o.arch); err != nil {
		return usageError{fmt.Errorf("%s: --arch: %w", c.name, err)}
	}
	if fs.Lookup("accel") != nil && !slices.Contains([]string{"auto", "kvm", "tcg"}, o.accel) {
		return usageError{fmt.Errorf("%s: --accel %s: want auto, kvm or tcg", c.name, o.accel)}
	}
	if o.modules != "" && o.kernel == "" {
		return usageError{fmt.Errorf("%s: --modules are those of a --kernel, which is missing", c.name)}
	}
	// The machine is ended when ctx is: an interrupt leaves none behind.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	err := c.run(ctx, o)
	if err != nil && ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return err
}

func help(w io.Writer) {
	fmt.Fprintln(w, "usage: hf-vm COMMAND [FLAGS]")
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-28s %s\n", c.name+" "+c.args, c.synopsis)
	}
	fmt.Fprintln(w, "hf-vm COMMAND --help lists its flags")
}

// buildDir returns where things are made, and the source tree.
func (o *options) buildDir() (build, root string, err error) {
	if root, err = vm.Root(); err != nil {
		return "", "", err
	}
	if build = o.build; build == "" {
		build = filepath.Join(root, "build")
	}
	build, err = filepath.Abs(build)
	return build, root, err
}

// findKernel returns the user's kernel, or else the distribution's.
func (o *options) findKernel(ctx context.Context, build string) (vm.Kernel, error) {
	if o.kernel != "" {
		return vm.OwnKernel(o.kernel, o.modules)
	}
	return vm.FetchKernel(ctx, o.stderr, o.arch, filepath.Join(build, "kernel", o.arch))
}

func printKernel(ctx context.Context, o *options) error {
	build, _, err := o.buildDir()
	if err != nil {
		return err
	}
	k, err := o.findKernel(ctx, build)
	if err != nil {
		return err
	}
	fmt.Fprintf(o.stdout, "KERNEL=%s\nMODULES=%s\n", k.Image, k.Modules)
	return nil
}

func installDeps(ctx context.Context, o *options) error {
	arch, err := vm.FindArch(o.arch)
	if err != nil {
		return err
	}
	if len(o.args) == 0 {
		o.args = []string{"test"}
	}
	var needs []vm.Need
	for _, a := range o.args {
		switch a {
		case "run":
			needs = append(needs, vm.RunNeeds(arch)...)
		case "image":
			needs = append(needs, vm.ImageNeeds()...)
		case "test":
			needs = append(needs, vm.TestNeeds()...)
		default:
			return usageError{fmt.Errorf("deps: %q: want run, image or test", a)}
		}
	}
	if o.race {
		needs = append(needs, vm.RaceNeeds()...)
	}
	return vm.Ensure(ctx, o.stderr, needs)
}
