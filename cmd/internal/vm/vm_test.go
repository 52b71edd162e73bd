package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestCPUInfo(t *testing.T) {
	for _, c := range []struct {
		in   string
		want int
	}{
		{"model name\t: Intel(R) Xeon(R) CPU @ 2.20GHz\ncpu MHz\t\t: 800.000\n", 2_200_000},
		{"model name\t: AMD EPYC\ncpu MHz\t\t: 2596.142\n", 2_596_142},
		{"Processor\t: AArch64\n", 1_000_000},
		{"", 1_000_000},
	} {
		if got := cpuinfoKHz(c.in); got != c.want {
			t.Errorf("cpuinfoKHz(%q) = %d, want %d", c.in, got, c.want)
		}
	}
}

func TestFirstImage(t *testing.T) {
	for _, c := range []struct{ in, image, version string }{
		{"linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n", "linux-image-6.1.0-56-cloud-amd64", "6.1.0-56-cloud-amd64"},
		{"linux-image-virtual\n  Depends: linux-image-6.8.0-50-generic\n", "linux-image-6.8.0-50-generic", "6.8.0-50-generic"},
		{"x\n  Depends: linux-image-unsigned-6.8.0-50-generic\n", "linux-image-unsigned-6.8.0-50-generic", "6.8.0-50-generic"},
		{"linux-image-amd64\n  Depends: initramfs-tools\n", "", ""},
	} {
		if image, version := firstImage(c.in); image != c.image || version != c.version {
			t.Errorf("firstImage(%q) = %q, %q", c.in, image, version)
		}
	}
}

func TestFindKernel(t *testing.T) {
	dir := t.TempDir()
	if _, err := findKernel(dir); err == nil {
		t.Error("an empty directory holds a kernel")
	}
	os.MkdirAll(filepath.Join(dir, "boot"), 0o755)
	os.WriteFile(filepath.Join(dir, "boot", "vmlinuz-6.1.0-5-x"), nil, 0o644)
	if _, err := findKernel(dir); err == nil {
		t.Error("a kernel whose modules are missing was taken")
	}
	for _, lib := range []string{"usr/lib", "lib"} {
		modules := filepath.Join(dir, lib, "modules", "6.1.0-5-x")
		os.MkdirAll(modules, 0o755)
		k, err := findKernel(dir)
		if err != nil || k.Modules != modules {
			t.Errorf("findKernel = %+v, %v; want modules %s", k, err, modules)
		}
	}
}

func TestOwnKernel(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "vmlinux")
	os.WriteFile(image, nil, 0o644)
	packaged, indexed := t.TempDir(), t.TempDir()
	os.Mkdir(filepath.Join(packaged, "kernel"), 0o755)
	os.WriteFile(filepath.Join(indexed, "modules.dep"), nil, 0o644)
	for _, c := range []struct {
		image, modules string
		ok             bool
	}{
		{image, "", true},
		{image, packaged, true},
		{image, indexed, true},
		{image, dir, false},
		{dir, "", false},
		{image + "no", "", false},
	} {
		if _, err := OwnKernel(c.image, c.modules); (err == nil) != c.ok {
			t.Errorf("OwnKernel(%q, %q): %v", c.image, c.modules, err)
		}
	}
}

func TestEnsureNamesWhatIsMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir()) // no apt-get here
	err := Ensure(t.Context(), io.Discard, []Need{
		{Programs: []string{"no-such-emulator"}, Packages: []string{"emulator"}, Why: "emulation"},
		{Files: []string{"/"}, Packages: []string{"never"}},
	})
	if err == nil || !strings.Contains(err.Error(), "no-such-emulator") || !strings.Contains(err.Error(), "emulator") {
		t.Fatalf("Ensure: %v", err)
	}
	if strings.Contains(err.Error(), "never") {
		t.Errorf("names what is there: %v", err)
	}
	if err := Ensure(t.Context(), io.Discard, []Need{{Files: []string{"/"}}}); err != nil {
		t.Errorf("nothing is missing: %v", err)
	}
}

