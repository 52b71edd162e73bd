//go:build unix

package wire

import (
	"bytes"
	"encoding/base64"
	"math/rand/v2"
	"os"
	"slices"
	"syscall"
	"testing"
)

// A fence is memory between two pages that can't be touched.
type fence []byte

func newFence(t testing.TB) fence {
	page := os.Getpagesize()
	b, err := syscall.Mmap(-1, 0, 3*page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Munmap(b) })
	for _, p := range [][]byte{b[:page], b[2*page:]} {
		if err := syscall.Mprotect(p, syscall.PROT_NONE); err != nil {
			t.Fatal(err)
		}
	}
	return fence(b[page : 2*page])
}

// places are where n bytes meet one of the two ends.
func (f fence) places(n int) [][]byte { return [][]byte{f[:n:n], f[len(f)-n:]} }

// blocksSize is that of three blocks and more, whatever the processor.
const blocksSize = 200

// noise is the same at every run.
func noise(n int) []byte {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// checkDecode decodes a copy of in at dst, and tells how much of it was.
func checkDecode(t *testing.T, dst, in []byte) int {
	copy(dst, in)
	n := decodeBlocks(dst)
	if n%4 != 0 || n < 0 || n > len(in) {
		t.Fatalf("%q: %d bytes", in, n)
	}
	want, err := base64.RawStdEncoding.DecodeString(string(in[:n]))
	if err != nil || bytes.ContainsAny(in[:n], "\r\n") {
		t.Fatalf("%q was taken: %v", in[:n], err)
	}
	if got := dst[:n/4*3]; !bytes.Equal(got, want) {
		t.Fatalf("%q: %x, want %x", in[:n], got, want)
	}
	if !bytes.Equal(dst[n:], in[n:]) {
		t.Fatalf("%q: what follows became %q", in, dst[n:])
	}
	return n
}

func TestBlocks(t *testing.T) {
	from, to := newFence(t), newFence(t)
	for size := range blocksSize {
		content := noise(size)
		text := []byte(base64.StdEncoding.EncodeToString(content))
		for i := range 2 {
			src, dst := from.places(size)[i], to.places(len(text))[i]
			copy(src, content)
			clear(dst)
			n := encodeBlocks(dst, src)
			if n%3 != 0 || n < 0 || n > size {
				t.Fatalf("%d bytes: %d", size, n)
			}
			if got := dst[:n/3*4]; !bytes.Equal(got, text[:len(got)]) {
				t.Fatalf("%x: %q, want %q", content[:n], got, text[:n/3*4])
			}
			d := checkDecode(t, dst, text)
			if left := len(text) - d; fastBlocks() && (n+48 <= size || left >= 64+4) {
				t.Errorf("of %d bytes only %d were encoded, and of the base64 %d left", size, n, left)
			}
		}
	}
}

// Each byte that is not of the alphabet, wherever it stands.
func TestBlocksIllegal(t *testing.T) {
	dst := newFence(t).places(blocksSize)[1]
	good := []byte(base64.StdEncoding.EncodeToString(noise(blocksSize / 4 * 3)))
	for c := range 256 {
		for i := range good {
			in := slices.Clone(good)
			in[i] = byte(c)
			checkDecode(t, dst, in)
		}
	}
}

// Every character at every place, beside others.
func TestBlocksAlphabet(t *testing.T) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	in := []byte(alphabet + alphabet)
	out := make([]byte, len(in))
	for range in {
		in = append(in[1:], in[0])
		n := checkDecode(t, out, in)
		if fastBlocks() && n < 64 {
			t.Errorf("%q: %d", in, n)
		}
		m := encodeBlocks(out, slices.Clone(out[:n/4*3]))
		if !bytes.Equal(out[:m/3*4], in[:m/3*4]) {
			t.Errorf("%q became %q", in[:m/3*4], out[:m/3*4])
		}
	}
}

func FuzzBlocks(f *testing.F) {
	from, to := newFence(f), newFence(f)
	f.Add([]byte("QUJDQUJDQUJDQUJDQUJDQUJDQUJDQUJDQUJDQUJDQUJDQUJDQUJDQUJDQUJDQUJDQUJDQUJDQUJDQUJDQUJDQUJDQUJDQUJD"))
	f.Fuzz(func(t *testing.T, in []byte) {
		in = in[:min(len(in), len(from)*3/4-4)]
		for i := range 2 {
			checkDecode(t, to.places(len(in))[i], in)
			src, want := from.places(len(in))[i], base64.StdEncoding.EncodeToString(in)
			copy(src, in)
			dst := to.places(len(want))[i]
			n := encodeBlocks(dst, src)
			if got := dst[:n/3*4]; n%3 != 0 || string(got) != want[:len(got)] {
				t.Fatalf("%x: %d, %q", in, n, got)
			}
		}
	})
}

func BenchmarkBlocks(b *testing.B) {
	content := noise(48 << 10)
	text := []byte(base64.StdEncoding.EncodeToString(content))
	out := make([]byte, len(text))
	b.Run("decode", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			copy(out, text)
			decodeBlocks(out)
		}
	})
	b.Run("encode", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			encodeBlocks(out, content)
		}
	})
	b.Run("stdlib decode", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			_, _ = strict.Decode(out, text)
		}
	})
	b.Run("stdlib encode", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			strict.Encode(out, content)
		}
	})
}
