//go:build linux

package agent

import (
	"archive/tar"
	"path/filepath"
	"testing"

	"github.com/hyperfleet/init/applets/wire"
)

// TestTarPutAgain: directories that come again and again in an archive, which
// compresses to nothing, take no more memory than one of each.
func TestTarPutAgain(t *testing.T) {
	for what, each := range map[string][]*tar.Header{
		"one":          {folder("a")},
		"the target":   {folder("."), folder("a"), folder("a/b")},
		"one in other": {folder("a"), folder("a/b")},
	} {
		var all []*tar.Header
		for range 1000 {
			all = append(all, each...)
		}
		u := &unpacking{put: wire.TarPut{Path: filepath.Join(t.TempDir(), "new"), Make: true}, buf: make([]byte, streamBuffer)}
		if err := u.open(); err != nil {
			t.Fatal(err)
		}
		defer u.close()
		if err := u.archive(tarOf(all...)); err != nil {
			t.Fatal(err)
		}
		if u.result.Entries != int64(len(all)) || cap(u.within) > 16 {
			t.Errorf("%s: room for %d, after %d entries", what, cap(u.within), u.result.Entries)
		}
		if mode := modeOf(filepath.Join(u.put.Path, "a")); mode != "drwx------" {
			t.Errorf("%s: mode %s", what, mode)
		}
	}
}
