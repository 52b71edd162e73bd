//go:build linux

package agent

import (
	"cmp"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFullDisk: the error is told, the old content is still there, and nothing
// else is. (FAULTS.md 1.17)
func TestFullDisk(t *testing.T) {
	needRoot(t)
	dir := shortDir(t)
	a := spawn(t, prepare{Mounts: []testMount{{"tmpfs", dir, "tmpfs", "size=512k"}}}, nil)
	inside := a.root() + dir
	if r := put(t, a.socket, dir+"/f", "old", "mode", "600"); !r.Success {
		t.Fatalf("%+v", r)
	}
	big := strings.Repeat("x", 1<<20)
	for _, row := range []struct{ name, path, appends string }{
		{"replacing", "f", "false"}, {"a new file", "g", "false"}, {"appending", "f", "true"}, {"appending to a new file", "g", "true"},
	} {
		if r := put(t, a.socket, dir+"/"+row.path, big, "append", row.appends); r.Code != "ENOSPC" {
			t.Errorf("%s: %+v", row.name, r)
		}
		if left := readDir(t, inside); len(left) != 1 || readFile(t, inside+"/f") != "old" {
			t.Errorf("%s: left %v, %d bytes in f", row.name, left, len(readFile(t, inside+"/f")))
		}
	}
	// What is small is written only at the end.
	if r := put(t, a.socket, dir+"/filler", big[:450<<10]); !r.Success {
		t.Fatalf("%+v", r)
	}
	for _, appends := range []string{"false", "true"} {
		if r := put(t, a.socket, dir+"/f", big[:60<<10], "append", appends); r.Success && appends == "false" || !r.Success && r.Code != "ENOSPC" {
			t.Errorf("append %s: %+v", appends, r)
		}
	}
	if left := readDir(t, inside); len(left) != 2 || !strings.HasPrefix(readFile(t, inside+"/f"), "old") {
		t.Errorf("left %v", left)
	}
	if r := call(t, a.socket, object{"operation": "file_delete", "path": dir + "/filler"}); !r.Success {
		t.Errorf("%+v", r)
	}
	if r := put(t, a.socket, dir+"/f", "new"); !r.Success || readFile(t, inside+"/f") != "new" {
		t.Errorf("%+v", r)
	}
}

// TestReadOnly filesystems, and files that are mounted on.
func TestReadOnly(t *testing.T) {
	needRoot(t)
	dir, other := shortDir(t), shortDir(t)
	file := filepath.Join(other, "f")
	if err := os.WriteFile(file, []byte("below"), 0o644); err != nil {
		t.Fatal(err)
	}
	a := spawn(t, prepare{
		Mounts: []testMount{{"tmpfs", dir, "tmpfs", "ro"}, {"/etc/passwd", file, "", "bind"}},
	}, nil)
	for _, row := range []struct {
		request object
		code    string
	}{
		{object{"operation": "file_write", "path": dir + "/f", "content": "QUJD"}, "EROFS"},
		{object{"operation": "file_write", "path": dir + "/f", "content": base64Of(make([]byte, 1<<20))}, "EROFS"},
		{object{"operation": "file_write", "path": dir + "/f", "content": "QUJD", "append": true}, "EROFS"},
		{object{"operation": "file_delete", "path": dir + "/f"}, "EROFS"},
		{object{"operation": "file_read", "path": dir + "/f"}, "ENOENT"},
		{object{"operation": "file_write", "path": file, "content": "QUJD"}, "EBUSY"},
		{object{"operation": "file_delete", "path": file}, "EBUSY"},
	} {
		r := call(t, a.socket, row.request)
		if r.Code == "ENOENT" && row.code == "EROFS" && row.request["operation"] == "file_delete" {
			continue // either may be said first
		}
		if r.Code != row.code {
			t.Errorf("%.80s: %+v, want %s", row.request.line(), r, row.code)
		}
	}
	if left := readDir(t, other); len(left) != 1 || readFile(t, file) != "below" {
		t.Errorf("left %v", left)
	}
}

// TestOverlay: the root of a microVM often is one, and older kernels can make no
// file without a name there.
func TestOverlay(t *testing.T) {
	needRoot(t)
	dir := shortDir(t)
	base := shortDir(t)
	for _, name := range []string{"lower", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(base, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	old := base + "/lower/f"
	if err := cmp.Or(os.WriteFile(old, []byte("old"), 0o640), os.Chmod(old, 0o640)); err != nil { // whatever the umask
		t.Fatal(err)
	}
	var fs unix.Statfs_t
	if unix.Statfs(base, &fs) == nil && uint32(fs.Type) == unix.OVERLAYFS_SUPER_MAGIC {
		t.Skip("needs a directory that is not itself in an overlay")
	}
	data := "lowerdir=" + base + "/lower,upperdir=" + base + "/upper,workdir=" + base + "/work"
	a := spawn(t, prepare{Mounts: []testMount{{"overlay", dir, "overlay", data}}}, nil)
	for _, size := range []int{100, 300 << 10} {
		content := strings.Repeat("n", size)
		for _, name := range []string{"f", "g"} {
			if r := put(t, a.socket, dir+"/"+name, content); !r.Success {
				t.Errorf("%+v", r)
			}
			if got := get(t, a.socket, dir+"/"+name); string(got.Data.Content) != content {
				t.Errorf("%s: %d bytes", name, len(got.Data.Content))
			}
		}
	}
	if r := call(t, a.socket, object{"operation": "file_stat", "path": dir + "/f"}); r.Data.Mode != "640" {
		t.Errorf("%+v", r)
	}
	if left := readDir(t, a.root()+dir); len(left) != 2 {
		t.Errorf("left %v", left)
	}
}

// TestNamedTemporary: where a filesystem can make no file without a name, one with
// a name does, and is not left behind.
func TestNamedTemporary(t *testing.T) {
	dir := t.TempDir()
	target := openTarget(dir + "/f")
	if target.err != nil {
		t.Fatal(target.err)
	}
	f, err := target.createNamed()
	if err != nil {
		t.Fatal(err)
	}
	if len(readDir(t, dir)) != 1 {
		t.Error("has no name")
	}
	if _, err := f.WriteString("new"); err != nil {
		t.Error(err)
	}
	if err := target.replace(f); err != nil {
		t.Error(err)
	}
	target.close()
	if got := readFile(t, dir+"/f"); got != "new" {
		t.Errorf("%q", got)
	}
	target = openTarget(dir + "/f")
	if f, err = target.createNamed(); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	target.close()
	if left := readDir(t, dir); len(left) != 1 {
		t.Errorf("left %v", left)
	}
}
