//go:build linux

package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/hyperfleet/init/applets/client"
	"golang.org/x/sys/unix"
)

// TestFilePut: content of all sizes arrives, with all that is asked for.
func TestFilePut(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	when := time.Date(2001, 2, 3, 4, 5, 6, 789012345, time.UTC)
	mode := fs.FileMode(0o751) | fs.ModeSetuid
	for _, size := range []int64{0, 1, 70 << 10, 3<<20 + 1} {
		content := noiseBytes(t, 4, size)
		o := client.PutOptions{Mode: &mode, ModTime: when, Size: &size, SHA256: sumOf(content), Sync: true}
		if os.Getuid() == 0 {
			o.Owner = &client.Owner{UID: 12, GID: 34}
		}
		sum, err := c.Put(t.Context(), path, iotest.HalfReader(bytes.NewReader(content)), o)
		if err != nil || sum.Size != size || sum.SHA256 != sumOf(content) || readFile(t, path) != string(content) {
			t.Errorf("%d bytes: %+v %v", size, sum, err)
		}
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		var sys unix.Stat_t
		if err := unix.Stat(path, &sys); err != nil || st.Mode() != mode || !st.ModTime().Equal(when) || o.Owner != nil && (sys.Uid != 12 || sys.Gid != 34) {
			t.Errorf("%v %v %+v %v", st.Mode(), st.ModTime(), sys, err)
		}
		// Replaced again it stays as it is.
		if _, err := c.Put(t.Context(), path, strings.NewReader("new"), client.PutOptions{}); err != nil || readFile(t, path) != "new" {
			t.Error(err)
		}
		if st, err := os.Stat(path); err != nil || st.Mode() != mode || st.ModTime().Equal(when) {
			t.Errorf("%v %v %v", st.Mode(), st.ModTime(), err)
		}
	}
	if left := readDir(t, dir); len(left) != 1 {
		t.Errorf("left %v", left)
	}
}

// TestFilePutMismatch: content that is not what was announced, or that takes the
// place of what was not expected, changes nothing and leaves nothing. (Issue 4:
// a hash that does not match)
func TestFilePutMismatch(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	size := func(n int64) *int64 { return &n }
	other := sumOf([]byte("other"))
	for _, row := range []struct {
		name    string
		path    string
		o       client.PutOptions
		want    error
		content string
	}{
		{"too long", path, client.PutOptions{Size: size(2)}, unix.EBADMSG, "new"},
		{"too short", path, client.PutOptions{Size: size(4)}, unix.EBADMSG, "new"},
		{"other content", path, client.PutOptions{SHA256: other}, unix.EBADMSG, "new"},
		{"other content, resumable", path, client.PutOptions{SHA256: other, Partial: "x"}, unix.EBADMSG, "new"},
		{"something else is there", path, client.PutOptions{IfMatch: other}, unix.ESTALE, "new"},
		{"something is there", path, client.PutOptions{IfAbsent: true}, fs.ErrExist, "new"},
		{"nothing is there", path + "2", client.PutOptions{IfMatch: other}, fs.ErrNotExist, "new"},
		{"nothing at all is there", path + "2", client.PutOptions{IfMatch: "*"}, fs.ErrNotExist, "new"},
		{"no directory", path + "/x", client.PutOptions{}, unix.ENOTDIR, "new"},
		{"a directory", dir, client.PutOptions{}, unix.EISDIR, "new"},
		{"a bad name", path, client.PutOptions{Partial: "../x"}, unix.EINVAL, "new"},
		{"far too long", path, client.PutOptions{Size: size(2)}, unix.EBADMSG, strings.Repeat("x", 8<<20)},
	} {
		if _, err := c.Put(t.Context(), row.path, strings.NewReader(row.content), row.o); !errors.Is(err, row.want) {
			t.Errorf("%s: %v", row.name, err)
		}
		if left := readDir(t, dir); len(left) != 1 || readFile(t, path) != "old" {
			t.Errorf("%s: left %v, %q", row.name, left, readFile(t, path))
		}
	}
	for _, row := range []struct {
		path string
		o    client.PutOptions
	}{
		{path, client.PutOptions{IfMatch: sumOf([]byte("old"))}}, {path, client.PutOptions{IfMatch: "*"}}, {path + "2", client.PutOptions{IfAbsent: true}},
	} {
		if _, err := c.Put(t.Context(), row.path, strings.NewReader("new"), row.o); err != nil || readFile(t, row.path) != "new" {
			t.Errorf("%+v: %v", row.o, err)
		}
	}
}

