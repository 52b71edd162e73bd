//go:build linux

package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"time"

	api "github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/cmd/internal/vm"
)

// checks are in the order of a guest's life; the first ones make it.
func (h *hostVM) checks() []check {
	return []check{
		{"this machine is a host", func() (string, error) { return "", vm.BecomeHost() }},
		{"a host that connects during boot is served", h.early},
		{"every operation", h.operations},
		{"every code of an error", h.codes},
		{"requests on one connection are answered in order", h.pipeline},
		{"nobody in the guest is admitted with --peers=host", h.onlyHost},
		{"strangers over the guest's own CID", h.strangers},
		{"a half-close is not the end of a client", h.halfClose},
		{"a reader that pauses before the tail has it whole", h.pause},
		{"a guest that is paused is waited for", h.paused},
		{fmt.Sprintf("%d x 20 MiB there and back", h.rounds), h.transfers},
		{"100 closes in the middle leave nothing behind", h.closes},
		{"a storm of 64 x 30 connections", h.storm},
		{"a machine that dies, and the next one with its CID", h.reborn},
		{"it powers off", h.powerOff},
	}
}

// early connects from the moment the machine starts. Until the guest listens it
// is refused; the first connection that is made must be served, though it is PID
// 1 alone that listens by then, and none may be refused after it.
func (h *hostVM) early() (string, error) {
	begin := time.Now()
	if err := h.start(); err != nil {
		return "", err
	}
	var c *rawConn
	for {
		var err error
		if c, err = h.dialWithin(firstConnect); err == nil {
			break
		}
		select {
		case <-h.machine.Done():
			return "", fmt.Errorf("the machine ended: %w", h.machine.Wait(context.Background()))
		case <-time.After(time.Millisecond):
		}
		if time.Since(begin) > hostPatience {
			return "", fmt.Errorf("no connection within %v: %w", hostPatience, err)
		}
	}
	defer c.Close()
	listens := time.Since(begin)
	errs := make(chan error)
	const others = 8
	for range others {
		go func() { errs <- expectSuccess(h.say(`{"operation":"ping"}` + "\n")) }()
	}
	if _, err := io.WriteString(c, `{"operation":"info"}`+"\n"); err != nil {
		return "", err
	}
	r, err := c.receive()
	if err = expectSuccess(r, err); err != nil {
		return "", err
	}
	for range others {
		err = errors.Join(err, <-errs)
	}
	return fmt.Sprintf("connected %d ms after the start, answered %d ms later, when the guest was up for %d ms",
		listens.Milliseconds(), (time.Since(begin) - listens).Milliseconds(), r.Data.UptimeMS), err
}

func expectSuccess(r *rawReply, err error) error {
	if err == nil && !r.Success {
		err = errors.New(r.Code)
	}
	return err
}

// operations calls each operation as Go programs on a host do.
func (h *hostVM) operations() (string, error) {
	ctx, cancel := soon()
	defer cancel()
	const path, text = "/tmp/host", "hello\x00 \xff world\n"
	if err := h.guest.Ping(ctx); err != nil {
		return "", err
	}
	info, err := h.guest.Info(ctx)
	if err != nil {
		return "", err
	}
	if info.Protocol != 1 || info.Boot == nil || len(info.Operations) < 7 {
		return "", fmt.Errorf("info: %+v", info)
	}
	if _, err := h.guest.WriteFile(ctx, path, strings.NewReader(text), api.WithMode(0o640)); err != nil {
		return "", err
	}
	if _, err := h.guest.WriteFile(ctx, path, strings.NewReader("more"), api.Append()); err != nil {
		return "", err
	}
	var got bytes.Buffer
	if _, err := h.guest.ReadFile(ctx, path, &got); err != nil || got.String() != text+"more" {
		return "", fmt.Errorf("read %q, %w", got.String(), err)
	}
	if st, err := h.guest.Stat(ctx, path); err != nil || st.Mode != 0o640 || st.Size != int64(got.Len()) {
		return "", fmt.Errorf("stat %+v, %w", st, err)
	}
	if err := h.guest.Remove(ctx, path); err != nil {
		return "", err
	}
	if _, err := h.guest.Stat(ctx, path); !errors.Is(err, syscall.ENOENT) {
		return "", fmt.Errorf("stat of what was deleted: %w", err)
	}
	return fmt.Sprintf("ready in %.0f ms", info.Boot.ReadyMS), h.execs(ctx)
}

