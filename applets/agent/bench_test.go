//go:build linux

package agent

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// median runs f for each iteration and reports the median of the time it took,
// which says more than the mean on a machine that does something else too.
func median(b *testing.B, f func()) {
	var took []time.Duration
	for b.Loop() {
		start := time.Now()
		f()
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1e3, "median-µs")
}

const execTrue = `{"operation":"exec","cmd":["/bin/true"],"keep_alive":true}` + "\n"

// These profile a piece, with -cpuprofile and -memprofile, in one process with the
// client. How fast the agent is, hf-bench measures.

func BenchmarkExec(b *testing.B) {
	s := keep(b, serve(b, testLimits()).socket)
	median(b, func() {
		_ = s.SetDeadline(time.Now().Add(time.Minute))
		s.send(execTrue)
		if line := s.receive(); !strings.Contains(line, `"exit_code":0,`) {
			b.Fatal(line)
		}
	})
}

func BenchmarkPing(b *testing.B) {
	l := serve(b, testLimits())
	s := keep(b, l.socket)
	median(b, func() {
		s.send(`{"operation":"ping","keep_alive":true}` + "\n")
		s.receive()
	})
}

func BenchmarkFile(b *testing.B) {
	l := serve(b, testLimits())
	path := filepath.Join(b.TempDir(), "f")
	for _, size := range []int{1 << 20, 100 << 20} {
		write := object{"operation": "file_write", "path": path, "content": base64Of(make([]byte, size))}.line()
		read := object{"operation": "file_read", "path": path}.line()
		for _, row := range []struct{ name, request string }{{"write", write}, {"read", read}} {
			b.Run(fmt.Sprintf("%s/%dMiB", row.name, size>>20), func(b *testing.B) {
				b.SetBytes(int64(size))
				median(b, func() {
					c := dial(b, l.socket)
					go func() { _, _ = io.WriteString(c, row.request) }()
					if n, err := io.Copy(io.Discard, c); err != nil || n == 0 {
						b.Fatal(n, err)
					}
					_ = c.Close()
				})
			})
		}
		_ = os.Remove(path)
	}
}
