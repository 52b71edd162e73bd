//go:build linux

package agent

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/client"
)

// streamSize is what the benchmarks of file streams move, in bytes: enough that
// its start does not count.
const streamSize = 256 << 20

// BenchmarkFileStream compares: file_get and file_put are to have at least 0.9 of
// the rate of a plain copy of the same bytes over a socket of the same kind, which
// is one by sendfile(2) and splice(2); with hash, of one whose both ends sum up what
// passes. They take turns, so that what else the machine does strikes them alike.
// The agent is a process of its own; its peak is to be at most 4 MB above what it
// has when idle.
//
//	go test -run - -bench FileStream -benchtime 10x ./applets/agent
func BenchmarkFileStream(b *testing.B) {
	a := spawn(b, prepare{}, nil)
	c := client.New(client.Unix(a.socket))
	if err := c.Ping(b.Context()); err != nil {
		b.Fatal(err)
	}
	idle := a.kilobytes(b, "VmRSS")
	dir := b.TempDir()
	if tmp, err := os.MkdirTemp("/dev/shm", "hf"); err == nil { // no disk in the way
		dir = tmp
		b.Cleanup(func() { _ = os.RemoveAll(tmp) })
	}
	src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
	f, err := os.Create(src)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := io.Copy(f, noise(1, streamSize)); err != nil {
		b.Fatal(err)
	}
	_ = f.Close()
	report := func(b *testing.B) { b.ReportMetric(float64(a.kilobytes(b, "VmHWM")-idle)/1e3, "agent-peak-MB") }
	for _, hashed := range []bool{false, true} {
		b.Run(fmt.Sprintf("get/hash=%v", hashed), func(b *testing.B) {
			ratio(b, func() { plainCopy(b, src, "", hashed) }, func() {
				if _, err := c.Get(b.Context(), src, io.Discard, client.GetOptions{Hash: hashed}); err != nil {
					b.Fatal(err)
				}
			})
			report(b)
		})
		b.Run(fmt.Sprintf("get_to_file/hash=%v", hashed), func(b *testing.B) {
			ratio(b, func() { plainCopy(b, src, dst, hashed) }, func() {
				f, err := os.Create(dst)
				if err != nil {
					b.Fatal(err)
				}
				defer f.Close()
				if _, err := c.Get(b.Context(), src, f, client.GetOptions{Hash: hashed}); err != nil {
					b.Fatal(err)
				}
			})
			report(b)
		})
		b.Run(fmt.Sprintf("put/hash=%v", hashed), func(b *testing.B) {
			ratio(b, func() { plainCopy(b, src, dst, hashed) }, func() {
				f, err := os.Open(src)
				if err != nil {
					b.Fatal(err)
				}
				defer f.Close()
				if _, err := c.Put(b.Context(), dst, f, client.PutOptions{Hash: hashed}); err != nil {
					b.Fatal(err)
				}
			})
			report(b)
		})
	}
}

// ratio runs two ways to move streamSize bytes in turns, and reports how the rates
// of the medians compare.
func ratio(b *testing.B, plain, agent func()) {
	var plains, agents []time.Duration
	timed := func(f func(), to *[]time.Duration) {
		start := time.Now()
		f()
		*to = append(*to, time.Since(start))
	}
	for b.Loop() {
		timed(plain, &plains)
		timed(agent, &agents)
	}
	slices.Sort(plains)
	slices.Sort(agents)
	p, a := plains[len(plains)/2], agents[len(agents)/2]
	b.ReportMetric(streamSize/p.Seconds()/1e6, "plain-MB/s")
	b.ReportMetric(streamSize/a.Seconds()/1e6, "agent-MB/s")
	b.ReportMetric(float64(p)/float64(a), "ratio")
	b.ReportMetric(0, "ns/op")
}

// plainCopy copies a file through a Unix socket to another file, or to nothing, as
// a program does that has nothing else in mind; hashed, both ends sum it up.
func plainCopy(b *testing.B, from, to string, hashed bool) {
	l, err := net.Listen("unix", filepath.Join(shortDir(b), "s"))
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			return
		}
		defer c.Close()
		f, err := os.Open(from)
		if err != nil {
			return
		}
		defer f.Close()
		if hashed {
			_, _ = io.CopyBuffer(struct{ io.Writer }{c}, io.TeeReader(f, sha256.New()), make([]byte, plainBuffer))
		} else {
			_, _ = io.Copy(c, f)
		}
	}()
	c, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	if n, err := plainReceive(c, to, hashed); n != streamSize || err != nil {
		b.Fatal(n, err)
	}
}

// plainBuffer is what a plain copy reads at once. With io.Copy's own, 32 KiB, it
// would be slower.
const plainBuffer = 256 << 10

func plainReceive(c net.Conn, to string, hashed bool) (int64, error) {
	var w io.Writer = io.Discard
	if to != "" {
		f, err := os.Create(to)
		if err != nil {
			return 0, err
		}
		defer f.Close()
		if !hashed {
			return io.Copy(f, c)
		}
		w = f
	}
	if hashed {
		w = io.MultiWriter(w, sha256.New())
	}
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{c}, make([]byte, plainBuffer))
}
