package wire

import "sync"

func hasAVX2() bool

//go:noescape
func decodeAVX2(p []byte) int

//go:noescape
func encodeAVX2(dst, src []byte) int

// processor is asked when that is first needed: in a virtual machine the instructions
// for it trap, and PID 1 never needs to know.
var processor struct {
	asked sync.Once
	avx2  bool
}

func avx2() bool {
	processor.asked.Do(func() { processor.avx2 = hasAVX2() })
	return processor.avx2
}

// decodeBlocks decodes in place what p begins with, up to about the first byte that
// is not of the alphabet, and returns how many bytes that was: a multiple of four.
func decodeBlocks(p []byte) int {
	if !avx2() {
		return 0
	}
	return decodeAVX2(p)
}

// encodeBlocks encodes most of src to dst, which has room for all of it, and returns
// how many bytes that was: a multiple of three.
func encodeBlocks(dst, src []byte) int {
	if !avx2() {
		return 0
	}
	return encodeAVX2(dst, src)
}
