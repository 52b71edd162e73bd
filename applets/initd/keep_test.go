//go:build linux

package initd

import (
	"testing"

	"github.com/hyperfleet/init/applets/internal/mounts"
)

// What is kept of the mounts is what the machine needs to the end, and never a disk.
func TestKeepMounted(t *testing.T) {
	list := []mounts.Mounted{
		{Target: "/", FSType: "rootfs"}, {Target: "/", FSType: "ext4"},
		{Target: "/proc", FSType: "proc"}, {Target: "/dev", FSType: "ext4"}, {Target: "/sys", FSType: "sysfs"},
		{Target: "/sys/fs/cgroup", FSType: "cgroup2"}, {Target: "/sys", FSType: "ext4"}, {Target: "/sys", FSType: "sysfs"},
		{Target: "/dev", FSType: "devtmpfs"}, {Target: "/proc", FSType: "tmpfs"}, {Target: "/srv", FSType: "tmpfs"},
	}
	want := map[int]bool{0: true, 1: true, 2: true, 4: true}
	for i, m := range list {
		if got := keepMounted(list, i); got != want[i] {
			t.Errorf("%d, %+v: %v", i, m, got)
		}
	}
}
