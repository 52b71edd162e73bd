//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// An answer is what hf-vsock-client gave back.
type answer struct {
	status      int
	out, errout string
}

// client runs hf-vsock-client as it is run in a guest: with no target named.
func client(stdin string, args ...string) (answer, error) {
	return clientAs(0, stdin, args...)
}

func clientAs(uid uint32, stdin string, args ...string) (answer, error) {
	cmd := exec.Command("hf-vsock-client", args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errout bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errout
	if uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	timer := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	err := cmd.Run()
	timer.Stop()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return answer{}, err
	}
	return answer{cmd.ProcessState.ExitCode(), out.String(), errout.String()}, nil
}

// want calls the client and holds its whole answer against what is wanted.
func want(status int, out, stdin string, args ...string) error {
	a, err := client(stdin, args...)
	if err != nil {
		return err
	}
	if a.status != status || a.out != out {
		return fmt.Errorf("%.60q: status %d, output %.200q, errors %.200q; want status %d, output %.200q",
			args, a.status, a.out, a.errout, status, out)
	}
	return nil
}

// fields calls the client with --json and returns the reply's data.
func fields(args ...string) (map[string]any, error) {
	a, err := client("", append([]string{"--json"}, args...)...)
	if err != nil {
		return nil, err
	}
	var reply struct {
		Success bool
		Error   string
		Data    map[string]any
	}
	if err := json.Unmarshal([]byte(a.out), &reply); err != nil {
		return nil, fmt.Errorf("%q: status %d, %q, %q: %w", args, a.status, a.out, a.errout, err)
	}
	if !reply.Success {
		return nil, fmt.Errorf("%q: %s", args, reply.Error)
	}
	return reply.Data, nil
}

func ping() error {
	d, err := fields("ping")
	if err == nil && d["pong"] != true {
		err = fmt.Errorf("the answer is %v", d)
	}
	return err
}

