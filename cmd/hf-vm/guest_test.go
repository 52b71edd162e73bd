//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hyperfleet/init/cmd/internal/vm"
)

// needVM skips a test unless real machines are asked for.
func needVM(t *testing.T) {
	t.Helper()
	if os.Getenv("HF_VM") == "" {
		t.Skip("boots a virtual machine: make test-vm runs it (HF_VM=1 with what `hf-vm deps test` installs)")
	}
}

// A bench is what the tests' machines of one architecture are made from. It is
// made once, by the first test that needs it.
type bench struct {
	arch    vm.Arch
	kernel  vm.Kernel
	kvm     bool
	root    string // the source tree
	init    string // the built binary
	overlay string // the tree that puts guestcheck into the guest
	initrd  string // of most tests: the init, guestcheck and the modules
}

// benches make them; the functions remember.
var benches = map[string]func() (*bench, error){
	"amd64": sync.OnceValues(func() (*bench, error) { return makeBench("amd64") }),
	"arm64": sync.OnceValues(func() (*bench, error) { return makeBench("arm64") }),
}

// benchDir holds them until TestMain is done.
var benchDir string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "hf-vm-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		benchDir = dir
		return m.Run()
	}())
}

func getBench(t *testing.T, arch string) *bench {
	t.Helper()
	needVM(t)
	b, err := benches[arch]()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func makeBench(name string) (*bench, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	arch, err := vm.FindArch(name)
	if err != nil {
		return nil, err
	}
	b := &bench{arch: arch}
	if b.root, err = vm.Root(); err != nil {
		return nil, err
	}
	if b.kernel, err = testKernel(ctx, b.root, name); err != nil {
		return nil, err
	}
	b.kvm = vm.KVMWorks(ctx, arch, b.kernel.Image)
	dir := filepath.Join(benchDir, name)
	b.init = filepath.Join(dir, "init")
	if err := vm.BuildInit(ctx, b.root, name, b.init, "test"); err != nil {
		return nil, err
	}
	b.overlay = filepath.Join(dir, "overlay")
	if err := vm.GoBuild(ctx, b.root, "./cmd/internal/guestcheck", name, filepath.Join(b.overlay, "usr/bin/guestcheck")); err != nil {
		return nil, err
	}
	b.initrd = filepath.Join(dir, "initramfs.cpio.gz")
	return b, b.rootfs(ctx, "--modules", b.kernel.Modules, "cpio", b.initrd)
}

// testKernel is the distribution's, or the one that HF_KERNEL_ARCH and
// HF_MODULES_ARCH name.
func testKernel(ctx context.Context, root, arch string) (vm.Kernel, error) {
	suffix := strings.ToUpper(arch)
	if image := os.Getenv("HF_KERNEL_" + suffix); image != "" {
		return vm.OwnKernel(image, os.Getenv("HF_MODULES_"+suffix))
	}
	return vm.FetchKernel(ctx, os.Stderr, arch, filepath.Join(root, "build", "kernel", arch))
}

func (b *bench) rootfs(ctx context.Context, args ...string) error {
	return vm.Rootfs(ctx, b.root, append([]string{"--init", b.init, "--arch", b.arch.Name, "--overlay", b.overlay}, args...)...)
}

// A guest is a machine of a test.
type guest struct {
	*vm.Machine
	t     *testing.T
	limit context.Context
	stop  func() // ends it at once
}

// config is a machine that boots the bench's initramfs.
func (b *bench) config(flags, workload string) vm.Config {
	return vm.Config{
		Arch: b.arch, KVM: b.kvm, Kernel: b.kernel.Image, Initrd: b.initrd, Memory: 256,
		Append: initArgs(flags, workload),
	}
}

// boot starts a machine that the test ends, or that ends with it, and shows its
// console if the test fails.
func (b *bench) boot(t *testing.T, c vm.Config, limit time.Duration) *guest {
	t.Helper()
	return launch(t, c.Argv(), limit)
}

// launch does so with the command that starts one.
func launch(t *testing.T, argv []string, limit time.Duration) *guest {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	m, err := vm.Start(ctx, argv, nil, vm.NewConsole())
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	stop := func() { cancel(); <-m.Done() }
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Logf("%s\nconsole:\n%s", vm.CommandLine(m.Args), m.Console.Tail(60))
		}
	})
	return &guest{m, t, ctx, stop}
}

// expect waits for a line of the console.
func (g *guest) expect(re *regexp.Regexp) string {
	g.t.Helper()
	line, err := g.Console.Expect(g.limit, re)
	if err != nil {
		g.t.Fatal(err)
	}
	return line
}

var (
	isReady   = ready
	isOff     = regexp.MustCompile(`reboot: Power down`)
	isRestart = regexp.MustCompile(`reboot: Restarting system`)
	checkLine = regexp.MustCompile(`^@check@ (not ok|ok|end|waiting)(?: - (.*))?$`)
	trailTime = regexp.MustCompile(`(?::| #| \().*$`)
)

// checks makes a subtest of each line that guestcheck reports.
func (g *guest) checks() {
	g.t.Helper()
	if _, err := g.checksUntil(); err != nil {
		g.t.Fatal(err)
	}
}

// errFellOver is the end of a machine that neither its kernel nor a check brought about.
var errFellOver = errors.New("emulation went wrong")

// checksUntil does so, and returns how many were made, and what ended them before
// their end.
func (g *guest) checksUntil() (n int, err error) {
	for {
		line, err := g.Console.Next(g.limit)
		if errors.Is(err, vm.ErrEnded) {
			err = errors.Join(err, g.Wait(g.limit))
		}
		if err != nil {
			return n, fmt.Errorf("after %d checks: %w", n, err)
		}
		m := checkLine.FindStringSubmatch(line)
		switch {
		case m == nil:
		case m[1] == "end":
			if n == 0 {
				return n, errors.New("no check was made")
			}
			return n, nil
		case strings.Contains(m[2], "the machine fell over"):
			return n, fmt.Errorf("%w: %s", errFellOver, m[2])
		default:
			n++
			g.t.Run(trailTime.ReplaceAllString(m[2], ""), func(t *testing.T) {
				t.Log(m[2])
				if m[1] != "ok" {
					t.Fail()
				}
			})
		}
	}
}

// ends waits for the kernel's last word and the machine's end.
func (g *guest) ends(how *regexp.Regexp) {
	g.t.Helper()
	begin := time.Now()
	g.expect(how)
	if err := g.Wait(g.limit); err != nil {
		g.t.Fatal(err)
	}
	g.t.Logf("%v, %d ms after the checks", how, time.Since(begin).Milliseconds())
}

// pressCtrlAltDel presses the keys at QEMU's monitor.
func (g *guest) pressCtrlAltDel(monitor string) {
	g.t.Helper()
	c, err := net.Dial("unix", monitor)
	if err != nil {
		g.t.Fatal(err)
	}
	// QEMU does not read what a monitor that hangs up has said.
	g.t.Cleanup(func() { c.Close() })
	if _, err := c.Write([]byte("sendkey ctrl-alt-delete\n")); err != nil {
		g.t.Fatal(err)
	}
}

// must runs a program of this machine and returns what it prints.
func must(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(vm.Program(name), args...).CombinedOutput()
	if err != nil {
		t.Errorf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}
