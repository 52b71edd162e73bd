//go:build linux

package agent

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

func put(t testing.TB, l string, path, content string, more ...string) reply {
	t.Helper()
	request := object{"operation": "file_write", "path": path, "content": base64Of([]byte(content))}
	for i := 0; i+1 < len(more); i += 2 {
		request[more[i]] = more[i+1]
		if more[i] == "append" {
			request["append"] = more[i+1] == "true"
		}
	}
	return call(t, l, request)
}

func get(t testing.TB, l string, path string) reply {
	t.Helper()
	return call(t, l, object{"operation": "file_read", "path": path})
}

// TestWriteKeeps what a file has beside its content.
func TestWriteKeeps(t *testing.T) {
	l := serve(t, testLimits())
	for _, size := range []int{10, 200 << 10} { // in memory, and not
		content := strings.Repeat("x", size)
		dir := t.TempDir()
		path := filepath.Join(dir, "f")
		stat := func() (st syscall.Stat_t) {
			t.Helper()
			if err := syscall.Lstat(path, &st); err != nil {
				t.Fatal(err)
			}
			return st
		}
		mode := func(want uint32, what string) {
			t.Helper()
			if got := stat().Mode & 0o7777; got != want {
				t.Errorf("%d bytes: %s: mode %o, want %o", size, what, got, want)
			}
		}
		put(t, l.socket, path, content)
		mode(0o644, "new")
		put(t, l.socket, path, content, "mode", "4751")
		mode(0o4751, "asked for")
		before := stat()
		put(t, l.socket, path, content)
		mode(0o4751, "kept")
		if after := stat(); after.Ino == before.Ino {
			t.Error("was not replaced but overwritten")
		}
		_ = unix.Setxattr(path, "user.hf", []byte("value"), 0)
		_, noAttributes := unix.Getxattr(path, "user.hf", make([]byte, 10))
		if os.Getuid() == 0 {
			if err := os.Chown(path, 12, 34); err != nil {
				t.Fatal(err)
			}
			_ = os.Chmod(path, 0o640|os.ModeSetgid)
		}
		owned := stat()
		put(t, l.socket, path, content+"2")
		if after := stat(); after.Uid != owned.Uid || after.Gid != owned.Gid || after.Mode != owned.Mode || after.Size != int64(size)+1 {
			t.Errorf("%d bytes: %+v, before %+v", size, after, owned)
		}
		value := make([]byte, 10)
		if n, err := unix.Getxattr(path, "user.hf", value); noAttributes == nil && (err != nil || string(value[:n]) != "value") {
			t.Errorf("%d bytes: extended attribute: %q %v", size, value, err)
		}
		put(t, l.socket, path, "more", "append", "true")
		if after := stat(); after.Uid != owned.Uid || after.Mode&0o777 != owned.Mode&0o777 || after.Size != int64(size)+5 {
			t.Errorf("%d bytes: appended: %+v", size, after)
		}
		if left := readDir(t, dir); len(left) != 1 {
			t.Errorf("left: %v", left)
		}
	}
}

