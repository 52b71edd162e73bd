//go:build linux

package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"
)

// TestVMNoConsole boots a kernel whose serial port has no driver, so that it
// starts init without standard descriptors, with an empty /dev: a program whose
// start is the Go runtime's own dies of that, and the kernel panics. What the
// kernel says still comes out, by way of the console of its first moments. That
// the machine is powered off takes PID 1, the agent, and a command that it ran
// (FAULTS.md 2: "Console missing").
func TestVMNoConsole(t *testing.T) {
	for arch, noSerial := range map[string]string{
		"amd64": "8250.nr_uarts=0 earlyprintk=serial,ttyS0,115200,keep",
		"arm64": "initcall_blacklist=pl011_init earlycon=pl011,0x9000000 keep_bootcon",
	} {
		t.Run(arch, func(t *testing.T) {
			t.Parallel()
			b := getBench(t, arch)
			c := b.config("-d --on-exit=stay", "/hf-vsock-client exec -- /hf-poweroff")
			c.Append = noSerial + " " + c.Append
			c.Initrd = filepath.Join(t.TempDir(), "initramfs.cpio.gz")
			program, err := os.ReadFile(b.init)
			if err != nil {
				t.Fatal(err)
			}
			records := []cpio.Record{cpio.StaticFile("init", string(program), 0o755)}
			for _, name := range []string{"hf-vsock-client", "hf-poweroff"} {
				records = append(records, cpio.Symlink(name, "/init"))
			}
			for _, dir := range []string{"dev", "proc", "sys", "run", "tmp"} {
				records = append(records, cpio.Directory(dir, 0o755))
			}
			if err := writeCPIO(c.Initrd, records); err != nil {
				t.Fatal(err)
			}
			g := b.boot(t, c, bootTime)
			g.expect(regexp.MustCompile(`unable to open an initial console`))
			g.ends(isOff)
			if strings.Contains(g.Console.All(), "Kernel panic") {
				t.Error("the kernel panicked")
			}
		})
	}
}
