//go:build linux

package agent

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hyperfleet/init/applets/client"
)

// TestCopyClaimed: a file of the kernel's that claims a page and holds a few bytes
// is copied as what it holds.
func TestCopyClaimed(t *testing.T) {
	const path = "/sys/class/net/lo/mtu"
	want, err := os.ReadFile(path)
	if st, statErr := os.Stat(path); err != nil || statErr != nil || st.Size() <= int64(len(want)) {
		t.Skip("needs sysfs", err, statErr)
	}
	l := serve(t, testLimits())
	to := filepath.Join(t.TempDir(), "copy")
	n, err := client.New(client.Unix(l.socket)).Copy(t.Context(), path, to, false)
	if got := readFile(t, to); err != nil || n != int64(len(want)) || got != string(want) {
		t.Errorf("%d bytes, %q, %v, want %q", n, got, err, want)
	}
}
