package rootfsskel

import (
	"bytes"
	"compress/gzip"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// vsockTree is lib/modules/1.2.3 of a distribution that has depmod run, with
// compressed modules and one module built in.
func vsockTree() map[string]string {
	const dir = "lib/modules/1.2.3/"
	files := map[string]string{
		dir + "modules.builtin": "kernel/drivers/virtio/virtio.ko\nkernel/drivers/virtio/virtio_ring.ko\n",
		dir + "modules.dep": `kernel/drivers/virtio/virtio_mmio.ko:
kernel/drivers/virtio/virtio_pci.ko.xz: kernel/drivers/virtio/virtio_pci_modern_dev.ko.xz
kernel/drivers/virtio/virtio_pci_modern_dev.ko.xz:
kernel/net/vmw_vsock/vsock.ko.gz:
kernel/net/vmw_vsock/vmw_vsock_virtio_transport_common.ko.zst: kernel/net/vmw_vsock/vsock.ko.gz
kernel/net/vmw_vsock/vmw_vsock_virtio_transport.ko: kernel/net/vmw_vsock/vmw_vsock_virtio_transport_common.ko.zst kernel/net/vmw_vsock/vsock.ko.gz
kernel/net/vmw_vsock/vsock_loopback.ko: kernel/net/vmw_vsock/vmw_vsock_virtio_transport_common.ko.zst kernel/net/vmw_vsock/vsock.ko.gz
kernel/fs/snd-extra.ko: kernel/lib/helper.ko
kernel/lib/helper.ko:
kernel/lib/unrelated.ko:
`,
	}
	for _, name := range []string{
		"drivers/virtio/virtio_mmio.ko", "drivers/virtio/virtio_pci.ko.xz", "drivers/virtio/virtio_pci_modern_dev.ko.xz",
		"net/vmw_vsock/vsock.ko.gz", "net/vmw_vsock/vmw_vsock_virtio_transport_common.ko.zst",
		"net/vmw_vsock/vmw_vsock_virtio_transport.ko", "net/vmw_vsock/vsock_loopback.ko",
		"fs/snd-extra.ko", "lib/helper.ko", "lib/unrelated.ko",
	} {
		files[dir+"kernel/"+name] = squeeze(name, "module "+plain(name))
	}
	return files
}

// squeeze compresses as the name says.
func squeeze(name, text string) string {
	var b bytes.Buffer
	switch filepath.Ext(name) {
	case ".gz":
		w := gzip.NewWriter(&b)
		w.Write([]byte(text))
		w.Close()
	case ".xz":
		w, _ := xz.NewWriter(&b)
		w.Write([]byte(text))
		w.Close()
	case ".zst":
		w, _ := zstd.NewWriter(&b)
		w.Write([]byte(text))
		w.Close()
	default:
		return text
	}
	return b.String()
}

// modulesIn returns what is in the tree below lib/modules/1.2.3.
func modulesIn(tree *Tree) map[string]string {
	found := make(map[string]string)
	for p, n := range tree.nodes {
		if rel, ok := strings.CutPrefix(p, "/usr/lib/modules/1.2.3/"); ok && n.isRegular() {
			found[rel] = string(n.Data)
		}
	}
	return found
}

func TestModules(t *testing.T) {
	top := overlay(t, vsockTree())
	for _, dir := range []string{top, filepath.Join(top, "lib/modules"), filepath.Join(top, "lib/modules/1.2.3")} {
		c := config(t)
		c.Modules = &Modules{Dir: dir, Extra: []string{"snd_extra", "virtio-ring"}} // the second is built in
		got := modulesIn(build(t, c))
		want := []string{
			"kernel/drivers/virtio/virtio_mmio.ko",
			"kernel/drivers/virtio/virtio_pci.ko",
			"kernel/drivers/virtio/virtio_pci_modern_dev.ko",
			"kernel/fs/snd-extra.ko",
			"kernel/lib/helper.ko",
			"kernel/net/vmw_vsock/vmw_vsock_virtio_transport.ko",
			"kernel/net/vmw_vsock/vmw_vsock_virtio_transport_common.ko",
			"kernel/net/vmw_vsock/vsock.ko",
			"kernel/net/vmw_vsock/vsock_loopback.ko",
			"modules.builtin",
			"modules.dep",
		}
		if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, want) {
			t.Fatalf("%s:\n%s", dir, strings.Join(names, "\n"))
		}
		for name, data := range got {
			if plainName, ok := strings.CutPrefix(name, "kernel/"); ok && data != "module "+plainName {
				t.Errorf("%s is %q: not unpacked", name, data)
			}
		}
		for _, line := range []string{
			"kernel/net/vmw_vsock/vsock.ko:\n",
			"kernel/net/vmw_vsock/vmw_vsock_virtio_transport.ko: kernel/net/vmw_vsock/vmw_vsock_virtio_transport_common.ko kernel/net/vmw_vsock/vsock.ko\n",
			"kernel/fs/snd-extra.ko: kernel/lib/helper.ko\n",
		} {
			if !strings.Contains(got["modules.dep"], line) {
				t.Errorf("modules.dep lacks %q:\n%s", line, got["modules.dep"])
			}
		}
	}
}

