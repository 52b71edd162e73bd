package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/hyperfleet/init/cmd/internal/vm"
)

// demoScript is where the guest has the script that calls the operations, for
// hosts that have no way into the guest's vsock themselves.
const demoScript = "/usr/libexec/hf-demo"

// mark begins the lines by which the script says where it is.
const mark = "@hf-demo@"

var markLine = regexp.MustCompile(`^` + mark + ` (begin|end|done) ?(\d*) ?(\d*)$`)

// writeScript writes the script. The empty line that ends each answer makes the
// mark a line of its own even behind an answer without a newline.
func writeScript(path string) error {
	var b strings.Builder
	b.WriteString("#!/bin/sh\n")
	for i, s := range steps() {
		fmt.Fprintf(&b, "echo '%s begin %d'\n%s 2>&1\nstatus=$?\necho\necho \"%s end %d $status\"\n", mark, i, s.typed(), mark, i)
	}
	fmt.Fprintf(&b, "echo '%s done'\nhf-poweroff\n", mark)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(b.String()), 0o755)
}

// A caller has a step called and returns what came back.
type caller interface {
	call(ctx context.Context, i int, s step) (status int, out string, err error)
	// powerOff asks the guest to power off.
	powerOff(ctx context.Context) error
	where() string
}

// demo shows operations being called and answered, and the machine powered
// off.
func (o *options) demo(ctx context.Context, p *parts) error {
	begin := time.Now()
	m, c, err := o.bootDemo(ctx, p)
	if err != nil {
		return err
	}
	o.say("vsock     %s", c.where())
	failed := 0
	for i, s := range steps() {
		if !o.show(ctx, m, c, i, s) {
			failed++
		}
	}
	if err := o.powerOff(ctx, m, c); err != nil {
		o.say("✗ powered off: %v", err)
		failed++
	} else {
		o.say("✓ powered off, and the machine ended")
	}
	total := len(steps()) + 2
	o.say("%d of %d steps held, in %.1f s", total-failed, total, time.Since(begin).Seconds())
	if failed > 0 {
		o.tail(m)
		return fmt.Errorf("%d steps failed", failed)
	}
	return nil
}

// bootDemo boots the machine and waits until init is ready.
func (o *options) bootDemo(ctx context.Context, p *parts) (*vm.Machine, caller, error) {
	m, err := o.boot(ctx, p, readyTime)
	if p.firecrkr && err != nil && ctx.Err() == nil {
		o.say("          Firecracker did not start it (%v): QEMU instead", err)
		p.firecrkr = false
		p.cid = hostCID()
		m, err = o.boot(ctx, p, readyTime)
	}
	if err != nil {
		return nil, nil, err
	}
	switch {
	case p.firecrkr:
		f := vm.Firecracker{Dir: p.dir}
		return m, &hostCaller{append(p.client, "--uds", f.VsockPath()), "from the host, through Firecracker's socket"}, nil
	case p.cid != 0:
		return m, &hostCaller{append(p.client, "--cid", strconv.FormatUint(uint64(p.cid), 10)), "from the host, over vhost-vsock"}, nil
	}
	return m, &guestCaller{m.Console}, nil
}

func (o *options) boot(ctx context.Context, p *parts, limit time.Duration) (*vm.Machine, error) {
	workload := initArgs("--on-exit=stay", demoScript)
	if p.firecrkr {
		limit = firecrackerTime
	}
	if p.firecrkr || p.cid != 0 {
		workload = "quiet rdinit=/init"
	}
	begin := time.Now()
	// A machine that does not become ready is ended before another is started.
	mctx, cancel := context.WithCancel(ctx)
	m, err := o.start(mctx, p, workload, false)
	if err != nil {
		cancel()
		return nil, err
	}
	context.AfterFunc(ctx, cancel)
	rctx, done := context.WithTimeout(ctx, limit)
	defer done()
	line, err := m.Console.Expect(rctx, ready)
	if err != nil {
		cancel()
		<-m.Done()
		o.tail(m)
		return nil, err
	}
	o.say("✓ booted  %s (%.1f s after the machine's start)", strings.TrimSpace(line), time.Since(begin).Seconds())
	return m, nil
}

