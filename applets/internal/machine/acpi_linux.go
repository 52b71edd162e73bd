package machine

import (
	"bytes"
	"io/fs"
	"path"
)

// canPowerOff tells whether the kernel can switch the machine off. On x86 only
// ACPI can, by entering the sleep state that the object _S5_ describes. Where
// there is none the kernel would halt, and a VMM that has no other sign, such as
// Firecracker, keep a dead guest for ever; a restart makes that one exit. Other
// architectures ask their firmware (PSCI on arm64), which always can.
func canPowerOff(arch string, tables fs.FS) bool {
	if arch != "amd64" && arch != "386" {
		return true
	}
	const vendor, length = 268, 8 // Hypervisor Vendor Identity, ACPI 6.5 §5.2.9
	if fadt, err := fs.ReadFile(tables, "FACP"); err == nil && len(fadt) >= vendor+length &&
		string(fadt[vendor:vendor+length]) == firecracker {
		return false
	}
	for _, pattern := range []string{"DSDT", "SSDT*", "dynamic/SSDT*"} {
		names, _ := fs.Glob(tables, pattern)
		for _, name := range names {
			if table, err := fs.ReadFile(tables, path.Clean(name)); err == nil && bytes.Contains(table, []byte("_S5_")) {
				return true
			}
		}
	}
	return false
}
