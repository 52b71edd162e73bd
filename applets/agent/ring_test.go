//go:build linux

package agent

import (
	"bytes"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/hyperfleet/init/applets/wire"
)

// TestRing: what is read is what was written, in its order and of its kind, and
// what is missing is the oldest and no more than must be.
func TestRing(t *testing.T) {
	dir := t.TempDir()
	for _, size := range []int64{1, 7, 64, 4096} {
		r, err := newRing(size, func() (*os.File, error) { return tempFile(dir) })
		if err != nil {
			t.Fatal(err)
		}
		random := rand.New(rand.NewPCG(1, uint64(size)))
		var all []byte        // everything
		var kinds []wire.Kind // of each byte
		for range 300 {
			p := make([]byte, random.IntN(int(2*size)+2))
			for i := range p {
				p[i] = byte(random.Uint32())
			}
			kind := wire.KindStdout + wire.Kind(random.IntN(2))
			r.write(kind, p)
			all = append(all, p...)
			kinds = append(kinds, slices.Repeat([]wire.Kind{kind}, len(p))...)
			if from, to := r.extent(); to != int64(len(all)) || from != max(0, to-size) {
				t.Fatalf("size %d: keeps %d to %d of %d", size, from, to, len(all))
			}
			checkRing(t, r, all, kinds, int64(random.IntN(len(all)+1)))
		}
		r.end()
		if _, _, n, more, err := r.read(int64(len(all)), make([]byte, 1)); n != 0 || more != nil || err != nil {
			t.Error("no end", n, more, err)
		}
		r.close()
	}
}

// checkRing reads from an offset to the end.
func checkRing(t *testing.T, r *ring, all []byte, kinds []wire.Kind, offset int64) {
	t.Helper()
	for buf := make([]byte, 50); ; {
		kind, at, n, more, err := r.read(offset, buf)
		if err != nil {
			t.Fatal(err)
		}
		if from, _ := r.extent(); at != max(offset, from) {
			t.Fatalf("asked for %d, got %d of %d on", offset, at, from)
		}
		if n == 0 {
			if more == nil || at != int64(len(all)) {
				t.Fatalf("ends at %d of %d", at, len(all))
			}
			return
		}
		if !bytes.Equal(buf[:n], all[at:at+int64(n)]) {
			t.Fatalf("other bytes at %d", at)
		}
		for i := range n {
			if kinds[at+int64(i)] != kind {
				t.Fatalf("of another kind at %d", at)
			}
		}
		offset = at + int64(n)
	}
}

// TestRingTurns: output and errors by turns, a byte at a time, do not make it
// grow.
func TestRingTurns(t *testing.T) {
	r, err := newRing(1<<20, func() (*os.File, error) { return nil, os.ErrPermission }) // in memory
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	for i := range 3 * maxRuns {
		r.write(wire.KindStdout+wire.Kind(i%2), []byte{byte(i)})
	}
	from, to := r.extent()
	if len(r.runs) > maxRuns+1 || to != 3*maxRuns || from < to-maxRuns-1 || from > to-maxRuns+1 {
		t.Errorf("%d runs, %d to %d", len(r.runs), from, to)
	}
	buf := make([]byte, 10)
	if kind, at, n, _, err := r.read(0, buf); at != from || n != 1 || buf[0] != byte(from) || kind != wire.KindStdout+wire.Kind(from%2) || err != nil {
		t.Error(kind, at, n, buf, err)
	}
}

// TestRingWakes: who waits for more is told.
func TestRingWakes(t *testing.T) {
	r, err := newRing(100, func() (*os.File, error) { return nil, os.ErrPermission })
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	for _, event := range []func(){func() { r.write(wire.KindStdout, []byte("a")) }, r.end} {
		_, to := r.extent()
		_, _, _, more, err := r.read(to, make([]byte, 1))
		if err != nil || more == nil {
			t.Fatal(err, more)
		}
		go event()
		<-more
	}
}
