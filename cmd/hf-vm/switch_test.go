//go:build linux

package main

import (
	"compress/gzip"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/u-root/u-root/pkg/cpio"
	"golang.org/x/sys/unix"

	"github.com/hyperfleet/init/cmd/internal/vm"
)

// switchScript is the PID 1 of an initramfs that goes on to the disk, as those
// of distributions do. What the kernel passed to it goes on too; DISK=ro among that
// mounts the disk read-only.
const switchScript = `#!/bin/busybox sh
busybox mount -t proc proc /proc
busybox mount -t devtmpfs dev /dev
busybox modprobe virtio_mmio
busybox modprobe virtio_pci
busybox modprobe virtio_blk
n=0
while [ ! -b /dev/vda ] && [ $n -lt 50 ]; do busybox sleep 0.1; n=$((n+1)); done
busybox mount -t ext4 -o "${DISK:-rw}" /dev/vda /newroot || busybox poweroff -f
busybox umount /dev
busybox umount /proc
exec busybox switch_root /newroot /init "$@"
`

// switchInitrd makes an initramfs that switches to the disk /dev/vda.
func (b *bench) switchInitrd(ctx context.Context, dir, out string) error {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return fmt.Errorf("%w: apt-get install busybox-static", err)
	}
	// hf-rootfs finds and unpacks the modules.
	tree := filepath.Join(dir, "modules")
	if err := vm.Rootfs(ctx, b.root, "--init", b.init, "--arch", b.arch.Name,
		"--modules", b.kernel.Modules, "--modules-extra", "virtio_blk", "dir", tree); err != nil {
		return err
	}
	program, err := os.ReadFile(busybox)
	if err != nil {
		return err
	}
	records := []cpio.Record{cpio.CharDev("dev/console", 0o600, 5, 1), cpio.CharDev("dev/null", 0o666, 1, 3)}
	directories := []string{"dev", "proc", "newroot", "bin", "lib", "lib/modules"}
	files := []cpio.Record{cpio.StaticFile("init", switchScript, 0o755), cpio.StaticFile("bin/busybox", string(program), 0o755)}
	modules := filepath.Join(tree, "usr", "lib", "modules")
	err = filepath.Walk(modules, func(path string, info os.FileInfo, err error) error {
		if err != nil || path == modules {
			return err
		}
		name := "lib/modules/" + path[len(modules)+1:]
		if info.IsDir() {
			directories = append(directories, name)
			return nil
		}
		content, err := os.ReadFile(path)
		files = append(files, cpio.StaticFile(name, string(content), 0o644))
		return err
	})
	if err != nil {
		return err
	}
	var all []cpio.Record
	for _, d := range directories {
		all = append(all, cpio.Directory(d, 0o755))
	}
	return writeCPIO(out, append(append(all, records...), files...))
}

func writeCPIO(path string, records []cpio.Record) error {
	f, err := os.OpenFile(path, unix.O_CREAT|unix.O_WRONLY|unix.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	z, _ := gzip.NewWriterLevel(f, gzip.BestSpeed)
	w := cpio.Newc.Writer(z)
	if err := cpio.WriteRecords(w, records); err != nil {
		return err
	}
	if err := cpio.WriteTrailer(w); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return f.Close()
}
