package kmodule

import (
	"reflect"
	"strings"
	"testing"
)

func TestParseDep(t *testing.T) {
	const dep = `kernel/drivers/virtio/virtio_ring.ko:
kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko
kernel/net/vmw_vsock/vmw_vsock_virtio_transport.ko.xz: kernel/net/vmw_vsock/common.ko.xz kernel/net/vmw_vsock/vsock.ko.xz kernel/drivers/virtio/virtio.ko
kernel/net/vmw_vsock/vsock-loopback.ko.zst:  kernel/a.ko   kernel/b.ko
`
	want := map[string][]string{
		"virtio_ring": {"kernel/drivers/virtio/virtio_ring.ko"},
		"virtio":      {"kernel/drivers/virtio/virtio_ring.ko", "kernel/drivers/virtio/virtio.ko"},
		"vmw_vsock_virtio_transport": {"kernel/drivers/virtio/virtio.ko", "kernel/net/vmw_vsock/vsock.ko.xz",
			"kernel/net/vmw_vsock/common.ko.xz", "kernel/net/vmw_vsock/vmw_vsock_virtio_transport.ko.xz"},
		"vsock_loopback": {"kernel/b.ko", "kernel/a.ko", "kernel/net/vmw_vsock/vsock-loopback.ko.zst"},
	}
	got, err := parseDep(strings.NewReader(dep))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %q, want %q", err, got, want)
	}
	if _, err := parseDep(strings.NewReader("no colon\n")); err == nil || !strings.Contains(err.Error(), `modules.dep: "no colon"`) {
		t.Error(err)
	}
	if got, err := parseDep(strings.NewReader("")); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
}
