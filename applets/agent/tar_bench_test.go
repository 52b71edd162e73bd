//go:build linux

package agent

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/hyperfleet/init/applets/client"
)

// BenchmarkTar is the rate of archives, of a large file and of many small ones.
func BenchmarkTar(b *testing.B) {
	l := serve(b, testLimits())
	c := client.New(client.Unix(l.socket))
	large, small := b.TempDir(), b.TempDir()
	if err := os.WriteFile(filepath.Join(large, "f"), make([]byte, 64<<20), 0o644); err != nil {
		b.Fatal(err)
	}
	for i := range 1000 {
		if err := os.WriteFile(filepath.Join(small, fmt.Sprint(i)), make([]byte, 4<<10), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	for name, dir := range map[string]string{"large": large, "small": small} {
		var archive bytes.Buffer
		if _, err := c.TarGet(b.Context(), dir, &archive, client.TarGetOptions{}); err != nil {
			b.Fatal(err)
		}
		b.Run("get/"+name, func(b *testing.B) {
			b.SetBytes(int64(archive.Len()))
			for b.Loop() {
				if _, err := c.TarGet(b.Context(), dir, io.Discard, client.TarGetOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("put/"+name, func(b *testing.B) {
			b.SetBytes(int64(archive.Len()))
			target := b.TempDir()
			for i := 0; b.Loop(); i++ {
				target := filepath.Join(target, fmt.Sprint(i))
				if _, err := c.TarPut(b.Context(), target, bytes.NewReader(archive.Bytes()), client.TarPutOptions{Make: true}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
