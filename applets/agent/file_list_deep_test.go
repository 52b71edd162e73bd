//go:build linux

package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A counted counts how often it is asked whether it has ended.
type counted struct {
	context.Context
	n int
}

func (c *counted) Err() error {
	c.n++
	return c.Context.Err()
}

// TestFileListDeep: a large directory is not read more often because it is far
// down.
func TestFileListDeep(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "a/b/c/d/e/f")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	const files = 2048
	for i := range files {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	list := func(path string) int {
		root, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(root)
		ctx := &counted{Context: t.Context()}
		p := page{ctx: ctx, root: root, left: 2 * files, recursive: true}
		if err := p.directory("", ""); err != nil && err != errFull || files*2-p.left < files/2 {
			t.Fatal(err, files*2-p.left)
		}
		return ctx.n
	}
	if near, far := list(dir), list(top); far > 2*near+20 {
		t.Errorf("%d looks for a directory that takes %d at the top", far, near)
	}
}
