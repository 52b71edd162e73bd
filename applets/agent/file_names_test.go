//go:build linux

package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/hyperfleet/init/applets/client"
	"golang.org/x/sys/unix"
)

// modeOf is what a test wants to know of a file; "" if there is none.
func modeOf(path string) string {
	st, err := os.Lstat(path)
	if err != nil {
		return ""
	}
	return st.Mode().String()
}

func TestMkdir(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(os.WriteFile(in("file"), nil, 0o600), os.Symlink("a", in("link"))); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		path    string
		mode    fs.FileMode
		parents bool
		want    error
		is      string
	}{
		{"a", 0o777 | fs.ModeSticky, false, nil, "dtrwxrwxrwx"}, {"a", 0o700, false, fs.ErrExist, "dtrwxrwxrwx"}, {"a", 0o700, true, nil, "dtrwxrwxrwx"},
		{"b/c", 0o700, false, fs.ErrNotExist, ""}, {"b/c/", 0o750, true, nil, "drwxr-x---"}, {"b", 0, true, nil, "drwxr-xr-x"},
		{"link", 0o700, true, nil, "Lrwxrwxrwx"}, {"file", 0o700, true, fs.ErrExist, "-rw-------"}, {"file/x", 0o700, true, unix.ENOTDIR, ""},
		{"link/d", 0o500, true, nil, "dr-x------"},
	} {
		err := c.Mkdir(t.Context(), in(row.path), row.mode)
		if row.parents {
			err = c.MkdirAll(t.Context(), dir+"/"+row.path, row.mode)
		}
		if !errors.Is(err, row.want) || modeOf(in(row.path)) != row.is {
			t.Errorf("%s, parents %v: %v, %s", row.path, row.parents, err, modeOf(in(row.path)))
		}
	}
}

