// Package kmodule loads the kernel modules that vsock needs. u-root's package of
// that name does more and costs the binary 0.8 MB of decompressors; the kernel
// decompresses modules itself, and the skeleton holds them uncompressed.
package kmodule

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hyperfleet/init/applets/internal/logging"
	"golang.org/x/sys/unix"
)

// vsock are the modules of vsock in a guest, in the order in which they are
// loaded, with what has to be there for one to be of use.
var vsock = []struct{ name, when string }{
	{"virtio_mmio", ""},
	{"virtio_pci", "/sys/bus/pci/devices/*"},
	{"vmw_vsock_virtio_transport", ""},
	{"hv_sock", "/sys/bus/vmbus/devices/*"},
	{"vmw_vsock_vmci_transport", "/sys/bus/pci/drivers/vmw_vmci"},
	{"vsock_loopback", ""},
}

// LoadVsock loads the modules of vsock that the running kernel has in
// /lib/modules. It is no error that it has none: they may be built in.
func LoadVsock(log *logging.Log) error {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return os.NewSyscallError("uname", err)
	}
	dir := filepath.Join("/lib/modules", unix.ByteSliceToString(uts.Release[:]))
	f, err := os.Open(filepath.Join(dir, "modules.dep"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	files, err := parseDep(f)
	if err != nil {
		return err
	}
	var errs []error
	tried := map[string]bool{} // several need the same one
	for _, m := range vsock {
		if found, _ := filepath.Glob(m.when); m.when != "" && len(found) == 0 {
			continue
		}
		for _, file := range files[m.name] {
			if tried[file] {
				continue
			}
			tried[file] = true
			if err := load(filepath.Join(dir, file)); err != nil {
				errs = append(errs, err)
				break
			}
			log.Debug("module is loaded", "file", file)
		}
	}
	return errors.Join(errs...)
}

// parseDep reads a modules.dep: for each module the files to load, dependencies
// first. See modules.dep(5).
func parseDep(r io.Reader) (map[string][]string, error) {
	files := map[string][]string{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		file, deps, ok := strings.Cut(lines.Text(), ":")
		if !ok {
			return nil, fmt.Errorf("modules.dep: %q", lines.Text())
		}
		list := append([]string{file}, strings.Fields(deps)...)
		slices.Reverse(list) // it names what needs before what is needed
		files[name(file)] = list
	}
	return files, lines.Err()
}

// name returns the name of the module in a file.
func name(file string) string {
	base, _, _ := strings.Cut(filepath.Base(file), ".")
	return strings.ReplaceAll(base, "-", "_")
}

// load loads one module with finit_module(2). One that is loaded or built in
// already is fine.
func load(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if filepath.Ext(file) != ".ko" {
		flags = unix.MODULE_INIT_COMPRESSED_FILE // Linux 5.17
	}
	if err := unix.FinitModule(int(f.Fd()), "", flags); err != nil && !errors.Is(err, unix.EEXIST) {
		return &os.PathError{Op: "finit_module", Path: file, Err: err}
	}
	return nil
}
