//go:build linux

package agent

import (
	"archive/tar"
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/wire"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// theirs is what zstd 1.5.4 -19 makes of an archive with hello.txt in it.
const theirs = "28b52ffd640007750200d2420a11a0ab03005c27a1d3ffc6bbbfd2a9c2632983732dd6ce4e3677c3c62019bd632f057b" +
	"be144b2994020d20302d32300ef6d9c70112828414806d86a101c20f240f8e3170c04101ec26d7051d299bba"

// zstded compresses, in one frame.
func zstded(t testing.TB, b []byte, o ...zstd.EOption) []byte {
	t.Helper()
	var z bytes.Buffer
	w, err := zstd.NewWriter(&z, append([]zstd.EOption{zstd.WithEncoderConcurrency(1)}, o...)...)
	if err == nil {
		_, err = w.Write(b)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return z.Bytes()
}

// windowed is the beginning of a frame that needs a window of 2**log bytes.
func windowed(log int) []byte {
	return []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, byte(log-10) << 3}
}

// TestTarPutZstd: what other programs make of zstd's format is unpacked, and what is
// not of it, or needs more memory than there may be, is an error that says so.
func TestTarPutZstd(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	hello, err := hex.DecodeString(theirs)
	if err != nil {
		t.Fatal(err)
	}
	big, err := io.ReadAll(tarOf(file("one"), &tar.Header{Name: "two", Typeflag: tar.TypeReg, Size: 5 << 20, Mode: 0o600}))
	if err != nil {
		t.Fatal(err)
	}
	skipped := []byte{0x5e, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 'a', 'b', 'c'}
	half := len(big) / 2
	empty := append(windowed(10), 0x01, 0, 0) // its last block is of no bytes
	oneSegment := []byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 1, 0, 0, 0}
	dictionary := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x23, 1, 2, 3, 4, 1, 0x09, 0, 0, 'x'}
	for _, row := range []struct {
		what    string
		archive []byte
		want    error
		message string
		left    string
	}{
		{"of the program", hello, nil, "", "hello.txt"},
		{"of the largest window", zstded(t, big, zstd.WithWindowSize(8<<20)), nil, "", "one two"},
		{"of two frames", slices.Concat(zstded(t, big[:half]), zstded(t, big[half:])), nil, "", "one two"},
		{"with frames to be skipped", slices.Concat(skipped, hello, skipped), nil, "", "hello.txt"},
		{"with empty frames", slices.Concat(empty, hello, empty), nil, "", "hello.txt"},
		{"nothing", empty, unix.EBADMSG, "ends in the middle", ""},
		{"the magic alone", hello[:4], unix.EBADMSG, "ends in the middle", ""},
		{"half a header", hello[:6], unix.EBADMSG, "ends in the middle", ""},
		{"without its checksum", hello[:len(hello)-4], unix.EBADMSG, "ends in the middle", ""}, // its only block is not known to be right
		{"cut in a frame to be skipped", skipped[:9], unix.EBADMSG, "ends in the middle", ""},
		{"a reserved bit", []byte{0x28, 0xb5, 0x2f, 0xfd, 0x08, 0, 0, 0, 0, 0, 0, 0}, unix.EBADMSG, "reserved", ""},
		{"noise behind the magic", append(slices.Clone(hello[:7]), bytes.Repeat([]byte{0xa5}, 1000)...), unix.EBADMSG, "", ""},
		{"something else behind it", append(slices.Clone(hello), "tail"...), unix.EBADMSG, "magic number", "hello.txt"},
		{"a dictionary", dictionary, unix.EBADMSG, "dictionary", ""},
		{"a window of 16 MiB", append(windowed(24), hello[7:]...), unix.EOPNOTSUPP, "16777216 bytes: at most 8388608 (see --max-line)", ""},
		{"a window of 2 TiB", append(windowed(41), hello[7:]...), unix.EOPNOTSUPP, "2199023255552", ""},
		{"one segment of 4 GiB", append(oneSegment, hello[7:]...), unix.EOPNOTSUPP, "4294967296", ""},
		{"a larger window behind a small one", append(slices.Clone(hello), windowed(23)...), unix.EBADMSG, "window size", "hello.txt"},
		{"a larger one behind a frame to be skipped", slices.Concat(skipped, windowed(24), hello[7:]), unix.EBADMSG, "window size", ""},
	} {
		dir := t.TempDir()
		_, err := c.TarPut(t.Context(), dir, bytes.NewReader(row.archive), client.TarPutOptions{})
		if !errors.Is(err, row.want) || (err != nil) != (row.want != nil) || err != nil && !strings.Contains(err.Error(), row.message) {
			t.Errorf("%s: %v, want %v %q", row.what, err, row.want, row.message)
		}
		if left := strings.Join(readDir(t, dir), " "); left != row.left {
			t.Errorf("%s: left %q", row.what, left)
		}
	}
	if used := l.memory.inUse(); used != 0 {
		t.Errorf("%d bytes are held when all is done", used)
	}
}

