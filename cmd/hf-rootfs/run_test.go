//go:build linux

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/hyperfleet/init/applets"
)

// TestMain lets the test binary be the program, run as another user.
func TestMain(m *testing.M) {
	if os.Getenv("HF_ROOTFS_MAIN") != "" {
		main()
	}
	os.Exit(m.Run())
}

// self is a program for this machine, to be installed: this test.
func self(t *testing.T) string {
	t.Helper()
	p, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestUsage(t *testing.T) {
	init := "--init=" + self(t)
	other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out")
	for _, c := range []struct {
		args   []string
		status int
		say    string // on stderr for an error, else on stdout
	}{
		{[]string{"--help"}, 0, "usage: hf-rootfs"},
		{[]string{"-h"}, 0, "usage: hf-rootfs"},
		{[]string{"--version"}, 0, "hf-rootfs "},
		{[]string{"--nonsense"}, 2, "nonsense"},
		{nil, 2, "no format"},
		{[]string{init}, 2, "no format"},
		{[]string{init, "tar", out}, 2, "tar: no such format"},
		{[]string{init, "cpio"}, 2, "cpio: no output"},
		{[]string{init, "cpio", out, "more"}, 2, "more: one argument too many"},
		{[]string{"cpio", out}, 2, "--init PATH is missing"},
		{[]string{init, "--arch", "mips", "cpio", out}, 2, "--arch mips"},
		{[]string{init, "--compress", "lzma", "cpio", out}, 2, "--compress lzma"},
		{[]string{init, "--size", "many", "ext4", out}, 2, "flag -size"},
		{[]string{init, "--size", "-1", "ext4", out}, 2, "flag -size"},
		{[]string{init, "--size", "99999999T", "ext4", out}, 2, "flag -size"},
		{[]string{init, "--size", "9223372036854775807T", "ext4", out}, 2, "flag -size"},
		{[]string{init, "--modules-extra", "x", "cpio", out}, 2, "--modules-extra needs --modules"},
		{[]string{"--init=/no/such/file", "cpio", out}, 1, "/no/such/file"},
		{[]string{"--init=" + text, "cpio", out}, 1, "not a program for Linux"},
		{[]string{init, "--arch", other, "cpio", out}, 1, "--arch is " + other},
		{[]string{init, "--overlay", "/no/such/dir", "cpio", out}, 1, "/no/such/dir"},
		{[]string{init, "--modules", "/no/such/dir", "cpio", out}, 1, "/no/such/dir"},
		{[]string{init, "--userland", "--userland-module", "/no/such/dir", "cpio", out}, 1, "/no/such/dir"},
		{[]string{init, "--size", "1M", "ext4", out}, 1, "too small"},
		{[]string{init, "install", "/"}, 1, "this machine's own root"},
		{[]string{init, "install", "/no/such/dir"}, 1, "/no/such/dir"},
	} {
		var stdout, stderr bytes.Buffer
		status := run(c.args, &stdout, &stderr)
		said, silent := &stderr, &stdout
		if c.status == 0 {
			said, silent = &stdout, &stderr
		}
		if status != c.status || !strings.Contains(said.String(), c.say) || silent.Len() > 0 {
			t.Errorf("%q: status %d, stdout %q, stderr %q", c.args, status, &stdout, &stderr)
		}
		if c.status != 0 && strings.Count(stderr.String(), "\n") != 1 {
			t.Errorf("%q: not one line: %q", c.args, &stderr)
		}
		if left, _ := filepath.Glob(filepath.Join(filepath.Dir(out), "*")); len(left) > 0 {
			t.Errorf("%q: left behind: %q", c.args, left)
		}
		if left, _ := filepath.Glob(filepath.Join(filepath.Dir(out), ".*")); len(left) > 0 {
			t.Errorf("%q: left behind: %q", c.args, left)
		}
	}
}

func TestBadEpoch(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "yesterday")
	var stdout, stderr bytes.Buffer
	if status := run([]string{"--init=" + self(t), "list", "-"}, &stdout, &stderr); status != 2 || !strings.Contains(stderr.String(), "yesterday") {
		t.Errorf("status %d, %q", status, &stderr)
	}
}

