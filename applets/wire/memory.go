package wire

// A Memory bounds what readers and replies hold beyond a few KiB each. nil is one
// without bounds.
type Memory interface {
	Take(n int) bool   // takes n bytes, if they can be had at once
	Await(n int) error // takes n bytes, and waits for them if need be
	Give(n int)        // gives n bytes back
}

// LineCost is how many bytes of a Memory each byte of a long line takes: one for
// the line, and one for what is parsed out of it.
const LineCost = 2

func take(m Memory, n int) bool { return m == nil || m.Take(n) }

func give(m Memory, n int) {
	if m != nil {
		m.Give(n)
	}
}