// execs runs commands that end in every way.
func (h *hostVM) execs(ctx context.Context) error {
	input := allBytes(100_000)
	var errs []error
	for _, e := range []struct {
		api.ExecRequest
		status, signal int
		timedOut       bool
		out, errout    string
	}{
		{ExecRequest: api.ExecRequest{Cmd: []string{self, "say", "out", "err"}}, out: "out", errout: "err"},
		{ExecRequest: api.ExecRequest{Cmd: []string{self, "exit", "7"}}, status: 7},
		{ExecRequest: api.ExecRequest{Cmd: []string{"guestcheck", "args", "a b", "; id"}}, out: `["a b" "; id"]`},
		{ExecRequest: api.ExecRequest{Cmd: []string{self, "env", "HERE"}, Env: []string{"HERE=there"}}, out: "there"},
		{ExecRequest: api.ExecRequest{Cmd: []string{self, "pwd"}, Cwd: "/usr"}, out: "/usr"},
		{ExecRequest: api.ExecRequest{Cmd: []string{self, "cat"}, Stdin: bytes.NewReader(input)}, out: string(input)},
		{ExecRequest: api.ExecRequest{Cmd: []string{self, "nap", "600000"}, Timeout: 100 * time.Millisecond}, status: 137, signal: 9, timedOut: true},
		{ExecRequest: api.ExecRequest{Cmd: []string{"no-such-command"}}, status: 127, errout: "no-such-command: command not found\n"},
	} {
		var out, errout strings.Builder
		e.Stdout, e.Stderr = &out, &errout
		e.Timeout = cmp.Or(e.Timeout, hostPatience)
		r, err := h.guest.Exec(ctx, e.ExecRequest)
		if err == nil && (r.ExitCode != e.status || r.Signal != e.signal || r.TimedOut != e.timedOut || out.String() != e.out || errout.String() != e.errout) {
			err = fmt.Errorf("%+v, %.100q, %.100q", r, out.String(), errout.String())
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%q: %w", e.Cmd, err))
		}
	}
	return errors.Join(errs...)
}

// codes has each kind of failure told by its code.
func (h *hostVM) codes() (string, error) {
	var errs []error
	for _, row := range []struct{ request, code string }{
		{"{\"operation\":\"ping\"\n", "EBADMSG"},
		{"[1]\n", "EBADMSG"},
		{strings.Repeat("[", 100) + "\n", "EBADMSG"},
		{"{}\n", "EINVAL"},
		{`{"operation":"file_stat","path":"etc"}` + "\n", "EINVAL"},
		{`{"operation":"file_write","path":"/tmp/x","content":"QQ==QUJD"}` + "\n", "EINVAL"},
		{`{"operation":"exec","cmd":["true"],"timeout":"9000"}` + "\n", "EINVAL"},
		{`{"operation":"frobnicate"}` + "\n", "ENOSYS"},
		{`{"operation":"ping","x":"` + strings.Repeat("x", 9<<20) + `"}` + "\n", "EMSGSIZE"},
		{`{"operation":"file_read","path":"/dev/zero"}` + "\n", "EINVAL"},
		{`{"operation":"file_read","path":"/no/where"}` + "\n", "ENOENT"},
		{`{"operation":"file_read","path":"/proc"}` + "\n", "EISDIR"},
		{`{"operation":"file_delete","path":"/proc/self"}` + "\n", "EPERM"},
		{`{"operation":"file_delete","path":"/usr"}` + "\n", "ENOTEMPTY"},
		{`{"operation":"file_stat","path":"/` + strings.Repeat("x", 256) + `"}` + "\n", "ENAMETOOLONG"},
		{`{"operation":"file_write","path":"/proc/version","content":"QQ=="}` + "\n", "EIO"},
		{object(map[string]any{"operation": "exec", "cmd": []string{self, strings.Repeat("x", 200_000)}}), "E2BIG"},
	} {
		r, err := h.say(row.request)
		if err == nil && (r.Success || r.Code != row.code) {
			err = fmt.Errorf("%+v, want %s", r, row.code)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%.60q: %w", row.request, err))
		}
	}
	return "", errors.Join(errs...)
}