// TestTarPutZstdBusy: a window waits for its memory, and the client is told if
// there is none. One that fits what is left goes on meanwhile.
func TestTarPutZstdBusy(t *testing.T) {
	limits := testLimits()
	limits.Busy = 1
	l := serve(t, limits)
	c := client.New(client.Unix(l.socket))
	other := &share{budget: l.memory}
	if err := other.Await(l.memory.size + 1); err != nil {
		t.Fatal(err)
	}
	archive, err := io.ReadAll(tarOf(file("a")))
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.TarPut(t.Context(), t.TempDir(), bytes.NewReader(zstded(t, archive)), client.TarPutOptions{})
	if !errors.Is(err, unix.EAGAIN) {
		t.Error(err)
	}
	for _, how := range []string{wire.Gzip, wire.Zstd} {
		if _, err := c.TarGet(t.Context(), t.TempDir(), io.Discard, client.TarGetOptions{Compress: how}); !errors.Is(err, unix.EAGAIN) {
			t.Errorf("%s: %v", how, err)
		}
	}
	other.Give(l.memory.size + 1)
	if _, err = c.TarPut(t.Context(), t.TempDir(), bytes.NewReader(zstded(t, archive)), client.TarPutOptions{}); err != nil {
		t.Error(err)
	}
}

// allocated returns how many bytes f allocates, which bounds what it holds.
func allocated(f func()) int {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return int(after.TotalAlloc - before.TotalAlloc)
}

// mixed is content of every kind that compressors treat differently.
func mixed(t testing.TB, size int) []byte {
	noise := noiseBytes(t, 7, int64(size/2))
	text := []byte{}
	for i := 0; len(text) < size/2; i++ {
		text = fmt.Appendf(text, "%d: %x\n", i*i, noise[i%100:i%100+i%7])
	}
	return append(append(make([]byte, size/8), text...), noise...)
}

