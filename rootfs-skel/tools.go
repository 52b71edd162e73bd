package rootfsskel

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// FindTool returns the path of a program of this machine. Debian keeps the tools
// for filesystems where the PATH of a user other than root does not lead.
func FindTool(name, pkg string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		p := filepath.Join(dir, name)
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s is missing: install the package %s (apt-get install %s)", name, pkg, pkg)
}
