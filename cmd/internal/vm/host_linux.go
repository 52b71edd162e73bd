package vm

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// HostFirmware is the leanest for the machine type of a guest that a machine boots
// as its host.
const HostFirmware = "qboot.rom"

// hostModules make a kernel a host, in the order in which they are loaded. What
// is built in, or is for another processor, is no file or does not load.
var hostModules = []string{
	"irqbypass", "ccp", "kvm", "kvm-amd", "kvm-intel",
	"vsock", "vhost_iotlb", "vhost", "vmw_vsock_virtio_transport_common", "vhost_vsock",
}

// BecomeHost makes sure that this machine has what a host has to have. It is for
// within a machine: it loads modules.
func BecomeHost() error {
	devices := func() (err error) {
		for _, path := range []string{"/dev/kvm", "/dev/vhost-vsock"} {
			f, openErr := os.OpenFile(path, os.O_RDWR, 0)
			if openErr == nil {
				f.Close()
			}
			err = errors.Join(err, openErr)
		}
		return err
	}
	if devices() == nil {
		return nil
	}
	files := map[string]string{}
	filepath.WalkDir("/lib/modules/", func(path string, _ fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(filepath.Base(path), ".ko"); ok {
			files[strings.ReplaceAll(name, "-", "_")] = path
		}
		return err
	})
	var failed []error
	for _, name := range hostModules {
		if path := files[strings.ReplaceAll(name, "-", "_")]; path != "" {
			failed = append(failed, loadModule(path))
		}
	}
	if err := devices(); err != nil {
		return errors.Join(append(failed, err)...)
	}
	return nil
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("finit_module %s: %w", path, err)
	}
	return nil
}

// CopyQEMU puts this machine's QEMU into the tree, where it has it itself, with
// the libraries and the firmware that it loads.
func CopyQEMU(arch Arch, tree string) error {
	qemu, err := exec.LookPath(arch.QEMU)
	if err != nil {
		return err
	}
	libraries, err := exec.Command("ldd", qemu).Output()
	if err != nil {
		return fmt.Errorf("ldd %s: %w", qemu, err)
	}
	files := []string{qemu}
	for _, word := range strings.Fields(string(libraries)) {
		if strings.HasPrefix(word, "/") {
			files = append(files, word)
		}
	}
	dirs, err := exec.Command(qemu, "-L", "help").Output()
	if err != nil {
		return fmt.Errorf("%s -L help: %w", qemu, err)
	}
	for _, dir := range strings.Fields(string(dirs)) {
		for _, pattern := range []string{HostFirmware, "linuxboot*.bin", "pvh.bin", "kvmvapic.bin"} {
			found, _ := filepath.Glob(filepath.Join(dir, pattern))
			files = append(files, found...)
		}
	}
	if !slices.ContainsFunc(files, func(f string) bool { return filepath.Base(f) == HostFirmware }) {
		return fmt.Errorf("%s has no %s: install qemu-system-data", qemu, HostFirmware)
	}
	for _, f := range files {
		if err := CopyFile(f, filepath.Join(tree, f)); err != nil {
			return err
		}
	}
	return nil
}

// CopyFile copies what a path leads to, and its being a program.
func CopyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, info.Mode().Perm())
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
