package rootfsskel

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"
)

func TestUserlandFillsGaps(t *testing.T) {
	box := filepath.Join(t.TempDir(), "bb")
	if err := os.WriteFile(box, []byte("box"), 0o755); err != nil {
		t.Fatal(err)
	}
	c := config(t, overlay(t, map[string]string{"usr/sbin/ip": "the overlay's"}))
	c.Userland = &Userland{Box: box, Names: []string{"sh", "ls", "ip", "poweroff", "init"}}
	tree := build(t, c)
	for p, want := range map[string]string{
		"/bbin/bb":           "-0755 0:0 3 /bbin/bb",
		"/usr/bin/sh":        "l0777 0:0 - /usr/bin/sh -> ../../bbin/bb",
		"/usr/bin/ls":        "l0777 0:0 - /usr/bin/ls -> ../../bbin/bb",
		"/usr/bin/ip":        "", // the overlay's, in another directory
		"/usr/bin/poweroff":  "", // ours
		"/usr/bin/init":      "",
		"/usr/sbin/poweroff": "l0777 0:0 - /usr/sbin/poweroff -> ../../init",
	} {
		if got := entryAt(tree, p); got != want {
			t.Errorf("%s: %q, want %q", p, got, want)
		}
	}
}

func TestUnpack(t *testing.T) {
	dir := t.TempDir()
	archive := filepath.Join(dir, "cpio")
	write := func(records ...cpio.Record) {
		t.Helper()
		var b bytes.Buffer
		w := cpio.Newc.Writer(&b)
		if err := cpio.WriteRecords(w, records); err != nil {
			t.Fatal(err)
		}
		if err := cpio.WriteTrailer(w); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(archive, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(cpio.Directory("bbin", 0o755), cpio.StaticFile("bbin/bb", "the box", 0o755),
		cpio.Symlink("bbin/ls", "bb"), cpio.Symlink("bbin/cat", "bb"), cpio.Symlink("bin/sh", "../bbin/ls"), cpio.Symlink("init", "bbin/init"))
	if err := unpack(archive, dir); err != nil {
		t.Fatal(err)
	}
	u, err := readUserland(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(u.Names, []string{"cat", "ls"}) {
		t.Errorf("commands %q", u.Names)
	}
	if data, err := os.ReadFile(u.Box); err != nil || string(data) != "the box" {
		t.Errorf("the box: %q, %v", data, err)
	}
	write(cpio.Symlink("bbin/ls", "bb"))
	if err := unpack(archive, t.TempDir()); err == nil {
		t.Error("an archive without the box was taken")
	}
}

func TestUserlandKey(t *testing.T) {
	goTool := tool(t, "go", "golang-go")
	dir := overlay(t, map[string]string{"go.mod": "module x\n\ngo 1.26.0\n", "sh/main.go": "package main"})
	ub := UserlandBuild{Module: dir, Arch: "amd64", Log: io.Discard}
	a, err := ub.key(goTool)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := ub.key(goTool); err != nil || a != b {
		t.Errorf("the key changes by itself: %s, %s, %v", a, b, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "sh/main.go"), []byte("package main "), 0o644); err != nil {
		t.Fatal(err)
	}
	if b, err := ub.key(goTool); err != nil || a == b {
		t.Errorf("a change of a source is not in the key: %s, %v", b, err)
	}
}

// TestUserlandRuns builds the userland and runs commands in the root filesystem: it
// takes a minute where the cache is cold, and root for the chroot.
func TestUserlandRuns(t *testing.T) {
	cache := os.Getenv("HF_TEST_USERLAND_CACHE")
	switch {
	case cache == "":
		t.Skip("HF_TEST_USERLAND_CACHE names no directory to build the userland in (a minute)")
	case os.Geteuid() != 0:
		t.Skip("only root can chroot")
	}
	module, err := filepath.Abs("userland")
	if err != nil {
		t.Fatal(err)
	}
	c := config(t)
	ub := UserlandBuild{Module: module, Cache: cache, Arch: runtime.GOARCH, Log: os.Stderr}
	if c.Userland, err = ub.Make(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "rootfs")
	if err := build(t, c).WriteDir(dir, nil); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		argv   []string
		stdout string
		status int
	}{
		{[]string{"/bin/true"}, "", 0},
		{[]string{"/bin/false"}, "", 1},
		{[]string{"sh", "-c", "echo hi; cat /etc/hostname"}, "hi\nhyperfleet\n", 0},
		{[]string{"sh", "-c", `echo "$0 $1 $#"; exit 7`, "name", "one", "two"}, "name one 2\n", 7},
		{[]string{"sh", "-ec", "false; echo not here"}, "", 1},
		{[]string{"sh", "-c", "nosuchcommand"}, "", 127},
		{[]string{"env", "-i", "A=b", "env"}, "A=b\n", 0},
		{[]string{"sh", "-c", "seq 3 | sort -r | head -n 1"}, "3\n", 0},
	} {
		out, status := inRoot(t, dir, test.argv)
		if out != test.stdout || status != test.status {
			t.Errorf("%s: %q, status %d; want %q, %d", strings.Join(test.argv, " "), out, status, test.stdout, test.status)
		}
	}
}

// inRoot runs a command with the directory as its root, as the agent does: the name
// as it was given is argv[0], the PATH decides what it is.
func inRoot(t *testing.T, dir string, argv []string) (string, int) {
	t.Helper()
	const pathVar = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
	cmd := &exec.Cmd{Path: argv[0], Args: argv, Dir: "/", Env: []string{"PATH=" + pathVar}}
	if !strings.Contains(argv[0], "/") {
		cmd.Path = "/usr/bin/" + argv[0]
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: dir}
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%q: %v", argv, err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}
