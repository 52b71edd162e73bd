//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"

	_ "embed"

	"github.com/hyperfleet/init/applets"
	"github.com/hyperfleet/init/cmd/internal/vm"
)

//go:embed floor/floor.c
var floorSource []byte

// native is what rows say that are of this machine.
const native = "native, unix socket"

const usage = `usage: hf-bench [FLAG]…

Measures the init and the agent beside floors, in PID 1's own namespaces and in a
virtual machine. It needs root. make bench runs it.

`

// A bench is one run.
type bench struct {
	rows           string
	only           *regexp.Regexp
	short, noVM    bool
	jsonFile, svg  string
	markdown       string
	init, version  string // the binary: given, or built
	floor, busybox string
	guestSelf      string // this program, for a guest
	root, temp     string
	ctx            context.Context
	stdout, stderr io.Writer
	result         report
}

func run(args []string, stdout, stderr io.Writer) int {
	if filepath.Base(args[0]) == stage1Name {
		return stage1(args[1], stderr)
	}
	if len(args) > 1 {
		switch args[1] {
		case "inside":
			return inside(args[2:], stdout, stderr)
		case "nested":
			return nestedHost(args[2:], stdout, stderr)
		case "orphans":
			if err := makeOrphans(args[2:]); err != nil {
				fmt.Fprintln(stderr, "hf-bench:", err)
				return 1
			}
			return 0
		}
	}
	b := &bench{stdout: stdout, stderr: stderr}
	if err := b.parse(args[1:]); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		fmt.Fprintf(stderr, "hf-bench: %v (hf-bench --help lists the flags)\n", err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	b.ctx = ctx
	if err := b.run(); err != nil {
		fmt.Fprintln(stderr, "hf-bench:", err)
		return 1
	}
	return 0
}

func (b *bench) parse(args []string) (err error) {
	fs := flag.NewFlagSet("hf-bench", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.BoolVar(&b.short, "short", false, "few samples: whether it works, not how fast")
	fs.BoolVar(&b.noVM, "no-vm", false, "no virtual machine")
	fs.StringVar(&b.rows, "row", "", "only the rows that this `REGEXP` matches, as in \"exec: on a new connection\"")
	fs.StringVar(&b.jsonFile, "json", "", "write all of it to this `FILE`")
	fs.StringVar(&b.svg, "svg", "", "draw it into this `FILE`")
	fs.StringVar(&b.markdown, "markdown", "", "write the table as the README has it into this `FILE`")
	fs.StringVar(&b.init, "init", "", "measure the binary at this `PATH` (default: it is built as make build does)")
	fs.StringVar(&b.version, "version-string", "bench", "`VERSION` to build it with")
	if err = fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(b.stdout, usage)
		fs.SetOutput(b.stdout)
		fs.PrintDefaults()
	}
	if err == nil && fs.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	if err == nil {
		b.only, err = regexp.Compile(b.rows)
	}
	return err
}

// wants tells whether a row, or with no name any row of the group, is asked for.
func (b *bench) wants(group, name string) bool {
	return name == "" && b.rows == "" || name == "" && strings.Contains(b.rows, group) || name != "" && b.only.MatchString(group+": "+name)
}

// tell shows progress, and keeps a row.
func (b *bench) tell(r row) {
	b.result.Rows = append(b.result.Rows, r)
	fmt.Fprintf(b.stderr, "%-22s %s: %s\n", r.Where, r.Group, r.Name)
}

func (b *bench) run() (err error) {
	began := time.Now()
	if os.Geteuid() != 0 {
		return errors.New("root is needed, for namespaces")
	}
	if b.temp, err = os.MkdirTemp("", "hf-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.temp)
	if err := b.build(); err != nil {
		return err
	}
	b.result.describe(b.ctx, b.root)
	if err := b.size(); err != nil {
		return err
	}
	if err := b.bootRows(); err != nil {
		return err
	}
	if err := b.inNamespaces(); err != nil {
		return err
	}
	if !b.noVM {
		if err := b.inMachine(); err != nil {
			return err
		}
	}
	b.result.Seconds = time.Since(began).Seconds()
	return b.write()
}

// build builds what is measured and what it is measured with.
func (b *bench) build() (err error) {
	if b.root, err = vm.Root(); err != nil {
		return err
	}
	if b.init == "" {
		b.init = filepath.Join(b.temp, "init")
		if err := vm.BuildInit(b.ctx, b.root, runtime.GOARCH, b.init, b.version); err != nil {
			return err
		}
	}
	if b.busybox, err = exec.LookPath("busybox"); err != nil {
		return fmt.Errorf("%w: make deps-test installs it", err)
	}
	// This very program may have been built with cgo, which a guest has no libraries for.
	b.guestSelf = filepath.Join(b.temp, "hf-bench")
	if err := vm.GoBuild(b.ctx, b.root, "./cmd/hf-bench", runtime.GOARCH, b.guestSelf); err != nil {
		return err
	}
	b.floor = filepath.Join(b.temp, "floor")
	cc := exec.CommandContext(b.ctx, "cc", "-O2", "-static", "-x", "c", "-o", b.floor, "-")
	cc.Stdin = strings.NewReader(string(floorSource))
	if out, err := cc.CombinedOutput(); err != nil {
		return fmt.Errorf("build the floors (make deps-test installs a C compiler): %w\n%s", err, out)
	}
	return nil
}

// size is the binary's.
func (b *bench) size() error {
	info, err := os.Stat(b.init)
	if err != nil {
		return err
	}
	r := row{Where: native, Group: "size", Name: "the binary, stripped", Unit: "MB", Figure: summarize([]float64{float64(info.Size()) / 1e6}), Reach: atMost(5)}
	r.judge()
	if b.wants(r.Group, r.Name) {
		b.tell(r)
	}
	return nil
}

// inNamespaces has the workload of a machine made of namespaces measure the rest.
func (b *bench) inNamespaces() error {
	p := plan{where: native, agent: "unix:" + guestSocket, rows: b.rows, short: b.short, growth: true, scale: 1}
	out, console := io.Pipe()
	files := map[string]string{applets.Binary: b.init, guestSelf: b.guestSelf, guestFloor: b.floor, guestBusybox: b.busybox}
	m, err := boot(files, append(initArgv("--on-exit=poweroff", "--power-off=poweroff", "--"), p.argv()...), console)
	if err != nil {
		return err
	}
	defer m.end()
	go func() { // a workload that ends early ends its machine
		_ = m.wait()
		_ = console.Close()
	}()
	defer context.AfterFunc(b.ctx, func() { out.CloseWithError(errors.New("interrupted")) })()
	lines := bufio.NewReader(out)
	defer out.Close()
	return b.collect(func() (string, error) { return lines.ReadString('\n') })
}

// collect reads the console of a guest up to the end of its workload.
func (b *bench) collect(next func() (string, error)) error {
	var console []string
	for {
		line, err := next()
		if err != nil {
			return fmt.Errorf("the guest's console: %w\n%s", err, strings.Join(console[max(0, len(console)-20):], "\n"))
		}
		line = strings.TrimRight(line, "\r\n")
		console = append(console, line)
		_, said, ok := strings.Cut(line, mark)
		switch reason, failed := strings.CutPrefix(said, "error "); {
		case !ok:
		case said == "end":
			return nil
		case failed:
			return fmt.Errorf("in the guest: %s", reason)
		default:
			var r row
			if err := json.Unmarshal([]byte(said), &r); err != nil {
				return fmt.Errorf("a row of the guest: %w: %s", err, said)
			}
			b.tell(r)
		}
	}
}