// TestFilePutRace: of many that replace the same content on condition, one does;
// and of many that make a file which must not be there, one does.
func TestFilePutRace(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	dir := t.TempDir()
	old := filepath.Join(dir, "old")
	if err := os.WriteFile(old, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, o := range map[string]client.PutOptions{old: {IfMatch: sumOf([]byte("old"))}, filepath.Join(dir, "new"): {IfAbsent: true}} {
		const writers = 8
		var begun, ended sync.WaitGroup
		var won atomic.Int32
		begun.Add(writers)
		o.Begin = func(int64) error { begun.Done(); begun.Wait(); return nil } // each has passed the first look
		for range writers {
			ended.Go(func() {
				switch _, err := c.Put(t.Context(), path, strings.NewReader("new"), o); {
				case err == nil:
					won.Add(1)
				case !errors.Is(err, unix.ESTALE) && !errors.Is(err, unix.EEXIST):
					t.Error(err)
				}
			})
		}
		ended.Wait()
		if n := won.Load(); n != 1 {
			t.Errorf("%s: %d of %d writers won", path, n, writers)
		}
	}
	if left := readDir(t, dir); len(left) != 2 {
		t.Errorf("left %v", left)
	}
}

// cutOff sends the first n bytes of content and then loses the connection.
func cutOff(t *testing.T, c *client.Client, path string, content []byte, o client.PutOptions) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r := io.MultiReader(bytes.NewReader(content), readerFunc(func([]byte) (int, error) {
		cancel()
		return 0, io.ErrNoProgress
	}))
	if _, err := c.Put(ctx, path, r, o); err == nil {
		t.Fatal("an upload without an end succeeded")
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestFilePutLost: a client that is lost midway changes nothing, and leaves
// nothing but what it asked to be kept.
func TestFilePutLost(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	content := noiseBytes(t, 5, 2<<20)
	cutOff(t, c, path, content[:1<<20], client.PutOptions{})
	l.settle(t)
	if left := readDir(t, dir); len(left) != 0 {
		t.Errorf("left %v", left)
	}
	o := client.PutOptions{Partial: "token-1", Hash: true}
	cutOff(t, c, path, content[:1<<20], o)
	l.settle(t)
	if left := readDir(t, dir); len(left) != 1 || !strings.HasPrefix(left[0], ".hf-partial-token-1-") {
		t.Fatalf("left %v", left)
	}
	// As text, or it would be gone on with.
	resume := func(o client.PutOptions, r io.Reader) (offset int64, err error) {
		o.Begin = func(n int64) error { offset = n; return nil }
		sum, err := c.Put(t.Context(), path, r, o)
		if err == nil && (sum.Size != int64(len(content)) || readFile(t, path) != string(content)) {
			t.Errorf("%+v, %d bytes", sum, len(readFile(t, path)))
		}
		return offset, err
	}
	if n, err := resume(o, bytes.NewReader(content)); n == 0 || n > 1<<20 || err != nil {
		t.Errorf("resumed at %d: %v", n, err)
	}
	if left := readDir(t, dir); len(left) != 1 || left[0] != "f" {
		t.Errorf("left %v", left)
	}
	// Without a checksum, what is there already is not even read.
	o.Hash = false
	cutOff(t, c, path, content[:1<<20], o)
	l.settle(t)
	if n, err := resume(o, bytes.NewReader(content)); n == 0 || err != nil {
		t.Errorf("resumed at %d: %v", n, err)
	}
	// Of a source that has become shorter there is nothing to go on with.
	cutOff(t, c, path, content[:1<<20], o)
	l.settle(t)
	if _, err := resume(o, strings.NewReader("short")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	l.settle(t)
	for range 2 { // it may be gone already
		if err := c.Discard(t.Context(), path, "token-1"); err != nil {
			t.Error(err)
		}
	}
	if left := readDir(t, dir); len(left) != 1 {
		t.Errorf("left %v", left)
	}
}

// settle waits until no connection is left.
func (l *live) settle(t *testing.T) {
	t.Helper()
	eventually(t, "no connection is left", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.conns) == 0
	})
}

// TestPartial: an upload is one connection's at a time, is nobody else's, and is
// not kept for ever.
func TestPartial(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	o := client.PutOptions{Partial: "x"}
	busy := o
	busy.Begin = func(int64) error {
		if _, err := c.Put(t.Context(), path, strings.NewReader("other"), o); !errors.Is(err, unix.EBUSY) {
			t.Errorf("a second connection: %v", err)
		}
		if err := c.Discard(t.Context(), path, "x"); !errors.Is(err, unix.EBUSY) {
			t.Errorf("removed in use: %v", err)
		}
		return nil
	}
	if _, err := c.Put(t.Context(), path, strings.NewReader("new"), busy); err != nil || readFile(t, path) != "new" {
		t.Error(err)
	}
	// What somebody else has put in its place is not written to.
	victim := filepath.Join(dir, "victim")
	partial := filepath.Join(dir, (&target{name: "f"}).partialName("x"))
	if err := errors.Join(os.WriteFile(victim, []byte("old"), 0o644), os.Symlink(victim, partial)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Put(t.Context(), path, strings.NewReader("evil"), o); !errors.Is(err, unix.ELOOP) {
		t.Error(err)
	}
	if err := errors.Join(os.Remove(partial), os.Link(victim, partial)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Put(t.Context(), path, strings.NewReader("evil"), o); !errors.Is(err, fs.ErrPermission) || readFile(t, victim) != "old" {
		t.Errorf("%v, %q", err, readFile(t, victim))
	}
	_ = os.Remove(partial)
	// Another upload in the directory removes what is forgotten.
	old, fresh := filepath.Join(dir, partialPrefix+"old"), filepath.Join(dir, partialPrefix+"fresh")
	past := time.Now().Add(-partialAge - time.Hour)
	if err := errors.Join(os.WriteFile(old, nil, 0o600), os.Chtimes(old, past, past), os.WriteFile(fresh, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Put(t.Context(), path, strings.NewReader("new"), o); err != nil {
		t.Error(err)
	}
	if left := strings.Join(readDir(t, dir), " "); left != ".hf-partial-fresh f victim" {
		t.Errorf("left %s", left)
	}
}

// TestPartialsOfOneName: the same name for uploads to two files is two uploads, also
// beside each other.
func TestPartialsOfOneName(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	dir := t.TempDir()
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, strings.Repeat("2", 255))
	o := client.PutOptions{Partial: strings.Repeat("p", 64)}
	cutOff(t, c, one, []byte("AAAA"), o)
	l.settle(t)
	beside := o
	beside.Begin = func(int64) error {
		_, err := c.Put(t.Context(), two, strings.NewReader("BBBBBBBB"), o)
		return err
	}
	if _, err := c.Put(t.Context(), one, strings.NewReader("AAAAAA"), beside); err != nil {
		t.Error(err)
	}
	if got := readFile(t, one) + " " + readFile(t, two); got != "AAAAAA BBBBBBBB" {
		t.Error(got)
	}
}

// TestFilePutFull: a disk that fills up is told, and changes nothing. (Issue 4:
// a full disk; FAULTS.md 1.17)
func TestFilePutFull(t *testing.T) {
	needRoot(t)
	dir := shortDir(t)
	a := spawn(t, prepare{Mounts: []testMount{{"tmpfs", dir, "tmpfs", "size=512k"}}}, nil)
	c := client.New(client.Unix(a.socket))
	inside := a.root() + dir
	if _, err := c.Put(t.Context(), dir+"/f", strings.NewReader("old"), client.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, o := range []client.PutOptions{{}, {Partial: "x"}, {Sync: true}} {
		for _, name := range []string{"/f", "/g"} {
			if _, err := c.Put(t.Context(), dir+name, noise(6, 8<<20), o); !errors.Is(err, unix.ENOSPC) {
				t.Errorf("%s %+v: %v", name, o, err)
			}
			if left := readDir(t, inside); len(left) != 1 || readFile(t, inside+"/f") != "old" {
				t.Errorf("left %v", left)
			}
		}
	}
	if _, err := c.Copy(t.Context(), "/proc/self/exe", dir+"/g", false); !errors.Is(err, unix.ENOSPC) {
		t.Error(err)
	}
	if left := readDir(t, inside); len(left) != 1 {
		t.Errorf("left %v", left)
	}
}

// TestFilePutInPlace: what can't be replaced is written to.
func TestFilePutInPlace(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Put(t.Context(), fifo, strings.NewReader("x"), client.PutOptions{}); !errors.Is(err, unix.ENXIO) {
		t.Errorf("without a reader: %v", err)
	}
	if _, err := c.Put(t.Context(), fifo, strings.NewReader("x"), client.PutOptions{Partial: "x"}); !errors.Is(err, unix.EINVAL) {
		t.Error(err)
	}
	r, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if sum, err := c.Put(t.Context(), fifo, strings.NewReader("hello"), client.PutOptions{Hash: true}); err != nil || sum.SHA256 != sumOf([]byte("hello")) {
		t.Errorf("%+v %v", sum, err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(r, got); err != nil || string(got) != "hello" {
		t.Errorf("%q %v", got, err)
	}
	if _, err := c.Put(t.Context(), "/dev/null", noise(1, 1<<20), client.PutOptions{}); err != nil {
		t.Error(err)
	}
}

// TestFilePutFrames: frames that have no place in an upload end it, and change
// nothing.
func TestFilePutFrames(t *testing.T) {
	l := serve(t, testLimits())
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	request := object{"operation": "file_put", "path": path}.line()
	for name, frames := range map[string]string{
		"unknown kind": "\xc8\x00\x00\x00\x00", "too long": "\x04\x7f\xff\xff\xff", "out of place": "\x04\x00\x00\x00\x01x\x01\x00\x00\x00\x01x", "an end with content": "\x05\x00\x00\x00\x01x",
	} {
		if got := say(t, l.socket, request+frames); !strings.Contains(got, `"code":"EPROTO"`) {
			t.Errorf("%s: %q", name, got)
		}
	}
	c := dial(t, l.socket)
	_, _ = io.WriteString(c, request+"\x04\x00\x00\x00\x05x")
	_ = c.Close() // inside a frame
	l.settle(t)
	if left := readDir(t, dir); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}
