//go:build linux

package agent

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"io"

	"github.com/hyperfleet/init/applets/wire"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// A compressor is a way to send an archive in fewer bytes.
type compressor struct {
	cost int // what it holds, in bytes
	open func(w io.Writer) io.WriteCloser
}

// compressors returns them, by their names in a request. Both are the fastest of
// their kind, and neither starts a goroutine.
func compressors() map[string]compressor {
	return map[string]compressor{
		"": {0, func(w io.Writer) io.WriteCloser { return asItIs{w} }},
		wire.Gzip: {5 << 18, func(w io.Writer) io.WriteCloser {
			z, _ := gzip.NewWriterLevel(w, gzip.BestSpeed) // the level is one
			return z
		}},
		wire.Zstd: {2 << 20, func(w io.Writer) io.WriteCloser {
			// The level goes before the window, of which it has a larger one in mind.
			z, _ := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(zstdWindow),
				zstd.WithLowerEncoderMem(true), zstd.WithEncoderConcurrency(1)) // the options are right
			return z
		}},
	}
}

// asItIs does not compress.
type asItIs struct{ io.Writer }

func (asItIs) Close() error { return nil }

const (
	// zstdWindow is how far back what this compresses with zstd refers, in bytes: a
	// tree becomes 2 % smaller with four times as much, and the agent larger.
	zstdWindow = 128 << 10

	// unzstdCost is what decompressing zstd holds beside a frame's window.
	unzstdCost = 3 << 19
)

// decompress looks at how an archive begins, and returns what reads it; release is
// for when that is done.
func (u *unpacking) decompress(src io.Reader) (archive *countReader, release func(), err error) {
	in := bufio.NewReaderSize(src, 16<<10)
	release = func() {}
	magic, _ := in.Peek(4)
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		zip, err := gzip.NewReader(in)
		if err != nil {
			return nil, release, badArchive(err)
		}
		return &countReader{r: zip}, release, nil
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}),
		bytes.HasSuffix(magic, []byte{0x2a, 0x4d, 0x18}) && magic[0]>>4 == 5: // a frame to be skipped
		return u.unzstd(in)
	}
	return &countReader{r: in}, release, nil
}

// unzstd decompresses zstd. How much memory that takes is in the first frame's
// header; a frame behind it that wants more is an error.
func (u *unpacking) unzstd(in *bufio.Reader) (archive *countReader, release func(), err error) {
	window := uint64(u.window)
	var h zstd.Header
	start, _ := in.Peek(zstd.HeaderMaxSize)
	if err := h.Decode(start); err == nil && !h.Skippable {
		needs := h.WindowSize
		if h.SingleSegment { // whose window is its content
			needs = h.FrameContentSize
		}
		if needs > window {
			return nil, func() {}, refuse(unix.EOPNOTSUPP, "the archive needs a zstd window of %d bytes: at most %d (see --max-line)", needs, window)
		}
		window = min(window, max(needs, zstdWindow))
	}
	cost := int(window) + unzstdCost
	if err := u.memory.Await(cost); err != nil {
		return nil, func() {}, err
	}
	d, _ := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(window)) // the options are right
	return &countReader{r: d}, func() { d.Close(); u.memory.Give(cost) }, nil
}