// TestCodecCost: compressing and decompressing take what they ask of the budget, however
// much passes.
func TestCodecCost(t *testing.T) {
	if raceEnabled() {
		t.Skip("the race detector allocates")
	}
	content := mixed(t, 24<<20)
	archives := map[string][]byte{}
	for how, c := range compressors() {
		var out bytes.Buffer
		out.Grow(2 * len(content))
		took := allocated(func() {
			w := c.open(&out)
			for rest := content; len(rest) > 0; {
				n, err := w.Write(rest[:min(len(rest), 60000)])
				if err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
		})
		t.Logf("%q: %d bytes become %d, %d allocated", how, len(content), out.Len(), took)
		if took > c.cost+1<<10 {
			t.Errorf("%q: %d bytes allocated, %d asked for", how, took, c.cost)
		}
		archives[how] = out.Bytes()
	}
	for name, archive := range map[string][]byte{
		"its own":            archives[wire.Zstd],
		"the largest window": zstded(t, content, zstd.WithWindowSize(8<<20), zstd.WithEncoderLevel(zstd.SpeedBestCompression)),
		"many frames":        bytes.Repeat(zstded(t, content[:1<<20], zstd.WithWindowSize(1<<20)), 20),
		"a bomb":             append(windowed(23), bytes.Repeat([]byte{0x02, 0, 0x10, 0}, 8<<10)...), // 128 KiB from 4 bytes
	} {
		b := newBudget(32<<20, patience)
		u := &unpacking{memory: &share{budget: b}, window: 8 << 20}
		n, asked := int64(0), 0
		took := allocated(func() {
			in, release, err := u.decompress(bytes.NewReader(archive))
			if err != nil {
				t.Fatal(err)
			}
			asked = b.inUse()
			if n, err = io.CopyBuffer(onlyWriter{io.Discard}, in, make([]byte, 4096)); err != nil && name != "a bomb" {
				t.Error(name, err)
			}
			release()
		})
		t.Logf("%s: %d bytes become %d, %d allocated, %d asked for", name, len(archive), n, took, asked)
		if took > asked || asked > 8<<20+unzstdCost || b.inUse() != 0 || name == "a bomb" && n < 1<<30 {
			t.Errorf("%s: %d bytes of %d allocated, %d asked for, %d not given back", name, n, took, asked, b.inUse())
		}
	}
}

// TestZstdProgram: the zstd program, where there is one, reads what tar_get writes,
// and the other way round.
func TestZstdProgram(t *testing.T) {
	program, err := exec.LookPath("zstd")
	if err != nil {
		t.Skip("needs zstd")
	}
	filter := func(in io.Reader, args ...string) *bytes.Buffer {
		t.Helper()
		var out, messages bytes.Buffer
		cmd := exec.Command(program, append(args, "-q", "-c")...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = in, &out, &messages
		if err := cmd.Run(); err != nil {
			t.Fatal(args, err, messages.String())
		}
		return &out
	}
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	dir := t.TempDir()
	content := mixed(t, 3<<20)
	if err := os.WriteFile(filepath.Join(dir, "mixed"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	var plain, packed bytes.Buffer
	if _, err := c.TarGet(t.Context(), dir, &plain, client.TarGetOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.TarGet(t.Context(), dir, &packed, client.TarGetOptions{Compress: wire.Zstd}); err != nil {
		t.Fatal(err)
	}
	if got := filter(&packed, "-d"); !bytes.Equal(got.Bytes(), plain.Bytes()) {
		t.Error("the program reads another archive")
	}
	for _, args := range [][]string{{"-1"}, {"-3", "--no-check"}, {"-19"}, {"--fast=5"}, {"-5", "--long=23"}, {"-B256K", "-T2", "-6"}} {
		target := t.TempDir()
		archive := filter(bytes.NewReader(plain.Bytes()), args...)
		if _, err := c.TarPut(t.Context(), target, archive, client.TarPutOptions{}); err != nil {
			t.Errorf("%v: %v", args, err)
			continue
		}
		if got := readFile(t, filepath.Join(target, "mixed")); got != string(content) {
			t.Errorf("%v: something else comes out", args)
		}
	}
	long := filter(bytes.NewReader(plain.Bytes()), "-5", "--long=27")
	if _, err := c.TarPut(t.Context(), t.TempDir(), long, client.TarPutOptions{}); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Error("--long=27:", err)
	}
}

// FuzzUnzstd: whatever comes, decompressing ends, and holds what it asked for.
func FuzzUnzstd(f *testing.F) {
	hello, _ := hex.DecodeString(theirs)
	f.Add(hello)
	f.Add(zstded(f, mixed(f, 10000)))
	f.Add(append(windowed(23), hello[7:]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		budget := newBudget(1<<20, patience)
		u := &unpacking{memory: &share{budget: budget}, window: 1 << 20}
		in, release, err := u.unzstd(bufio.NewReader(bytes.NewReader(b)))
		if err == nil {
			_, _ = io.CopyN(io.Discard, in, 16<<20)
		}
		release()
		if budget.inUse() != 0 {
			t.Error("memory is not given back")
		}
	})
}
