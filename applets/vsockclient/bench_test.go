//go:build linux

package vsockclient

import (
	"bytes"
	"slices"
	"syscall"
	"testing"
	"time"
)

// BenchmarkKeystroke is from a key in the client's window to its echo there, which
// the guest's terminal made: through the client's terminal, client, socket, agent
// and the command's terminal, and back.
func BenchmarkKeystroke(b *testing.B) {
	liveAgent(b)
	window, tty := openTerminal(b, 24, 80)
	cmd := process(b, "exec", "-it", "--", "sh", "-c", "echo ready; exec cat >/dev/null")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	_ = window.SetReadDeadline(time.Now().Add(10 * time.Minute))
	buf := make([]byte, 256)
	for seen := []byte(nil); !bytes.Contains(seen, []byte("ready")); {
		n, err := window.Read(buf)
		if err != nil {
			b.Fatal(err)
		}
		seen = append(seen, buf[:n]...)
	}
	time.Sleep(100 * time.Millisecond) // the rest of that line
	_ = window.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, _ = window.Read(buf)
	_ = window.SetReadDeadline(time.Time{})
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		key := []byte{"abcdefghijklmnopqrstuvwxyz\r"[i%27]}
		start := time.Now()
		if _, err := window.Write(key); err != nil {
			b.Fatal(err)
		}
		for n, want := 0, 1+i%27/26; n < want; { // Enter is echoed as two
			m, err := window.Read(buf)
			if err != nil {
				b.Fatal(err)
			}
			n += m
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "median-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}