func TestKernelParametersEndWithTheCallers(t *testing.T) {
	for _, a := range arches() {
		c := Config{Arch: a, Append: "quiet -- -d"}
		got := c.KernelParameters()
		if !strings.HasSuffix(got, " quiet -- -d") || !strings.Contains(got, "console="+a.Console) {
			t.Errorf("%s: %q", a.Name, got)
		}
		if tsc := strings.Contains(got, "tsc_early_khz="); tsc != (a.Name == "amd64") {
			t.Errorf("%s: %q", a.Name, got)
		}
		c.KVM = true
		if strings.Contains(c.KernelParameters(), "tsc") {
			t.Errorf("%s with KVM: %q", a.Name, c.KernelParameters())
		}
		if i := slices.Index(c.Argv(), "-cpu"); c.Argv()[i+1] != "host" {
			t.Errorf("%s with KVM: %q", a.Name, c.Argv())
		}
	}
}

func TestConsole(t *testing.T) {
	c := NewConsole()
	got := make(chan string)
	go func() {
		m, err := c.Expect(t.Context(), regexp.MustCompile(`ready in (\d+) ms`))
		got <- fmt.Sprint(m, err)
	}()
	for _, s := range []string{"\x1b[2J\x1bcone\r\n", "init: rea", "dy in 1", "2 ms\r\r\nrest"} {
		fmt.Fprint(c, s)
	}
	if s := <-got; s != "init: ready in 12 ms<nil>" {
		t.Errorf("Expect = %s", s)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if line, err := c.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a line without its end was returned: %q, %v", line, err)
	}
	c.end()
	if line, err := c.Next(t.Context()); line != "rest" || err != nil {
		t.Errorf("the last line: %q, %v", line, err)
	}
	if _, err := c.Next(t.Context()); !errors.Is(err, ErrEnded) {
		t.Errorf("after the end: %v", err)
	}
	if s := c.Tail(2); s != "init: ready in 12 ms\nrest" {
		t.Errorf("Tail = %q", s)
	}
}

func TestMachineEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	m, err := Start(ctx, []string{"sh", "-c", "echo up; exec sleep 600"}, nil, NewConsole())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Console.Expect(ctx, regexp.MustCompile("up")); err != nil {
		t.Fatal(err)
	}
	cancel()
	select {
	case <-m.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("the process outlived its context")
	}
	if m.Wait(t.Context()) == nil {
		t.Error("a machine that was killed reports no error")
	}
	if _, err := Start(t.Context(), []string{"/no/such/emulator"}, nil, NewConsole()); err == nil {
		t.Error("started what is not there")
	}
}

func TestFirecrackerConfig(t *testing.T) {
	f := Firecracker{Kernel: "/k/vmlinux", Initrd: "/k/initrd", Memory: 256, Append: "quiet rdinit=/init -- -d", Dir: t.TempDir()}
	argv, err := f.Argv()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(argv[len(argv)-1])
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Boot struct {
			Kernel string `json:"kernel_image_path"`
			Initrd string `json:"initrd_path"`
			Args   string `json:"boot_args"`
		} `json:"boot-source"`
		Drives  *[]any `json:"drives"` // Firecracker refuses a file without it
		Machine struct {
			Memory int `json:"mem_size_mib"`
			CPUs   int `json:"vcpu_count"`
		} `json:"machine-config"`
		Vsock struct {
			CID  int    `json:"guest_cid"`
			Path string `json:"uds_path"`
		} `json:"vsock"`
	}
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if got.Boot.Kernel != f.Kernel || got.Boot.Initrd != f.Initrd || got.Drives == nil ||
		got.Machine.Memory != 256 || got.Machine.CPUs < 1 || got.Vsock.CID < 3 || got.Vsock.Path != f.VsockPath() {
		t.Errorf("%s", b)
	}
	if a := got.Boot.Args; !strings.Contains(a, "reboot=k") || !strings.HasSuffix(a, " -- -d") {
		t.Errorf("boot_args %q: a restart must end Firecracker, and init's words come last", a)
	}
}