// TestLinks: writing through one keeps it, deleting one keeps what it leads to.
func TestLinks(t *testing.T) {
	l := serve(t, testLimits())
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	if err := cmp.Or(os.Mkdir(in("d"), 0o755), os.Mkdir(in("d/e"), 0o755), os.WriteFile(in("file"), []byte("old"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{
		"link": "file", "link2": "link", "absolute": in("file"), "dangling": "d/new", "d/up": "../file", "d/e/up": "../../link2",
		"through": "d/e/../e/up", "dir": "d", "loop": "loop", "loop1": "loop2", "loop2": "loop1", "nowhere": "nosuch/x", "todir": "d/",
	} {
		if err := os.Symlink(to, in(name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, row := range []struct{ path, leadsTo, code string }{
		{"link", "file", ""}, {"link2", "file", ""}, {"absolute", "file", ""}, {"d/up", "file", ""}, {"d/e/up", "file", ""}, {"through", "file", ""},
		{"dir/up", "file", ""}, {"dangling", "d/new", ""}, {"loop", "", "ELOOP"}, {"loop1", "", "ELOOP"},
		{"loop/x", "", "ELOOP"}, {"nowhere", "", "ENOENT"}, {"dir", "", "EISDIR"}, {"todir", "", "EISDIR"}, {"file/x", "", "ENOTDIR"},
		{"d", "", "EISDIR"}, {"d/", "", "EISDIR"}, {"d/.", "", "EISDIR"}, {"d/..", "", "EISDIR"}, {"nosuch/x", "", "ENOENT"},
	} {
		for _, appends := range []string{"false", "true"} {
			_ = os.WriteFile(in("file"), []byte("old"), 0o600)
			_ = os.Remove(in("d/new"))
			if r := put(t, l.socket, in(row.path), "new", "append", appends); r.Code != row.code {
				t.Errorf("%s: %+v, want %q", row.path, r, row.code)
			}
			want := "new"
			if row.leadsTo == "file" && appends == "true" {
				want = "oldnew"
			}
			if row.leadsTo != "" && readFile(t, in(row.leadsTo)) != want {
				t.Errorf("%s: %s holds %q", row.path, row.leadsTo, readFile(t, in(row.leadsTo)))
			}
		}
	}
	for _, name := range []string{"link", "loop", "dir/", "dangling"} {
		if r := call(t, l.socket, object{"operation": "file_delete", "path": in(name)}); !r.Success {
			t.Errorf("delete %s: %+v", name, r)
		}
		if _, err := os.Lstat(strings.TrimSuffix(in(name), "/")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("delete %s: %v", name, err)
		}
	}
	if _, err := os.Stat(in("d/up")); err != nil || readFile(t, in("file")) == "" {
		t.Error("what the links led to is gone")
	}
}

// TestNames: the longest there are, and those that are longer.
func TestNames(t *testing.T) {
	l := serve(t, testLimits())
	dir := t.TempDir()
	deep := dir
	for len(deep)+101 < 4000 {
		deep += "/" + strings.Repeat("d", 100)
	}
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct{ path, code string }{
		{dir + "/" + strings.Repeat("n", 255), ""},
		{dir + "/" + strings.Repeat("n", 256), "ENAMETOOLONG"},
		{deep + "/" + strings.Repeat("n", 4095-len(deep)-1), ""},
		{deep + "/" + strings.Repeat("n", 4096-len(deep)-1), "ENAMETOOLONG"},
		{dir + "/" + strings.Repeat("é", 127), ""},
		{dir + "/\"\\\n\t\x01\x7f", ""},
		{dir + "/" + strings.Repeat("./", 3000) + "f", "ENAMETOOLONG"},
	} {
		for _, request := range []object{
			{"operation": "file_write", "content": "QUJD"}, {"operation": "file_write", "content": "QUJD", "append": true},
			{"operation": "file_read"}, {"operation": "file_stat"}, {"operation": "file_delete"},
		} {
			request["path"] = row.path
			if r := call(t, l.socket, request); r.Code != row.code {
				t.Errorf("%s of %d bytes, name %.10q…: %q, want %q", request["operation"], len(row.path), filepath.Base(row.path), r.Code, row.code)
			}
		}
	}
}

// TestNotRegular: what has no end, or would wait, is refused at once. (FAULTS.md 1.15, 1.16)
func TestNotRegular(t *testing.T) {
	l := serve(t, testLimits())
	dir := t.TempDir()
	fifo, socket := filepath.Join(dir, "fifo"), filepath.Join(shortDir(t), "s")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: socket})
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	sparse := filepath.Join(dir, "sparse")
	if err := cmp.Or(os.WriteFile(sparse, nil, 0o600), os.Truncate(sparse, 1<<40)); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	for _, row := range []struct{ operation, path, code string }{
		{"file_read", fifo, "EINVAL"}, {"file_read", socket, "EINVAL"}, {"file_read", "/dev/zero", "EINVAL"}, {"file_read", "/dev/tty", "EINVAL"},
		{"file_read", "/dev/null", "EINVAL"}, {"file_read", dir, "EISDIR"}, {"file_read", sparse, "EFBIG"}, {"file_read", "/proc/self/fd/0/x", "ENOTDIR"},
		{"file_write", fifo, "ENXIO"}, {"file_write", socket, "ENXIO"}, {"file_write", dir, "EISDIR"}, {"file_write", "/", "EISDIR"},
		{"file_delete", "/", "EBUSY"}, {"file_delete", filepath.Dir(dir), "ENOTEMPTY"}, {"file_delete", dir + "/nosuch", "ENOENT"},
		{"file_delete", sparse + "/", ""}, {"file_delete", fifo, ""}, {"file_delete", dir + "//", ""},
	} {
		request := object{"operation": row.operation, "path": row.path}
		if row.operation == "file_write" {
			request["content"] = "QUJD"
		}
		if r := call(t, l.socket, request); r.Code != row.code {
			t.Errorf("%s of %s: %+v, want %q", row.operation, row.path, r, row.code)
		}
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("took %v", took)
	}
	if r := put(t, l.socket, "/dev/null", "x"); r.Data.BytesWritten != 1 {
		t.Errorf("/dev/null: %+v", r)
	}
}

// TestFIFO with a reader takes what is written, small or large.
func TestFIFO(t *testing.T) {
	l := serve(t, testLimits())
	for _, size := range []int{5, 300 << 10} {
		fifo := filepath.Join(t.TempDir(), "fifo")
		if err := unix.Mkfifo(fifo, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := os.OpenFile(fifo, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		content, _ := io.ReadAll(noise(3, int64(size)))
		got := make(chan []byte)
		go func() {
			b := make([]byte, size)
			_, _ = io.ReadFull(r, b)
			got <- b
		}()
		if reply := put(t, l.socket, fifo, string(content)); !reply.Success {
			t.Fatalf("%+v", reply)
		}
		if !bytes.Equal(<-got, content) {
			t.Errorf("%d bytes: other ones came", size)
		}
	}
}

// TestKernelFiles are read to their end though they say they are empty, and
// written in place. (FAULTS.md 1.15)
func TestKernelFiles(t *testing.T) {
	l := serve(t, testLimits())
	if r := get(t, l.socket, "/proc/self/status"); !strings.Contains(string(r.Data.Content), "VmRSS") || r.Data.Size != int64(len(r.Data.Content)) {
		t.Errorf("%+v", r)
	}
	if r := get(t, l.socket, "/proc/self/smaps"); len(r.Data.Content) < 4096 || !bytes.HasSuffix(r.Data.Content, []byte("\n")) {
		t.Errorf("smaps: %d bytes", len(r.Data.Content))
	}
	if r := get(t, l.socket, "/sys/kernel/mm/transparent_hugepage/enabled"); r.Success && (len(r.Data.Content) == 0 || len(r.Data.Content) > 200) {
		t.Errorf("%+v", r)
	}
	comm := fmt.Sprintf("/proc/%d/task/%d/comm", os.Getpid(), os.Getpid())
	old := readFile(t, comm)
	defer func() { _ = os.WriteFile(comm, []byte(strings.TrimSpace(old)), 0) }()
	if r := put(t, l.socket, comm, "written"); !r.Success {
		t.Errorf("%+v", r)
	}
	if got := readFile(t, comm); got != "written\n" {
		t.Errorf("%q", got)
	}
	if r := put(t, l.socket, "/proc/self/oom_score_adj", "nonsense"); r.Code != "EINVAL" {
		t.Errorf("%+v", r)
	}
	if r := put(t, l.socket, "/proc/version", "x"); r.Success {
		t.Errorf("%+v", r)
	}
	if l.group.Valid() {
		if r := put(t, l.socket, l.group.String()+"/cgroup.freeze", "0"); !r.Success {
			t.Errorf("%+v", r)
		}
	}
}

// TestStat of odd files. (FAULTS.md 1.2, 1.14)
func TestStat(t *testing.T) {
	l := serve(t, testLimits())
	dir := t.TempDir()
	if st := (unix.Statfs_t{}); unix.Statfs("/dev/shm", &st) == nil && unix.Access("/dev/shm", unix.W_OK) == nil {
		var err error
		if dir, err = os.MkdirTemp("/dev/shm", "hf"); err != nil { // has times of 64 bits
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
	}
	path := filepath.Join(dir, "f")
	for _, row := range []struct {
		seconds int64
		want    string
	}{
		{0, "1970-01-01T00:00:00Z"}, {-1, "1969-12-31T23:59:59Z"}, {253402300799, "9999-12-31T23:59:59Z"},
		{253402300800, "9999-12-31T23:59:59Z"}, {1 << 40, "9999-12-31T23:59:59Z"}, {1<<63 - 1, "9999-12-31T23:59:59Z"},
		{-62167219201, "0000-01-01T00:00:00Z"}, {-1 << 62, "0000-01-01T00:00:00Z"},
	} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := unix.UtimesNano(path, []unix.Timespec{{}, {Sec: row.seconds}}); err != nil {
			t.Log(row.seconds, err)
			continue
		}
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil || st.Mtim.Sec != row.seconds {
			continue // a filesystem that can't
		}
		if r := call(t, l.socket, object{"operation": "file_stat", "path": path}); r.Data.ModTime != row.want {
			t.Errorf("%d: %+v, want %s", row.seconds, r, row.want)
		}
	}
	for _, mode := range []uint32{0, 0o7, 0o644, 0o4755, 0o1777, 0o7777} {
		_ = unix.Chmod(path, mode)
		if r := call(t, l.socket, object{"operation": "file_stat", "path": path}); r.Data.Mode != strconv.FormatUint(uint64(mode), 8) {
			t.Errorf("%o: %q", mode, r.Data.Mode)
		}
	}
}

// TestConcurrentWriters: the file is always one of theirs, whole.
func TestConcurrentWriters(t *testing.T) {
	l := serve(t, testLimits())
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	const size = 150 << 10
	version := func(i int) string { return strings.Repeat(string(rune('A'+i)), size+i) }
	whole := func(b string) bool { return len(b) >= size && b == version(len(b)-size) }
	put(t, l.socket, path, version(0))
	var done atomic.Bool
	var readers, writers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for !done.Load() {
				if b := readFile(t, path); !whole(b) {
					t.Errorf("a reader saw %d bytes", len(b))
				}
				if b := get(t, l.socket, path).Data.Content; !whole(string(b)) {
					t.Errorf("file_read saw %d bytes", len(b))
				}
			}
		})
	}
	for i := range 32 {
		writers.Go(func() {
			for range 3 {
				if r := put(t, l.socket, path, version(i)); !r.Success {
					t.Errorf("%+v", r)
				}
			}
		})
	}
	writers.Wait()
	done.Store(true)
	readers.Wait()
	if left := readDir(t, dir); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

// TestConcurrentAppends lose nothing, though the file is not there at first.
func TestConcurrentAppends(t *testing.T) {
	l := serve(t, testLimits())
	for _, size := range []int{100, 100 << 10} {
		path := filepath.Join(t.TempDir(), "f")
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				if r := put(t, l.socket, path, strings.Repeat(string(rune('A'+i)), size), "append", "true"); !r.Success {
					t.Errorf("%+v", r)
				}
			})
		}
		wg.Wait()
		if n := len(readFile(t, path)); n != 16*size {
			t.Errorf("%d bytes, want %d", n, 16*size)
		}
	}
}

// TestWriterGone: a client that breaks off leaves the old content, and no more.
func TestWriterGone(t *testing.T) {
	l := serve(t, testLimits())
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	put(t, l.socket, path, "old")
	request := object{"operation": "file_write", "path": path, "content": base64Of(make([]byte, 1<<20))}.line()
	for _, end := range []int{len(request) - 1, len(request) - 3, len(request) / 2, 200 << 10} {
		c := dial(t, l.socket)
		if _, err := io.WriteString(c, strings.TrimSuffix(request[:end], "}")); err != nil {
			t.Error(err)
		}
		_ = c.Close()
	}
	eventually(t, "the agent has seen it", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.conns) == 0
	})
	if got := readFile(t, path); got != "old" {
		t.Errorf("%d bytes", len(got))
	}
	if left := readDir(t, dir); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