// show calls one step and prints what was called, what came back, and whether
// that is right.
func (o *options) show(ctx context.Context, m *vm.Machine, c caller, i int, s step) bool {
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	o.say("$ %s", s.typed())
	status, out, err := c.call(ctx, i, s)
	if err == nil {
		for _, line := range strings.SplitAfter(out, "\n") {
			if line != "" {
				o.say("  %s", strings.TrimSuffix(line, "\n"))
			}
		}
		err = s.verify(status, out)
	}
	if err != nil {
		o.say("✗ %s: %v", s.says, err)
		return false
	}
	if status != 0 {
		o.say("✓ %s (status %d)", s.says, status)
	} else {
		o.say("✓ %s", s.says)
	}
	return true
}

// powerOff has the machine powered off and waits for its end.
func (o *options) powerOff(ctx context.Context, m *vm.Machine, c caller) error {
	ctx, cancel := context.WithTimeout(ctx, powerOffTime)
	defer cancel()
	o.say("$ hf-poweroff")
	// hf-poweroff may itself be ended by the shutdown that it asks for: what the
	// kernel says at last is the answer.
	asked := c.powerOff(ctx)
	line, err := m.Console.Expect(ctx, poweredOff)
	if err != nil {
		return errors.Join(asked, err)
	}
	o.say("  %s", line)
	return m.Wait(ctx)
}

// tail shows the end of the machine's console after a failure.
func (o *options) tail(m *vm.Machine) {
	fmt.Fprintf(o.stderr, "--- the end of the machine's console:\n%s\n---\n", m.Console.Tail(40))
}

// A guestCaller follows the script that runs in the guest.
type guestCaller struct{ console *vm.Console }

func (g *guestCaller) where() string {
	return "in the guest, over vsock's loopback: this host has no vhost-vsock"
}

// await returns the lines up to the mark of that word.
func (g *guestCaller) await(ctx context.Context, word string, i int) (lines []string, status int, err error) {
	for {
		line, err := g.console.Next(ctx)
		if err != nil {
			return lines, 0, err
		}
		m := markLine.FindStringSubmatch(line)
		if m == nil {
			lines = append(lines, line)
			continue
		}
		if m[1] != word || word != "done" && m[2] != strconv.Itoa(i) {
			return lines, 0, fmt.Errorf("the guest is at %q, not at %s %d", line, word, i)
		}
		status, _ = strconv.Atoi(m[3])
		return lines, status, nil
	}
}

func (g *guestCaller) call(ctx context.Context, i int, s step) (int, string, error) {
	if _, _, err := g.await(ctx, "begin", i); err != nil {
		return 0, "", err
	}
	lines, status, err := g.await(ctx, "end", i)
	return status, strings.Join(lines, "\n"), err
}

func (g *guestCaller) powerOff(ctx context.Context) error {
	_, _, err := g.await(ctx, "done", 0) // hf-poweroff is the script's next line
	return err
}

// A hostCaller runs hf-vsock-client on the host.
type hostCaller struct {
	client []string
	path   string
}

func (h *hostCaller) where() string { return h.path }

func (h *hostCaller) command(ctx context.Context, args ...string) *exec.Cmd {
	argv := append(h.client[:len(h.client):len(h.client)], args...)
	return exec.CommandContext(ctx, argv[0], argv[1:]...)
}

func (h *hostCaller) call(ctx context.Context, _ int, s step) (int, string, error) {
	cmd := h.command(ctx, s.args...)
	cmd.Stdin = bytes.NewReader([]byte(s.stdin))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() >= 0 {
		return exit.ExitCode(), string(out), nil
	}
	return 0, string(out), err
}

func (h *hostCaller) powerOff(ctx context.Context) error {
	out, err := h.command(ctx, "exec", "--", "hf-poweroff").CombinedOutput()
	if err != nil {
		return fmt.Errorf("hf-poweroff: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}
