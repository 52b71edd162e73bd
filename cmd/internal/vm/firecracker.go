package vm

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// Firecracker is what a Firecracker machine is made of.
type Firecracker struct {
	Kernel string // an uncompressed vmlinux (amd64) or an Image (arm64)
	Initrd string
	Memory int    // MiB
	Append string // kernel parameters
	Dir    string // holds the configuration and the vsock's socket
}

// VsockPath is the Unix socket that leads to the guest's vsock.
func (f Firecracker) VsockPath() string { return filepath.Join(f.Dir, "vsock.sock") }

// config is Firecracker's configuration file.
func (f Firecracker) config() ([]byte, error) {
	type object = map[string]any
	return json.MarshalIndent(object{
		"boot-source": object{
			"kernel_image_path": f.Kernel,
			"initrd_path":       f.Initrd,
			// On x86 Firecracker has no power-off; reboot=k is the restart that ends it.
			"boot_args": "console=ttyS0 reboot=k panic=-1 pci=off " + f.Append,
		},
		"drives":         []object{},
		"machine-config": object{"vcpu_count": 1, "mem_size_mib": f.Memory},
		"vsock":          object{"guest_cid": 3, "uds_path": f.VsockPath()},
	}, "", "  ")
}

// Argv writes the configuration and returns the command that starts the machine.
func (f Firecracker) Argv() ([]string, error) {
	b, err := f.config()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(f.Dir, "firecracker.json")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		return nil, err
	}
	// Firecracker refuses a socket that is there already.
	os.Remove(f.VsockPath())
	return []string{"firecracker", "--no-api", "--config-file", path}, nil
}

// FirecrackerKernel returns a kernel that Firecracker can load, unpacking the
// one given into dir if it must.
func FirecrackerKernel(arch Arch, kernel, dir string) (string, error) {
	if arch.Name != "amd64" {
		return kernel, nil
	}
	b, err := os.ReadFile(kernel)
	if err != nil {
		return "", err
	}
	if isELF(b) {
		return kernel, nil
	}
	b, err = unpackBzImage(b)
	if err != nil {
		return "", fmt.Errorf("%s: Firecracker needs an uncompressed vmlinux: %w", kernel, err)
	}
	out := filepath.Join(dir, "vmlinux")
	return out, os.WriteFile(out, b, 0o644)
}