// TestLinksOfOthers: in a directory that all can write to, the link of another
// user is not followed to where that user can't write.
func TestLinksOfOthers(t *testing.T) {
	needRoot(t)
	l := serve(t, testLimits())
	dir := t.TempDir()
	secret, link := filepath.Join(dir, "secret"), filepath.Join(dir, "tmp", "link")
	if err := os.Mkdir(filepath.Dir(link), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, link); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		mode     os.FileMode
		dir, uid int
		code     string
	}{
		{0o777 | os.ModeSticky, 0, 1000, "EACCES"},
		{0o777 | os.ModeSticky, 2000, 1000, "EACCES"},
		{0o777 | os.ModeSticky, 1000, 1000, ""}, // its own directory
		{0o777 | os.ModeSticky, 0, 0, ""},
		{0o755, 0, 1000, ""}, // where only root can have put it
	} {
		if err := cmp.Or(os.Chown(filepath.Dir(link), row.dir, 0), os.Chmod(filepath.Dir(link), row.mode), os.Lchown(link, row.uid, 0)); err != nil {
			t.Fatal(err)
		}
		for _, appends := range []string{"false", "true"} {
			if err := os.WriteFile(secret, []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
			if r := put(t, l.socket, link, "new", "append", appends); r.Code != row.code {
				t.Errorf("%+v: %+v", row, r)
			}
			if got := readFile(t, secret); (got == "old") != (row.code != "") {
				t.Errorf("%+v: %q", row, got)
			}
		}
	}
}

