package machine

import (
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/sys/unix"
)

// fadt is a FADT of 276 bytes with that hypervisor vendor identity.
func fadt(vendor string) *fstest.MapFile {
	b := make([]byte, 276)
	copy(b, "FACP")
	copy(b[268:], vendor)
	return &fstest.MapFile{Data: b}
}

func file(content string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(content)} }

func TestCanPowerOff(t *testing.T) {
	withS5, without := file("DSDT....\x08_S4_\x08_S5_\x12"), file("DSDT....\x10_SB_\x08_S")
	for _, test := range []struct {
		name string
		arch string
		fs   fstest.MapFS
		want bool
	}{
		{"Firecracker", "amd64", fstest.MapFS{"FACP": fadt("FIRECKVM"), "DSDT": without}, false},
		{"Firecracker, were it to have the object", "amd64", fstest.MapFS{"FACP": fadt("FIRECKVM"), "DSDT": withS5}, false},
		{"QEMU", "amd64", fstest.MapFS{"FACP": fadt(""), "DSDT": withS5}, true},
		{"Cloud Hypervisor", "amd64", fstest.MapFS{"FACP": fadt("CLOUDHYP"), "DSDT": withS5}, true},
		{"no object", "amd64", fstest.MapFS{"FACP": fadt(""), "DSDT": without}, false},
		{"SSDT only", "amd64", fstest.MapFS{"DSDT": without, "SSDT1": without, "SSDT2": withS5}, true},
		{"loaded SSDT", "amd64", fstest.MapFS{"DSDT": without, "dynamic/SSDT7": withS5}, true},
		{"other tables do not count", "amd64", fstest.MapFS{"DSDT": without, "MCFG": withS5, "data/SSDT1": withS5}, false},
		{"old short FADT", "amd64", fstest.MapFS{"FACP": file(strings.Repeat("\x00", 244)), "DSDT": withS5}, true},
		{"no ACPI", "amd64", fstest.MapFS{}, false},
		{"386", "386", fstest.MapFS{}, false},
		{"arm64", "arm64", fstest.MapFS{}, true},
		{"arm64 in Firecracker", "arm64", fstest.MapFS{"FACP": fadt("FIRECKVM")}, true},
	} {
		if got := canPowerOff(test.arch, test.fs); got != test.want {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

func TestCommand(t *testing.T) {
	for _, test := range []struct {
		action Action
		method Method
		want   int
	}{
		{PowerOff, ByPowerOff, unix.LINUX_REBOOT_CMD_POWER_OFF},
		{PowerOff, ByRestart, unix.LINUX_REBOOT_CMD_RESTART},
		{Restart, ByPowerOff, unix.LINUX_REBOOT_CMD_RESTART},
		{Restart, Auto, unix.LINUX_REBOOT_CMD_RESTART},
	} {
		if got := Command(test.action, test.method); got != test.want {
			t.Errorf("%s by %s: %#x, want %#x", test.action, test.method, got, test.want)
		}
	}
}

func TestParseMethod(t *testing.T) {
	for _, m := range []Method{Auto, ByPowerOff, ByRestart} {
		if got, err := ParseMethod(string(m)); got != m || err != nil {
			t.Errorf("%s: %s, %v", m, got, err)
		}
	}
	for _, s := range []string{"", "AUTO", "halt"} {
		if _, err := ParseMethod(s); err == nil || !strings.Contains(err.Error(), "want auto, poweroff or restart") {
			t.Errorf("%q: %v", s, err)
		}
	}
}
