package wire

import (
	"bytes"
	"io"
	"testing"
)

// TestPastTheBuffer: payloads of all sizes, taken from the source, read, left or
// both, by turns: the next frame is always where it should be.
func TestPastTheBuffer(t *testing.T) {
	sizes := []int{0, 5, 4 << 10, largeFrame - 1, largeFrame, 100_000, 3, MaxPayload, largeFrame, 0, 70_000}
	for way := range 5 {
		var all bytes.Buffer
		w := NewFrameWriter(&all)
		for i, n := range sizes {
			f := NewFrame(n)
			for j := range f.Payload() {
				f.Payload()[j] = byte(i + j)
			}
			_ = w.WriteFrame(KindData, f, n)
			_ = w.Empty(KindKeepAlive)
		}
		src := io.Reader(&all)
		r := NewFrameReader(src)
		for i, n := range sizes {
			_, got, err := r.Next()
			if err != nil || got != n {
				t.Fatalf("way %d, frame %d: %d bytes, %v, want %d", way, i, got, err, n)
			}
			var payload []byte
			take := func(n int) {
				p := make([]byte, n)
				_, _ = io.ReadFull(src, p)
				r.Took(n)
				payload = append(payload, p...)
			}
			read := func(n int) {
				p := make([]byte, n)
				m, _ := r.Read(p)
				payload = append(payload, p[:m]...)
			}
			for len(payload) < n {
				switch u := r.Unread(); {
				case u > 0 && way%2 == 0:
					take((u + 1) / 2)
				case way == 3:
					read(1000)
				default:
					read(MaxPayload)
				}
				if way == 4 && len(payload) > n/2 {
					break // what is left is passed over
				}
			}
			for j := range payload {
				if payload[j] != byte(i+j) {
					t.Fatalf("way %d, frame %d: byte %d of %d is another", way, i, j, n)
				}
			}
		}
		if _, _, err := r.Next(); err != io.EOF {
			t.Errorf("way %d: at the end: %v", way, err)
		}
	}
}
