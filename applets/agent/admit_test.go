//go:build linux

package agent

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hyperfleet/init/applets/internal/transport"
)

// TestPolicy is the table of PROTOCOL.md, "Who is admitted".
func TestPolicy(t *testing.T) {
	vsock := func(cid, port uint32) transport.Peer { return transport.Peer{CID: cid, Port: port, UID: -1, PID: -1} }
	local := func(uid int) transport.Peer { return transport.Peer{UID: uid, PID: 7} }
	const yes, no = true, false
	for _, row := range []struct {
		peer                        transport.Peer
		host, hostAndRoot, everyone bool
	}{
		{vsock(2, 1<<20), yes, yes, yes},
		{vsock(2, 1), yes, yes, yes},
		{vsock(1, 1023), no, yes, yes},
		{vsock(1, 0), no, yes, yes},
		{vsock(1, 1024), no, no, yes},
		{vsock(1, 1<<32-1), no, no, yes},
		{vsock(0, 1), no, no, yes}, // the hypervisor
		{vsock(3, 1), no, no, yes}, // this or another guest
		{vsock(1<<32-1, 1), no, no, yes},
		{local(0), no, yes, yes},
		{local(1), no, no, yes},
		{local(1000), no, no, yes},
		{local(65534), no, no, yes},
		{local(1<<32 - 1), no, no, yes},
	} {
		for p, want := range map[transport.Policy]bool{transport.HostOnly: row.host, transport.HostAndRoot: row.hostAndRoot, transport.Anyone: row.everyone} {
			if got := p.Admits(row.peer); got != want {
				t.Errorf("%q admits %v: %v", p, row.peer, got)
			}
		}
	}
}

// TestUnixPeers: who is refused gets 0 bytes, and nothing that it sends counts.
func TestUnixPeers(t *testing.T) {
	needRoot(t)
	for _, row := range []struct {
		peers      string
		root, user bool
	}{{"host", false, false}, {"host+root", true, false}, {"any", true, true}} {
		a := spawn(t, prepare{}, nil, "--peers="+row.peers)
		if st, err := os.Stat(a.socket); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("the socket: %v %v", st.Mode(), err)
		}
		// The mode is a lock of its own; here, what is behind it.
		if err := cmp.Or(os.Chmod(a.socket, 0o666), os.Chmod(filepath.Dir(a.socket), 0o755)); err != nil {
			t.Fatal(err)
		}
		done := filepath.Join(filepath.Dir(a.socket), "done")
		for _, as := range []struct {
			uid      uint32
			admitted bool
		}{{0, row.root}, {1000, row.user}} {
			out := connectAs(t, as.uid, a.socket, object{"operation": "exec", "cmd": []string{"touch", done}}.line())
			_, err := os.Stat(done)
			if served := strings.Contains(out, "success"); served != as.admitted || (err == nil) != as.admitted || !served && out != "" {
				t.Errorf("--peers=%s, uid %d: %q, has run: %v", row.peers, as.uid, out, err == nil)
			}
			_ = os.Remove(done)
		}
	}
}

// connectAs says something to a socket as another user, and returns the answer.
func connectAs(t *testing.T, uid uint32, socket, request string) string {
	t.Helper()
	// The test binary may be where only root can go.
	self := filepath.Join(shortDir(t), "hf-connect")
	exe, err := os.Executable()
	if err == nil {
		err = exec.Command("cp", exe, self).Run()
	}
	if err = cmp.Or(err, os.Chmod(filepath.Dir(self), 0o755), os.Chmod(self, 0o755)); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(self, socket, request)
	c.Dir = "/"
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := c.Output()
	if err != nil {
		t.Error(fmt.Errorf("as uid %d: %w: %s", uid, err, out))
	}
	return string(out)
}

// TestFlags: a wrong one is one line, and 2.
func TestFlags(t *testing.T) {
	for _, row := range []struct {
		args   string
		status int
		says   string
	}{
		{"--version", 0, "hf-agent "},
		{"--help", 0, "-max-connections"},
		{"--nosuch", 2, "nosuch"},
		{"extra", 2, `unexpected argument "extra"`},
		{"--peers=guest", 2, "host+root"},
		{"--listen=tcp:52", 2, "vsock:PORT"},
		{"--listen=vsock:0", 2, "vsock:PORT"},
		{"--listen=vsock:4294967295", 2, "vsock:PORT"},
		{"--listen=unix:relative", 2, "absolute"},
		{"--max-line=0", 2, "--max-line must be greater than 0"},
		{"--max-content=-1", 2, "--max-content must be greater than 0"},
		{"--max-memory=65535", 2, "--max-memory must be at least 65536"},
		{"--max-connections=x", 2, "max-connections"},
		{"--idle-timeout=5", 2, "idle-timeout"},
		{"--stall-timeout=0s", 2, "--stall-timeout must be greater than 0"},
		{"--max-sessions=-2", 2, "--max-sessions must be greater than 0"},
		{"--busy-timeout=-1s", 2, "--busy-timeout must be at least 0"},
		{"--linger=-1ms", 2, "--linger must be at least 0"},
	} {
		var out, errs strings.Builder
		status := Run([]string{"hf-agent", row.args}, strings.NewReader(""), &out, &errs)
		said := out.String() + errs.String()
		if status != row.status || !strings.Contains(said, row.says) || status == 2 && (strings.Count(said, "\n") != 1 || out.Len() > 0) {
			t.Errorf("%s: %d %q", row.args, status, said)
		}
	}
}
