//go:build linux

package agent

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/client"
	"golang.org/x/sys/unix"
)

func sumOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// noiseBytes is n bytes of noise.
func noiseBytes(t testing.TB, seed uint64, n int64) []byte {
	t.Helper()
	b, err := io.ReadAll(noise(seed, n))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestFileGet: a file comes whole or in part, with what is to be known about it,
// through memory (hash) and past it.
func TestFileGet(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	const size = 3<<20 + 17
	content := noiseBytes(t, 3, size)
	path := filepath.Join(t.TempDir(), "f")
	when := time.Date(2001, 2, 3, 4, 5, 6, 789012345, time.UTC)
	if err := errors.Join(os.WriteFile(path, content, 0o600), os.Chmod(path, 0o640|os.ModeSetgid), os.Chtimes(path, when, when)); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		offset, length int64
		want           []byte
	}{
		{0, 0, content}, {size - 5, 0, content[size-5:]}, {size, 0, nil}, {7, 9, content[7:16]}, {1 << 20, 1 << 20, content[1<<20 : 2<<20]},
		{3 << 20, 1 << 40, content[3<<20:]}, {0, 1, content[:1]},
	} {
		for _, hashed := range []bool{false, true} {
			var got bytes.Buffer
			var attr client.Attr
			o := client.GetOptions{Offset: row.offset, Length: row.length, Hash: hashed, Begin: func(a client.Attr) error { attr = a; return nil }}
			sum, err := c.Get(t.Context(), path, &got, o)
			if err != nil || !bytes.Equal(got.Bytes(), row.want) || sum.Size != int64(len(row.want)) {
				t.Errorf("%d+%d hash=%v: %d bytes, %+v, %v", row.offset, row.length, hashed, got.Len(), sum, err)
			}
			if hashed && sum.SHA256 != sumOf(row.want) || !hashed && sum.SHA256 != "" {
				t.Errorf("%d+%d: SHA-256 %q", row.offset, row.length, sum.SHA256)
			}
			if attr.Size != size || attr.Mode != 0o640|fs.ModeSetgid || attr.UID != os.Getuid() || attr.GID != os.Getgid() || !attr.ModTime.Equal(when) {
				t.Errorf("%+v", attr)
			}
		}
	}
}

// TestFileGetRefused: what file_read refuses, in the line and not in a frame.
func TestFileGetRefused(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	dir := t.TempDir()
	file, fifo := filepath.Join(dir, "f"), filepath.Join(dir, "fifo")
	if err := errors.Join(os.WriteFile(file, []byte("abc"), 0o600), unix.Mkfifo(fifo, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		path   string
		offset int64
		want   error
	}{
		{dir, 0, unix.EISDIR}, {fifo, 0, unix.EINVAL}, {"/dev/null", 0, unix.EINVAL}, {dir + "/nosuch", 0, fs.ErrNotExist}, {file, 4, unix.EINVAL}, {file, -1, unix.EINVAL},
	} {
		if _, err := c.Get(t.Context(), row.path, io.Discard, client.GetOptions{Offset: row.offset}); !errors.Is(err, row.want) {
			t.Errorf("%s at %d: %v", row.path, row.offset, err)
		}
	}
	if got := say(t, l.socket, object{"operation": "file_get", "path": fifo}.line()); !strings.HasPrefix(got, `{"success":false`) {
		t.Errorf("%q", got)
	}
}

// TestFileGetKernel: files of the kernel's, which tell no size, to their end.
func TestFileGetKernel(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	var got bytes.Buffer
	if _, err := c.Get(t.Context(), "/proc/version", &got, client.GetOptions{}); err != nil || got.String() != readFile(t, "/proc/version") {
		t.Errorf("%q %v", got.String(), err)
	}
	got.Reset()
	if _, err := c.Get(t.Context(), "/proc/version", &got, client.GetOptions{Offset: 6, Length: 7, Hash: true}); err != nil || got.String() != readFile(t, "/proc/version")[6:13] {
		t.Errorf("%q %v", got.String(), err)
	}
}

// TestFileGetShrinks: a file that is made shorter while it is sent ends early or
// is cut off, and is not padded; the client knows how much there was.
func TestFileGetShrinks(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	path := filepath.Join(t.TempDir(), "f")
	const size, rest = 32 << 20, 5 << 20
	for _, hashed := range []bool{false, true} {
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		o := client.GetOptions{Hash: hashed, Begin: func(client.Attr) error { return os.Truncate(path, rest) }}
		sum, err := c.Get(t.Context(), path, io.Discard, o)
		// By way of memory it just ends; a frame that was begun can't be completed.
		if sum.Size >= size || hashed && err != nil || !hashed && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("hash=%v: %+v, %v", hashed, sum, err)
		}
	}
}

// TestFileStreamMemory: what passes through a stream costs the agent at most 4 MB
// beyond what it has when it idles. (Issue 4: figures)
func TestFileStreamMemory(t *testing.T) {
	a := spawn(t, prepare{}, nil)
	c := client.New(client.Unix(a.socket))
	size := int64(64 << 20)
	if testing.Short() || raceEnabled() {
		size = 8 << 20
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size)); err != nil {
		t.Fatal(err)
	}
	if err := c.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	idle := a.kilobytes(t, "VmHWM")
	for _, hashed := range []bool{false, true} {
		if sum, err := c.Get(t.Context(), path, io.Discard, client.GetOptions{Hash: hashed}); err != nil || sum.Size != size {
			t.Errorf("%+v %v", sum, err)
		}
		if sum, err := c.Put(t.Context(), "/dev/null", io.LimitReader(repeated(0), 1<<20), client.PutOptions{Hash: hashed}); err != nil || sum.Size != 1<<20 {
			t.Errorf("%+v %v", sum, err)
		}
		if sum, err := c.Put(t.Context(), filepath.Join(dir, "g"), io.LimitReader(repeated(0), size), client.PutOptions{Hash: hashed}); err != nil || sum.Size != size {
			t.Errorf("%+v %v", sum, err)
		}
	}
	if _, err := c.Hash(t.Context(), path); err != nil {
		t.Error(err)
	}
	peak := a.kilobytes(t, "VmHWM")
	t.Logf("%d MiB each way: %d kB, %d when idle", size>>20, peak, idle)
	if peak > idle+4<<10 && !raceEnabled() {
		t.Errorf("%d kB, %d when idle", peak, idle)
	}
}