// TestSwapped: a file that another takes the place of, between the look and the
// writing, keeps nobody waiting and is not written to.
func TestSwapped(t *testing.T) {
	dir := t.TempDir()
	path, secret := filepath.Join(dir, "f"), filepath.Join(dir, "secret")
	fifo := func() error { return unix.Mkfifo(path, 0o600) }
	regular := func() error { return os.WriteFile(path, []byte("old"), 0o600) }
	for _, row := range []struct {
		name         string
		before, then func() error
	}{
		{"a regular file for a FIFO", regular, fifo},
		{"a FIFO for a link", fifo, func() error { return os.Symlink(secret, path) }},
		{"a FIFO for a hard link", fifo, func() error { return os.Link(secret, path) }},
	} {
		_ = os.Remove(path)
		if err := cmp.Or(os.WriteFile(secret, []byte("old"), 0o600), row.before()); err != nil {
			t.Fatal(err)
		}
		target := openTarget(path)
		if err := cmp.Or(target.err, os.Remove(path), row.then()); err != nil {
			t.Fatal(err)
		}
		content := &spool{limit: 10}
		_, _ = content.Write([]byte("new"))
		if err := target.write(content, wire.FileWrite{Path: path, Mode: -1, Append: true}); err == nil {
			t.Errorf("%s: no error", row.name)
		}
		target.close()
		if got := readFile(t, secret); got != "old" {
			t.Errorf("%s: %q", row.name, got)
		}
	}
}