func TestModulesErrors(t *testing.T) {
	one := vsockTree()
	two := vsockTree()
	two["lib/modules/4.5.6/kernel/x.ko"] = "x"
	broken := vsockTree()
	delete(broken, "lib/modules/1.2.3/kernel/net/vmw_vsock/vsock.ko.gz")
	for _, c := range []struct {
		name  string
		files map[string]string
		extra []string
		want  string
	}{
		{"an unknown module", one, []string{"nosuch"}, "no module nosuch"},
		{"two kernels", two, nil, "modules of 2 kernels"},
		{"none", map[string]string{"x": ""}, nil, "no kernel modules here"},
		{"a missing file", broken, nil, "vsock.ko.gz"},
	} {
		cfg := config(t)
		cfg.Modules = &Modules{Dir: overlay(t, c.files), Extra: c.extra}
		if _, err := Build(cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestModulesFollow checks the order and a loop, which must end.
func TestModulesFollow(t *testing.T) {
	deps := map[string][]string{"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "x": {"y"}, "y": {"x"}}
	direct := func(p string) ([]string, error) { return deps[p], nil }
	ix := &moduleIndex{}
	got, err := ix.follow("a", direct)
	if err != nil {
		t.Fatal(err)
	}
	at := func(s string) int { return slices.Index(got, s) }
	if len(got) != 3 || at("d") < at("b") || at("d") < at("c") {
		t.Errorf("a: %q: d has to come last", got)
	}
	if _, err := ix.follow("x", direct); err == nil {
		t.Error("a loop was followed")
	}
}

// TestModulesOverlayWins: a kernel that the overlay brings whole is not reduced.
func TestModulesOverlayWins(t *testing.T) {
	files := vsockTree()
	c := config(t, overlay(t, files))
	c.Modules = &Modules{Dir: overlay(t, files)}
	n, ok := build(t, c).Lookup("/lib/modules/1.2.3/modules.dep")
	if !ok || n.Host == "" {
		t.Errorf("%v, %v: want the overlay's", n, ok)
	}
}

// TestModulesOfKernelPackage takes the dependencies from the modules themselves, as
// a package that was only unpacked has no modules.dep.
func TestModulesOfKernelPackage(t *testing.T) {
	dir := os.Getenv("HF_TEST_MODULES")
	if dir == "" {
		t.Skip("HF_TEST_MODULES names no unpacked kernel package")
	}
	c := config(t)
	c.Modules = &Modules{Dir: dir}
	tree := build(t, c)
	var dep string
	for p, n := range tree.nodes {
		if strings.HasSuffix(p, "/modules.dep") {
			dep = string(n.Data)
		}
	}
	for _, want := range []string{"vsock_loopback.ko: kernel/net/vmw_vsock/vmw_vsock_virtio_transport_common.ko kernel/net/vmw_vsock/vsock.ko\n"} {
		if !strings.Contains(dep, want) {
			t.Errorf("no %q in:\n%s", want, dep)
		}
	}
}