// TestList checks that the tables of the program are what ends up in the tree.
func TestList(t *testing.T) {
	var stdout, stderr bytes.Buffer
	// Flags may stand anywhere.
	if status := run([]string{"list", "--init", self(t), "-"}, &stdout, &stderr); status != 0 {
		t.Fatal(stderr.String())
	}
	for _, l := range applets.Links() {
		if !strings.Contains(stdout.String(), "/"+filepath.Base(l)+" -> ../../init\n") {
			t.Errorf("no link %s", l)
		}
	}
	for _, m := range applets.MountPoints() {
		if !strings.Contains(stdout.String(), " "+m.Target+"\n") {
			t.Errorf("no mount point %s", m.Target)
		}
	}
}

// TestAnyUser has root and another user make the same archive and image.
func TestAnyUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		t.Skip("mkfs.ext4 is missing (package e2fsprogs)")
	}
	// Where the other user can read the program and write.
	dir, err := os.MkdirTemp("", "hf-rootfs-test.*")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	prog, err := os.ReadFile(self(t))
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "prog")
	for _, err := range []error{os.WriteFile(bin, prog, 0o755), os.Chmod(dir, 0o777), os.Chmod(bin, 0o755)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, format := range []string{"cpio", "ext4"} {
		var made [2][]byte
		for i, id := range []uint32{0, 65534} {
			out := filepath.Join(dir, format+string(rune('0'+i)))
			cmd := exec.Command(bin, "--init", bin, format, out)
			cmd.Dir = "/"
			// No sbin in it, as on Debian for who is not root.
			cmd.Env = []string{"HF_ROOTFS_MAIN=1", "PATH=/usr/bin:/bin", "TMPDIR=" + dir}
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: id, Gid: id}}
			if said, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s as %d: %v: %s", format, id, err, said)
			}
			if made[i], err = os.ReadFile(out); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(made[0], made[1]) {
			t.Errorf("%s: root and another user make different ones", format)
		}
	}
	// A directory can't be the same: it is made, and the note says what is not.
	cmd := exec.Command(bin, "--init", bin, "dir", filepath.Join(dir, "rootfs"))
	cmd.Env = []string{"HF_ROOTFS_MAIN=1", "PATH=/usr/bin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	for range 2 {
		said, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(said), "7 device nodes left out") || strings.Count(string(said), "\n") != 1 {
			t.Errorf("dir as another user: %v: %s", err, said)
		}
		cmd = &exec.Cmd{Path: cmd.Path, Args: cmd.Args, Env: cmd.Env, SysProcAttr: cmd.SysProcAttr}
	}
	if _, err := os.Stat(filepath.Join(dir, "rootfs/root")); err != nil {
		t.Error(err)
	}
}

func TestInstallCommand(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "sbin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "sbin/init"), []byte("theirs"), 0o755); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	if status := run([]string{"--init", self(t), "install", dir}, &stdout, &stderr); status != 0 {
		t.Fatal(stderr.String())
	}
	if !strings.Contains(stdout.String(), "/init: installed\n") || !strings.Contains(stderr.String(), "install: /sbin/init: is there and not ours") {
		t.Errorf("stdout %q, stderr %q", &stdout, &stderr)
	}
	if target, err := os.Readlink(filepath.Join(dir, "usr/sbin/hf-agent")); err != nil || target != "../../init" {
		t.Errorf("hf-agent -> %q, %v", target, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "init"), []byte("theirs"), 0o755); err != nil {
		t.Fatal(err)
	}
	stderr.Reset()
	if status := run([]string{"--init", self(t), "install", dir}, &stdout, &stderr); status != 1 || !strings.Contains(stderr.String(), "/init: is there and not ours") {
		t.Errorf("status %d, %q", status, &stderr)
	}
}