// pipeline sends many requests before it reads a reply. One that fails is among
// them, and does not end the connection.
func (h *hostVM) pipeline() (string, error) {
	c, err := h.dial()
	if err != nil {
		return "", err
	}
	defer c.Close()
	const n = 50
	var requests strings.Builder
	for i := range n {
		requests.WriteString(object(map[string]any{"operation": "file_stat", "path": fmt.Sprintf("/proc/self/fd/../%s", []string{"fd", "none"}[i%2]), "keep_alive": i < n-1}))
	}
	if _, err := io.WriteString(c, requests.String()); err != nil {
		return "", err
	}
	for i := range n {
		r, err := c.receive()
		if err != nil {
			return "", fmt.Errorf("reply %d: %w", i, err)
		}
		if r.Success != (i%2 == 0) || r.Success == (r.Code == "ENOENT") {
			return "", fmt.Errorf("reply %d: %+v", i, r)
		}
	}
	if _, err := c.lines.ReadByte(); !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("behind the last reply: %w", err)
	}
	return "", nil
}

// onlyHost has root in the guest try to reach its own agent.
func (h *hostVM) onlyHost() (string, error) {
	ctx, cancel := soon()
	defer cancel()
	var errs []error
	for _, target := range [][]string{{"--cid", "1"}, {"--unix", localSocket}} {
		var out strings.Builder
		r, err := h.guest.Exec(ctx, api.ExecRequest{
			Cmd:    append(append([]string{"hf-vsock-client"}, target...), "exec", "--", self, "say", "in"),
			Stdout: &out, Timeout: hostPatience,
		})
		if err == nil && (r.ExitCode == 0 || out.Len() > 0) {
			err = fmt.Errorf("got in: %+v, %q", r, out.String())
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%q: %w", target, err))
		}
	}
	return "", errors.Join(errs...)
}

// strangers has uid 1000 of the guest call its agent by the CID that it has for the
// host: 10,000 times in all the rounds of a soak.
func (h *hostVM) strangers() (string, error) {
	ctx, cancel := soon()
	defer cancel()
	var out, errout strings.Builder
	r, err := h.guest.Exec(ctx, api.ExecRequest{
		Cmd:  []string{self, "strangers", fmt.Sprint(h.config.CID), fmt.Sprint(200 * h.rounds)},
		User: fmt.Sprint(stranger), Stdout: &out, Stderr: &errout, Timeout: hostPatience,
	})
	if err == nil && r.ExitCode != 0 {
		err = fmt.Errorf("%+v: %.300s", r, errout.String())
	}
	return out.String(), err
}

// halfClose ends its sending behind the request, while the command runs.
func (h *hostVM) halfClose() (string, error) {
	c, err := h.dial()
	if err != nil {
		return "", err
	}
	defer c.Close()
	if _, err := io.WriteString(c, object(map[string]any{"operation": "exec", "cmd": []string{self, "bytes", "70000", "500"}})); err != nil {
		return "", err
	}
	if err := c.closeWrite(); err != nil {
		return "", err
	}
	r, err := c.receive()
	if err == nil && !bytes.Equal(r.Data.Stdout, allBytes(70000)) {
		err = fmt.Errorf("success %v, %d bytes", r.Success, len(r.Data.Stdout))
	}
	return "", err
}

// reborn kills the machine under a connection, which must break at once, and
// starts another, which is reached under the same address.
func (h *hostVM) reborn() (string, error) {
	c, err := h.dial()
	if err != nil {
		return "", err
	}
	defer c.Close()
	if _, err := io.WriteString(c, object(map[string]any{"operation": "exec", "cmd": []string{self, "nap", "600000"}})); err != nil {
		return "", err
	}
	broke := make(chan error, 1)
	go func() {
		r, err := c.receive()
		if err == nil {
			broke <- fmt.Errorf("a reply: %+v", r)
			return
		}
		broke <- nil
	}()
	h.end()
	if err := <-broke; err != nil {
		return "", err
	}
	if _, err := h.dial(); err == nil {
		return "", errors.New("connected to a machine that is gone")
	}
	return h.early()
}

// powerOff asks for it as a host does, and waits for the machine to be gone.
func (h *hostVM) powerOff() (string, error) {
	ctx, cancel := soon()
	defer cancel()
	// The reply may be lost: the agent is among what is ended.
	_, _ = h.guest.Exec(ctx, api.ExecRequest{Cmd: []string{"hf-poweroff"}})
	return "", h.machine.Wait(ctx)
}
