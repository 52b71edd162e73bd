package vm

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
)

// maxKernel bounds what a kernel may unpack to.
const maxKernel = 512 << 20

func isELF(b []byte) bool { return bytes.HasPrefix(b, []byte("\x7fELF")) }

// unpackBzImage returns the vmlinux inside an x86 boot image. The offsets are
// those of the kernel's boot protocol (2.08 and later), which says where the
// compressed payload is; the payload's own magic says how it is compressed.
func unpackBzImage(b []byte) ([]byte, error) {
	if len(b) < 0x250 || string(b[0x202:0x206]) != "HdrS" {
		return nil, errors.New("not an x86 kernel image")
	}
	setup := int(b[0x1f1])
	if setup == 0 {
		setup = 4
	}
	start := uint64(setup+1)*512 + uint64(binary.LittleEndian.Uint32(b[0x248:]))
	end := start + uint64(binary.LittleEndian.Uint32(b[0x24c:]))
	// The size of the unpacked kernel is appended to the payload.
	if end > uint64(len(b)) || end < start+8 {
		return nil, errors.New("the kernel image is cut off")
	}
	kernel, err := decompress(b[start : end-4])
	if err != nil {
		return nil, err
	}
	if !isELF(kernel) {
		return nil, errors.New("what the kernel image holds is not an ELF file")
	}
	return kernel, nil
}

// decompress unpacks a payload of any of the formats that kernels are packed in
// and Go can read.
func decompress(b []byte) ([]byte, error) {
	var r io.Reader
	var err error
	switch {
	case bytes.HasPrefix(b, []byte("\x1f\x8b")):
		r, err = gzip.NewReader(bytes.NewReader(b))
	case bytes.HasPrefix(b, []byte("\xfd7zXZ\x00")):
		r, err = xz.NewReader(bytes.NewReader(b))
	case bytes.HasPrefix(b, []byte("\x28\xb5\x2f\xfd")):
		r, err = zstd.NewReader(bytes.NewReader(b))
	case bytes.HasPrefix(b, []byte("\x02\x21\x4c\x18")):
		r = lz4.NewReader(bytes.NewReader(b)) // LZ4's legacy frame, which kernels use
	default:
		return nil, fmt.Errorf("compressed in a way that is not known (%x…)", b[:4])
	}
	if err != nil {
		return nil, err
	}
	out, err := io.ReadAll(io.LimitReader(r, maxKernel))
	return out, err
}
