package wire

// decodeBlocks decodes in place what p begins with, up to about the first byte that
// is not of the alphabet, and returns how many bytes that was: a multiple of four.
//
//go:noescape
func decodeBlocks(p []byte) int

// encodeBlocks encodes most of src to dst, which has room for all of it, and returns
// how many bytes that was: a multiple of three.
//
//go:noescape
func encodeBlocks(dst, src []byte) int
