package rootfsskel

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// goProgram builds a program of a module.
func goProgram(t *testing.T, module, say string) string {
	t.Helper()
	goTool := tool(t, "go", "golang-go")
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":  "module " + module + "\n\ngo 1.26.0\n",
		"main.go": fmt.Sprintf("package main\n\nfunc main() { println(%q) }\n", say),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(goTool, "build", "-ldflags", "-s -w", "-o", "prog", ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-buildvcs=false -trimpath")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return filepath.Join(dir, "prog")
}

// installed is what an installation said and did.
type installed struct {
	err     error
	told    []string
	refused map[string]error
}

func install(dir, host string) installed {
	in := installed{refused: make(map[string]error)}
	i := Installation{
		Program: Program{Host: host, Path: "/init", Links: []string{"/sbin/init", "/usr/sbin/hf-agent", "/usr/sbin/poweroff"}},
		Module:  "example.org/ours",
		Told:    func(s string) { in.told = append(in.told, s) },
		Refused: func(p string, err error) { in.refused[p] = err },
	}
	in.err = i.Install(dir)
	return in
}

func TestInstall(t *testing.T) {
	v1, v2 := goProgram(t, "example.org/ours", "one"), goProgram(t, "example.org/ours", "two")
	other := goProgram(t, "example.org/other", "other")
	otherText, err := os.ReadFile(other)
	if err != nil {
		t.Fatal(err)
	}
	oldText, err := os.ReadFile(v1)
	if err != nil {
		t.Fatal(err)
	}
	outside := t.TempDir() // a directory of the host that nothing may reach
	for _, c := range []struct {
		name    string
		files   map[string]string
		fails   bool
		refused []string
		kept    map[string]string // path → content that has to be there still
		links   map[string]string
	}{
		{name: "an empty directory",
			links: map[string]string{"sbin/init": "../init", "usr/sbin/hf-agent": "../../init"}},
		{name: "an earlier one of ours", files: map[string]string{"init": string(oldText), "sbin/init": "->/init", "usr/sbin/poweroff": string(oldText)},
			links: map[string]string{"sbin/init": "../init", "usr/sbin/poweroff": "../../init"}},
		{name: "someone else's init", files: map[string]string{"init": "#!/bin/sh\n"}, fails: true,
			kept: map[string]string{"init": "#!/bin/sh\n"}},
		{name: "another Go program", files: map[string]string{"init": string(otherText)}, fails: true,
			kept: map[string]string{"init": string(otherText)}},
		{name: "a link to something else", files: map[string]string{"init": "->lib/systemd/systemd"}, fails: true,
			links: map[string]string{"init": "lib/systemd/systemd"}},
		{name: "systemd stays", files: map[string]string{"sbin/init": "->../lib/systemd/systemd", "usr/sbin/poweroff": "busybox"},
			refused: []string{"/sbin/init", "/usr/sbin/poweroff"},
			kept:    map[string]string{"usr/sbin/poweroff": "busybox"},
			links:   map[string]string{"sbin/init": "../lib/systemd/systemd", "usr/sbin/hf-agent": "../../init"}},
		{name: "merged usr", files: map[string]string{"usr/sbin/": "", "sbin": "->usr/sbin"},
			links: map[string]string{"usr/sbin/init": "../../init"}},
		{name: "absolute merged usr", files: map[string]string{"usr/sbin/": "", "sbin": "->/usr/sbin"},
			links: map[string]string{"usr/sbin/init": "../../init"}},
		{name: "an absolute link further down", files: map[string]string{"sbin/": "", "usr/sbin": "->/sbin"},
			links: map[string]string{"sbin/hf-agent": "../init"}},
		{name: "a link to the host is one inside", files: map[string]string{"sbin": "->" + outside, "usr": "->../../../../../../../.." + outside},
			links: map[string]string{filepath.Join(outside, "init"): strings.Repeat("../", strings.Count(outside, "/")) + "init"}},
		{name: "a file in the way", files: map[string]string{"sbin": "a file"},
			refused: []string{"/sbin/init"}, kept: map[string]string{"sbin": "a file"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := overlay(t, c.files)
			in := install(dir, v2)
			if (in.err != nil) != c.fails {
				t.Fatalf("error %v", in.err)
			}
			if c.fails && !errors.Is(in.err, ErrNotOurs) {
				t.Errorf("%v: want ErrNotOurs", in.err)
			}
			if !c.fails {
				out, err := exec.Command(filepath.Join(dir, "init")).CombinedOutput()
				if err != nil || string(out) != "two\n" {
					t.Errorf("the installed program: %q, %v", out, err)
				}
			}
			if len(in.refused) != len(c.refused) {
				t.Errorf("refused %v, want %v", in.refused, c.refused)
			}
			for _, p := range c.refused {
				if in.refused[p] == nil {
					t.Errorf("%s was not refused", p)
				}
			}
			for p, want := range c.kept {
				if got, err := os.ReadFile(filepath.Join(dir, p)); err != nil || string(got) != want {
					t.Errorf("%s was not kept: %v", p, err)
				}
			}
			for p, want := range c.links {
				if got, err := os.Readlink(filepath.Join(dir, p)); err != nil || got != want {
					t.Errorf("%s -> %q, %v; want %q", p, got, err, want)
				}
			}
			if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
			if names, _ := os.ReadDir(outside); len(names) > 0 {
				t.Fatalf("it reached out of the root: %v", names)
			}
			if !c.fails { // a second time changes no link
				if again := install(dir, v2); again.err != nil || len(again.told) != 1 {
					t.Errorf("the second time: %v, %q", again.err, again.told)
				}
			}
		})
	}
}

// What was missing is for every user of that system, whoever installs; what was there
// stays as it is.
func TestInstallUmask(t *testing.T) {
	dir := overlay(t, map[string]string{"sbin/": ""})
	if err := os.Chmod(filepath.Join(dir, "sbin"), 0o750); err != nil {
		t.Fatal(err)
	}
	defer unix.Umask(unix.Umask(0o077))
	if in := install(dir, goProgram(t, "example.org/ours", "one")); in.err != nil || len(in.refused) != 0 {
		t.Fatalf("%v, %v", in.err, in.refused)
	}
	for name, want := range map[string]os.FileMode{"init": 0o755, "usr": 0o755, "usr/sbin": 0o755, "sbin": 0o750} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: %v, want %v, %v", name, st.Mode(), want, err)
		}
	}
}

func TestIsRoot(t *testing.T) {
	if !IsRoot("/") || !IsRoot("/..") || IsRoot(t.TempDir()) || IsRoot("/no/such/dir") {
		t.Error("the root of this machine is not told from others")
	}
}
