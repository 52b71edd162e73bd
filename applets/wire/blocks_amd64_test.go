package wire

import "testing"

func fastBlocks() bool { return avx2() }

// Not every processor can, and every other test here is of those that do.
func TestBase64WithoutAVX2(t *testing.T) {
	defer func(has bool) { processor.avx2 = has }(avx2())
	processor.avx2 = false
	if n := decodeBlocks(make([]byte, blocksSize)) + encodeBlocks(make([]byte, 2*blocksSize), make([]byte, blocksSize)); n > 0 {
		t.Fatal(n)
	}
	TestBase64(t)
	TestBase64PaddingAtBoundaries(t)
	TestContentIsReadNoFurther(t)
	TestContentCannotBeWritten(t)
	TestWriteBase64(t)
}