func TestRename(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(os.WriteFile(in("a"), []byte("a"), 0o600), os.WriteFile(in("b"), []byte("b"), 0o600), os.Mkdir(in("d"), 0o700), os.Symlink("d", in("l"))); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		from, to string
		replace  bool
		want     error
	}{
		{"a", "b", false, fs.ErrExist}, {"a", "l", false, fs.ErrExist}, {"nosuch", "x", false, fs.ErrNotExist}, {"a", "d", true, unix.EISDIR},
		{"d", "d/e", false, unix.EINVAL}, {"a", "b", true, nil}, {"b", "c", false, nil}, {"l", "m", false, nil}, {"d", "e", false, nil},
	} {
		if err := c.Rename(t.Context(), in(row.from), in(row.to), row.replace); !errors.Is(err, row.want) {
			t.Errorf("%s to %s: %v", row.from, row.to, err)
		}
	}
	if left := strings.Join(readDir(t, dir), " "); left != "c e m" || readFile(t, in("c")) != "a" {
		t.Error(left)
	}
	// Of those who take one name at once, one gets it.
	var wg sync.WaitGroup
	for i := range 8 {
		if err := os.WriteFile(in(fmt.Sprint(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { _ = c.Rename(t.Context(), in(fmt.Sprint(i)), in("one"), false) })
	}
	wg.Wait()
	if left := readDir(t, dir); len(left) != 3+8 {
		t.Error(left)
	}
}

// TestCopy: content, holes, mode and owner are kept, however the kernel can copy.
func TestCopy(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	content := noiseBytes(t, 8, 9<<20+5)
	sparse := make([]byte, 4<<20)
	copy(sparse[1<<20:], "middle")
	f, err := os.Create(in("sparse"))
	if err == nil {
		_, err = f.WriteAt([]byte("middle"), 1<<20)
	}
	if err := errors.Join(err, f.Truncate(4<<20), f.Close(), os.WriteFile(in("f"), content, 0o600), os.WriteFile(in("empty"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		_ = os.Chown(in("f"), 12, 34)
	}
	_ = os.Chmod(in("f"), 0o751|os.ModeSetuid)
	var want syscall.Stat_t
	if err := syscall.Stat(in("f"), &want); err != nil {
		t.Fatal(err)
	}
	other := dir // on another filesystem, if there is one
	if shm, err := os.MkdirTemp("/dev/shm", "hf"); err == nil {
		other = shm
		defer os.RemoveAll(shm)
	}
	for name, content := range map[string][]byte{"f": content, "sparse": sparse, "empty": nil} {
		for _, to := range []string{in("copy-" + name), filepath.Join(other, "far-"+name)} {
			n, err := c.Copy(t.Context(), in(name), to, false)
			if err != nil || n != int64(len(content)) || !bytes.Equal([]byte(readFile(t, to)), content) {
				t.Errorf("%s: %d %v", to, n, err)
			}
			if _, err := c.Copy(t.Context(), in(name), to, false); !errors.Is(err, fs.ErrExist) {
				t.Errorf("%s: %v", to, err)
			}
			var st syscall.Stat_t
			if err := syscall.Stat(to, &st); err != nil || name == "f" && (st.Mode != want.Mode || st.Uid != want.Uid || st.Gid != want.Gid) || name == "sparse" && st.Blocks*512 > 1<<20 {
				t.Errorf("%s: %+v", to, st)
			}
		}
	}
	if n, err := c.Copy(t.Context(), "/proc/version", in("copy-f"), true); err != nil || n == 0 || readFile(t, in("copy-f")) != readFile(t, "/proc/version") {
		t.Error(n, err)
	}
	for from, want := range map[string]error{in("nosuch"): fs.ErrNotExist, dir: unix.EISDIR, "/dev/null": unix.EINVAL} {
		if _, err := c.Copy(t.Context(), from, in("x"), true); !errors.Is(err, want) {
			t.Errorf("%s: %v", from, err)
		}
	}
	if _, err := c.Copy(t.Context(), in("f"), "/dev/null", true); !errors.Is(err, unix.EINVAL) {
		t.Error(err)
	}
	if left := readDir(t, dir); len(left) != 6 {
		t.Errorf("left %v", left)
	}
}

// TestExclusive: what appears under the name of a file in the making is not
// replaced by it.
func TestExclusive(t *testing.T) {
	dir := t.TempDir()
	to := openTarget(dir + "/f")
	defer to.close()
	to.exclusive = true
	f, err := to.create()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/f", []byte("theirs"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := to.replace(f); !errors.Is(err, fs.ErrExist) || readFile(t, dir+"/f") != "theirs" {
		t.Errorf("%v, %q", err, readFile(t, dir+"/f"))
	}
	to.close()
	if left := readDir(t, dir); len(left) != 1 {
		t.Errorf("left %v", left)
	}
}

// TestAttributes: modes, owners, links, lengths and checksums.
func TestAttributes(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	ctx := t.Context()
	dir := t.TempDir()
	file, link, loop := filepath.Join(dir, "f"), filepath.Join(dir, "l"), filepath.Join(dir, "loop")
	if err := os.WriteFile(file, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	odd := filepath.Join(dir, "odd")
	if err := os.Symlink("\xff", odd); err != nil {
		t.Fatal(err)
	}
	for what, row := range map[string]struct{ err, want error }{
		"symlink":                {c.Symlink(ctx, "f", link), nil},
		"symlink to itself":      {c.Symlink(ctx, "loop", loop), nil},
		"symlink, taken":         {c.Symlink(ctx, "f", file), fs.ErrExist},
		"symlink to nothing":     {c.Symlink(ctx, "", file), unix.EINVAL},
		"chmod":                  {c.Chmod(ctx, link, 0o750|fs.ModeSetuid), nil},
		"chmod of a loop":        {c.Chmod(ctx, loop, 0o750), unix.ELOOP},
		"chown, nobody":          {c.Chown(ctx, file, "no-such-user", ""), unix.EINVAL},
		"chown, no group":        {c.Chown(ctx, file, "", "no-such-group"), unix.EINVAL},
		"chown of nothing":       {c.Chown(ctx, dir+"/x", "0", ""), fs.ErrNotExist},
		"chown to nothing":       {c.Chown(ctx, file, "", ""), unix.EINVAL},
		"truncate":               {c.Truncate(ctx, file, 2), nil},
		"truncate, negative":     {c.Truncate(ctx, file, -2), unix.EINVAL},
		"truncate a directory":   {c.Truncate(ctx, dir, 2), unix.EISDIR},
		"truncate a device":      {c.Truncate(ctx, "/dev/null", 2), unix.EINVAL},
		"readlink of no link":    {second(c.Readlink(ctx, file)), unix.EINVAL},
		"readlink of nothing":    {second(c.Readlink(ctx, dir+"/x")), fs.ErrNotExist},
		"hash of a directory":    {second(c.Hash(ctx, dir)), unix.EISDIR},
		"hash of nothing at all": {second(c.Hash(ctx, dir+"/x")), fs.ErrNotExist},
	} {
		if !errors.Is(row.err, row.want) {
			t.Errorf("%s: %v", what, row.err)
		}
	}
	if got := modeOf(file); got != "urwxr-x---" || readFile(t, file) != "he" {
		t.Errorf("%s %q", got, readFile(t, file))
	}
	for path, want := range map[string]string{link: "f", loop: "loop", odd: "\xff"} {
		if got, err := c.Readlink(ctx, path); err != nil || got != want {
			t.Errorf("%s: %q %v", path, got, err)
		}
	}
	content := noiseBytes(t, 9, 1<<20+3)
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if sum, err := c.Hash(ctx, link); err != nil || sum.Size != 1<<20+3 || sum.SHA256 != sumOf(content) {
		t.Errorf("%+v %v", sum, err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestChown(t *testing.T) {
	needRoot(t)
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	dir := t.TempDir()
	file, link := filepath.Join(dir, "f"), filepath.Join(dir, "l")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Symlink("f", link)); err != nil {
		t.Fatal(err)
	}
	owner := func(path string) string {
		var st syscall.Stat_t
		if err := syscall.Lstat(path, &st); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%d:%d", st.Uid, st.Gid)
	}
	for _, row := range []struct {
		follow      bool
		user, group string
		file, link  string
	}{
		{true, "12", "", "12:0", "0:0"}, {true, "", "34", "12:34", "0:0"}, {false, "56", "78", "12:34", "56:78"}, {true, "root", "root", "0:0", "56:78"},
	} {
		chown := c.Lchown
		if row.follow {
			chown = c.Chown
		}
		if err := chown(t.Context(), link, row.user, row.group); err != nil || owner(file) != row.file || owner(link) != row.link {
			t.Errorf("%+v: %v, %s, %s", row, err, owner(file), owner(link))
		}
	}
	if r := call(t, l.socket, object{"operation": "file_chown", "path": file, "uid": 7, "gid": 8}); !r.Success || owner(file) != "7:8" {
		t.Errorf("%+v %s", r, owner(file))
	}
}
