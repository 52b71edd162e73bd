//go:build linux

package agent

import (
	"fmt"
	"io"
	"os/exec"
	"testing"

	"github.com/hyperfleet/init/applets/client"
)

// BenchmarkExecOutput compares: output of a command that is streamed is to have at
// least 0.7 of the rate of the pipe itself, which another program reads that drops
// what it gets. The agent is a process of its own; its peak is to be at most 4 MB
// above what it has when idle.
//
//	go test -run - -bench ExecOutput -benchtime 10x ./applets/agent
func BenchmarkExecOutput(b *testing.B) {
	a := spawn(b, prepare{}, nil)
	c := client.New(client.Unix(a.socket))
	if err := c.Ping(b.Context()); err != nil {
		b.Fatal(err)
	}
	idle := a.kilobytes(b, "VmRSS")
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("writes=%dKiB", size>>10), func(b *testing.B) {
			cmd := []string{"dd", "if=/dev/zero", fmt.Sprintf("bs=%d", size), fmt.Sprintf("count=%d", streamSize/size)}
			ratio(b, func() {
				command := exec.Command(cmd[0], cmd[1:]...)
				out, err := command.StdoutPipe()
				if err == nil {
					err = command.Start()
				}
				if err != nil {
					b.Fatal(err)
				}
				n, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{out}, make([]byte, pipeBuffer))
				if err := command.Wait(); err != nil || n != streamSize {
					b.Fatal(n, err)
				}
			}, func() {
				var n counter
				p, err := c.Start(b.Context(), client.Command{Cmd: cmd, Stdout: &n})
				if err != nil {
					b.Fatal(err)
				}
				if _, err := p.Wait(); err != nil || n != streamSize {
					b.Fatal(n, err)
				}
			})
			b.ReportMetric(float64(a.kilobytes(b, "VmHWM")-idle)/1e3, "agent-peak-MB")
		})
	}
}

// A counter drops what is written to it.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
