package vm

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// bzImage wraps a compressed payload as the kernel's boot protocol has it.
func bzImage(payload []byte) []byte {
	b := make([]byte, 512*3)
	b[0x1f1] = 1
	copy(b[0x202:], "HdrS")
	binary.LittleEndian.PutUint32(b[0x248:], 512)
	binary.LittleEndian.PutUint32(b[0x24c:], uint32(len(payload)+4))
	return append(append(b, payload...), 0, 0, 0, 0)
}

func TestUnpackBzImage(t *testing.T) {
	kernel := append([]byte("\x7fELF"), bytes.Repeat([]byte("abcabcab"), 100)...)
	var gz bytes.Buffer
	w := gzip.NewWriter(&gz)
	w.Write(kernel)
	w.Close()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	// "\x7fELF" and "abcabcab", then 792 more bytes from 8 back, in LZ4's legacy frame.
	block := append([]byte{12<<4 | 15}, kernel[:12]...)
	block = append(block, 8, 0, 255, 255, 255, 792-4-15-3*255)
	lz4 := append([]byte{2, 0x21, 0x4c, 0x18, byte(len(block)), 0, 0, 0}, block...)
	for name, payload := range map[string][]byte{"gzip": gz.Bytes(), "zstd": enc.EncodeAll(kernel, nil), "lz4": lz4} {
		got, err := unpackBzImage(bzImage(payload))
		if err != nil || !bytes.Equal(got, kernel) {
			t.Errorf("%s: %d bytes, %v; want %d", name, len(got), err, len(kernel))
		}
		if _, err := unpackBzImage(bzImage(payload)[:512*3+len(payload)/2]); err == nil {
			t.Errorf("%s: an image that is cut off was taken", name)
		}
	}
	for name, payload := range map[string][]byte{
		"unknown":        []byte("plain text"),
		"lz4, no end":    append([]byte{2, 0x21, 0x4c, 0x18, 2, 0, 0, 0}, 0xf0, 255),
		"lz4, too far":   append([]byte{2, 0x21, 0x4c, 0x18, 4, 0, 0, 0}, 0x10, 'x', 9, 0),
		"lz4, too short": {2, 0x21, 0x4c, 0x18, 200, 0, 0, 0, 1},
	} {
		if _, err := unpackBzImage(bzImage(payload)); err == nil {
			t.Errorf("%s: was taken", name)
		}
	}
}

// TestUnpackRealKernel runs where make test or make run has fetched a kernel.
func TestUnpackRealKernel(t *testing.T) {
	images, _ := filepath.Glob("../../../build/kernel/amd64/boot/vmlinuz-*")
	if len(images) == 0 {
		t.Skip("no kernel in build/kernel/amd64: hf-vm kernel --arch amd64 fetches one")
	}
	arch, _ := FindArch("amd64")
	path, err := FirecrackerKernel(arch, images[0], t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	e, err := elf.NewFile(f)
	if err != nil || e.Entry == 0 || e.Machine != elf.EM_X86_64 {
		t.Errorf("%s: %+v, %v", path, e, err)
	}
}
