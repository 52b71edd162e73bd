//go:build linux

package agent

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// TestFrameCutShort: a connection that ends inside a frame is that of a client which has
// gone. Its command is killed, its upload kept only as far as that is asked for, and
// nothing is said to it.
func TestFrameCutShort(t *testing.T) {
	l := serve(t, testLimits())
	dir := t.TempDir()
	for name, request := range map[string]object{
		"exec":      {"operation": "exec", "stream": true, "cmd": []string{"sh", "-c", "cat; sleep 300"}},
		"file_put":  {"operation": "file_put", "path": filepath.Join(dir, "f")},
		"with name": {"operation": "file_put", "path": filepath.Join(dir, "f"), "partial": "x"},
		"tar_put":   {"operation": "tar_put", "path": dir},
	} {
		kind := "\x04"
		if name == "exec" {
			kind = "\x01"
		}
		for _, frame := range []string{"\x00\x00", "\x00\x00\x00\x10cut"} {
			c := dial(t, l.socket)
			_, _ = io.WriteString(c, request.line()+kind+frame)
			_ = c.CloseWrite()
			reply, err := io.ReadAll(c)
			_, rest, _ := bytes.Cut(reply, []byte("\n"))
			if err != nil || name != "exec" && len(rest) > 0 || bytes.Contains(rest, []byte(`"code"`)) {
				t.Errorf("%s: %q, %v", name, reply, err)
			}
		}
	}
	l.settle(t)
	partial := (&target{name: "f"}).partialName("x")
	if left := readDir(t, dir); len(left) != 1 || left[0] != partial || readFile(t, filepath.Join(dir, partial)) != "cut" {
		t.Errorf("left %q", left)
	}
}

// TestFramesThatNobodyReads: what comes where nothing is to come any more changes
// nothing.
func TestFramesThatNobodyReads(t *testing.T) {
	l := serve(t, testLimits())
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		request object
		frames  string
		want    string
	}{
		{object{"operation": "file_get", "path": path}, "\x04\x00\x00\x00\x01x", `{"size":7}`},
		{object{"operation": "file_put", "path": path}, "\x04\x00\x00\x00\x03new\x05\x00\x00\x00\x00\x04\x00\x00\x00\x01x", `{"size":3}`},
	} {
		c := dial(t, l.socket)
		_, _ = io.WriteString(c, row.request.line()+row.frames)
		if reply, err := io.ReadAll(c); err != nil || !bytes.HasSuffix(reply, []byte(row.want)) {
			t.Errorf("%v: %q, %v", row.request, reply, err)
		}
	}
	if got := readFile(t, path); got != "new" {
		t.Errorf("%q", got)
	}
}
