package mounts

import (
	"errors"
	"os"
	"path"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParse(t *testing.T) {
	const mountinfo = `1 1 0:2 / / rw - rootfs none rw,size=99k
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
22 27 0:21 / /proc rw,nosuid shared:5 master:1 - proc proc rw
40 27 7:0 / /mnt/a\040b\011\134c ro,relatime - squashfs /dev/loop0 ro
41 27 254:1 / /data ro,relatime - ext4 /dev/vdb rw
42 27 254:2 / /mnt/ro rw,relatime - ext4 /dev/vdc ro,errors=remount-ro
43 27 0:50 / /mnt/nameless rw - tmpfs  ro
44 27 0:51 / /mnt/roomy rw - tmpfs none rw
`
	want := []Mounted{
		{"/", "rootfs", false},
		{"/", "ext4", false},
		{"/proc", "proc", false},
		{"/mnt/a b\t\\c", "squashfs", true},
		{"/data", "ext4", false}, // a read-only mount of a filesystem that is written to
		{"/mnt/ro", "ext4", true},
		{"/mnt/nameless", "tmpfs", true},
		{"/mnt/roomy", "tmpfs", false},
	}
	got, err := parse(strings.NewReader(mountinfo))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %+v, want %+v", err, got, want)
	}
	for _, line := range []string{"nonsense", "1 1 0:2 / / rw rootfs none rw", "1 1 0:2 / - rootfs none rw", "1 1 0:2 / / rw - rootfs"} {
		if list, err := parse(strings.NewReader(line + "\n")); err == nil {
			t.Errorf("%q: %+v", line, list)
		}
	}
	long := strings.Repeat("x", 200_000) // an overlay of many layers
	if got, err := parse(strings.NewReader("1 1 0:2 / /o rw - overlay overlay rw,lowerdir=" + long + "\n")); err != nil || len(got) != 1 {
		t.Errorf("a long line: %v", err)
	}
}

func TestList(t *testing.T) {
	list, err := List()
	if err != nil || len(list) == 0 {
		t.Errorf("%v, %v", list, err)
	}
}

func TestUnescape(t *testing.T) {
	for s, want := range map[string]string{
		``: ``, `/a`: `/a`, `\040`: ` `, `a\012b`: "a\nb", `\134`: `\`, `\303\251`: "é", `\04`: `\04`, `\`: `\`, `\999`: `\999`, `\777`: `\777`, `\0400`: ` 0`,
	} {
		if got := Unescape(s); got != want {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	}
}

func TestString(t *testing.T) {
	for _, test := range []struct {
		m    Mount
		want string
	}{
		{Mount{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "", 0o555}, "mount -t proc -o nosuid,nodev,noexec proc /proc"},
		{Mount{"tmpfs", "/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777", 0o1777}, "mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs /tmp"},
		{Mount{"/dev/vda", "/", "ext4", unix.MS_RDONLY, "", 0}, "mount -t ext4 -o ro /dev/vda /"},
		{Mount{"none", "/x", "tmpfs", 0, "", 0}, "mount -t tmpfs none /x"},
	} {
		if got := test.m.String(); got != test.want {
			t.Errorf("%q, want %q", got, test.want)
		}
	}
}

// Parents are mounted before what is in them, and everything is nosuid.
func TestTable(t *testing.T) {
	mounted := map[string]bool{}
	for _, m := range Table() {
		for dir := path.Dir(m.Target); dir != "/"; dir = path.Dir(dir) {
			for _, other := range Table() {
				if other.Target == dir && !mounted[dir] {
					t.Errorf("%s comes before %s", m.Target, dir)
				}
			}
		}
		if mounted[m.Target] || !path.IsAbs(m.Target) {
			t.Errorf("%s: twice, or not absolute", m.Target)
		}
		mounted[m.Target] = true
		if m.Flags&unix.MS_NOSUID == 0 || m.Flags&unix.MS_NODEV == 0 != (m.Target == "/dev" || m.Target == "/dev/pts") {
			t.Errorf("not nosuid, or not nodev, or without devices: %s", m)
		}
	}
}

// Where a mount fails, its directory has to do.
func TestMakeDirectory(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be refused for another reason")
	}
	m := Mount{"tmpfs", t.TempDir() + "/tmp", "tmpfs", 0, "mode=nonsense", 0o1777}
	if err := m.Make(); !errors.Is(err, unix.EINVAL) {
		t.Fatal(err)
	}
	st, err := os.Stat(m.Target)
	if want := os.ModeDir | os.ModeSticky | 0o777; err != nil || st.Mode() != want {
		t.Errorf("%v, %v, want %v", err, st.Mode(), want)
	}
}

func TestIsMountPoint(t *testing.T) {
	for name, want := range map[string]bool{"/proc": true, "/proc/self": false, "/nowhere": false, t.TempDir(): false} {
		if got := IsMountPoint(name); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