// vsockChecks are about the way over AF_VSOCK and who may take it.
func vsockChecks() []check {
	return []check{
		{"vsock is there", func() (string, error) {
			fd, err := syscall.Socket(afVsock, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
			if err == nil {
				syscall.Close(fd)
			}
			return "", err
		}},
		{"ping over vsock's loopback", func() (string, error) {
			return "", plainPing("--cid", "1")
		}},
		{"ping over the local socket", func() (string, error) {
			return "", plainPing("--unix", localSocket)
		}},
		{"it listens on every CID", everyCID},
		{"a user is kept out of vsock", func() (string, error) { return refused("--cid", "1") }},
		{"a user is kept out of the local socket", func() (string, error) { return refused("--unix", localSocket) }},
		{"the local socket is for root alone", func() (string, error) {
			st, err := os.Stat(localSocket)
			if err == nil && (st.Mode().Perm() != 0o600 || st.Mode()&fs.ModeSocket == 0) {
				err = fmt.Errorf("%s is %v", localSocket, st.Mode())
			}
			return "", err
		}},
	}
}

const (
	afVsock     = 40 // AF_VSOCK
	localSocket = "/run/hyperfleet.sock"
)

func plainPing(target ...string) error {
	a, err := client("", append(target, "--json", "ping")...)
	if err == nil && (a.status != 0 || !strings.Contains(a.out, `"pong"`)) {
		err = fmt.Errorf("status %d, %q, %q", a.status, a.out, a.errout)
	}
	return err
}

// refused calls the agent as a user other than root.
func refused(target ...string) (string, error) {
	a, err := clientAs(1000, "", append(target, "exec", "--", self, "say", "in")...)
	if err == nil && (a.status == 0 || a.out != "") {
		err = fmt.Errorf("uid 1000 got in: status %d, %q", a.status, a.out)
	}
	return strings.TrimSpace(a.errout), err
}

// localChecks are for a guest whose kernel has no vsock at all.
func localChecks() []check {
	return []check{
		{"vsock is not there", func() (string, error) {
			fd, err := syscall.Socket(afVsock, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
			if err == nil {
				syscall.Close(fd)
				return "", errors.New("AF_VSOCK sockets can be made: this tests nothing")
			}
			return "", nil
		}},
	}
}

// opChecks call every operation. Whether that is over vsock or the local socket
// is for the client to find.
func opChecks() []check {
	const file, text = "/tmp/guestcheck", "hello\x00 \xff world\n"
	binary := string(allBytes(1 << 20))
	same := func(status int, out, stdin string, args ...string) func() (string, error) {
		return func() (string, error) { return "", want(status, out, stdin, args...) }
	}
	return []check{
		{"ping", func() (string, error) { return "", ping() }},
		{"info", info},
		{"file_write", same(0, "", text, "write", "--mode", "0640", file)},
		{"what was written", func() (string, error) { return "", sameText(file, text) }},
		{"file_write appends", same(0, "", "more", "write", "--append", file)},
		{"file_read", same(0, text+"more", "", "read", file)},
		{"file_stat", func() (string, error) {
			d, err := fields("stat", file)
			if err == nil && (d["size"] != float64(len(text)+4) || d["mode"] != "640" || d["is_dir"] != false || d["path"] != file) {
				err = fmt.Errorf("%v", d)
			}
			return "", err
		}},
		{"a megabyte of every byte, there", same(0, "", binary, "write", file)},
		{"a megabyte of every byte, back", same(0, binary, "", "read", file)},
		{"file_delete", same(0, "", "", "rm", file)},
		{"what is gone", func() (string, error) {
			a, err := client("", "stat", file)
			if err == nil && (a.status != 1 || a.errout == "") {
				err = fmt.Errorf("status %d, %q", a.status, a.errout)
			}
			return strings.TrimSpace(a.errout), err
		}},
		{"exec", same(0, "out", "", "exec", "--", self, "say", "out", "err")},
		{"exec keeps errors apart", func() (string, error) {
			a, err := client("", "exec", "--", self, "say", "out", "err")
			if err == nil && (a.out != "out" || a.errout != "err") {
				err = fmt.Errorf("%q, %q", a.out, a.errout)
			}
			return "", err
		}},
		{"exec keeps the status", same(7, "", "", "exec", "--", self, "exit", "7")},
		{"exec looks in PATH, runs no shell", same(0, `["a b" "$HOME" "; id"]`, "", "exec", "--", "guestcheck", "args", "a b", "$HOME", "; id")},
		{"exec's environment", same(0, "there", "", "exec", "-e", "HERE=there", "--", self, "env", "HERE")},
		{"exec's directory", same(0, "/usr", "", "exec", "-w", "/usr", "--", self, "pwd")},
		{"exec's input", same(0, text, text, "exec", "-i", "--", self, "cat")},
		{"exec's output is lossless", same(0, string(allBytes(70000)), "", "exec", "--", self, "bytes", "70000")},
		{"exec's time limit", func() (string, error) {
			begin := time.Now()
			a, err := client("", "exec", "--timeout", "300ms", "--", self, "nap", "100000")
			took := time.Since(begin)
			if err == nil && (a.status < 128 || took > 30*time.Second) {
				err = fmt.Errorf("status %d after %v, %q", a.status, took, a.errout)
			}
			return fmt.Sprintf("status %d after %d ms", a.status, took.Milliseconds()), err
		}},
		{"exec of what is not there", same(127, "", "", "exec", "--", "no-such-command")},
		{"a bad request", func() (string, error) {
			a, err := client("", "raw", `{"operation":"file_read"}`)
			if err == nil && (!strings.Contains(a.out, `"success":false`) || !strings.Contains(a.out, "path")) {
				err = fmt.Errorf("%q, %q", a.out, a.errout)
			}
			return strings.TrimSpace(a.out), err
		}},
		{"64 callers at once", crowd},
	}
}

func info() (string, error) {
	d, err := fields("info")
	if err != nil {
		return "", err
	}
	ops, _ := d["operations"].([]any)
	have := fmt.Sprint(ops)
	for _, op := range []string{"ping", "info", "file_read", "file_write", "file_stat", "file_delete", "exec"} {
		if !strings.Contains(have, op) {
			return "", fmt.Errorf("operations %v: no %s", ops, op)
		}
	}
	if d["version"] == nil || d["protocol"] == nil {
		return "", fmt.Errorf("no version or protocol in %v", d)
	}
	return fmt.Sprintf("version %v, protocol %v", d["version"], d["protocol"]), nil
}

// crowd has many callers at once; none may be refused. Over vsock's loopback root has
// 512 low ports, and vsock no TIME_WAIT: now and then a caller meets what the last one
// of its port has left, and tries again.
func crowd() (string, error) {
	const callers, mostLost = 64, 4
	var lost atomic.Int32
	errs := make([]error, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			errs[i] = ping()
			if errs[i] != nil && strings.Contains(errs[i].Error(), "closed the connection without a reply") && lost.Add(1) <= mostLost {
				errs[i] = ping()
			}
		})
	}
	wg.Wait()
	failed := 0
	for _, err := range errs {
		if err != nil {
			failed++
		}
	}
	if err := errors.Join(errs...); err != nil {
		return "", fmt.Errorf("%d of %d: %.300s", failed, callers, err.Error())
	}
	return fmt.Sprintf("%d tried twice", lost.Load()), nil
}
