//go:build linux

package agent

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hyperfleet/init/applets/client"
	"golang.org/x/sys/unix"
)

// TestCopyTreeWithOwners: a tree that goes to the guest and comes back with owners is
// what it was, and its sparse files are.
func TestCopyTreeWithOwners(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	tree := makeTree(t)
	// What can't be copied is no part of this, nor a name that changes its directory.
	for _, name := range []string{"fifo", "null", "disk"} {
		_ = os.Remove(filepath.Join(tree, name))
	}
	guest, back := filepath.Join(t.TempDir(), "guest"), filepath.Join(t.TempDir(), "back")
	o := client.CopyOptions{Owners: true}
	if to, err := c.CopyTo(t.Context(), tree, guest, o); err != nil || len(to.Skipped) > 0 {
		t.Fatal(to, err)
	}
	if from, err := c.CopyFrom(t.Context(), guest, back, o); err != nil || len(from.Skipped) > 0 {
		t.Fatal(from, err)
	}
	describe := func(top string) []string {
		lines := describeTree(t, top)[1:] // the directory itself is nobody's
		for i, line := range lines {
			if before, target, link := strings.Cut(line, " -> "); link { // whose time does not come back
				lines[i] = before[:strings.LastIndexByte(before, ' ')] + " -> " + target
			}
		}
		return lines
	}
	want := describe(tree)
	for _, top := range []string{guest, back} {
		if got := describe(top); !slices.Equal(got, want) {
			t.Errorf("%s:\n%s\nwant\n%s", top, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(top, "sparse"), &st); err != nil || st.Blocks*512 > 2<<20 {
			t.Errorf("%s: the sparse file takes %d bytes, %v", top, st.Blocks*512, err)
		}
	}
}
