//go:build linux

package agent

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/wire"
)

// TestPastMemory: what goes past the agent's and the client's memory arrives as it
// was, of every size at which the ways change, from and to files and beside them.
func TestPastMemory(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	dir := t.TempDir()
	for _, size := range []int64{0, 1, 4091, 4096, 16<<10 - 1, 64<<10 + 5, 1 << 20, 1<<20 + 1, 5<<20 + 12345} {
		want := noiseBytes(t, 1, size)
		src, dst, back := filepath.Join(dir, "src"), filepath.Join(dir, "dst"), filepath.Join(dir, "back")
		if err := os.WriteFile(src, want, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(src)
		if err != nil {
			t.Fatal(err)
		}
		if sum, err := c.Put(t.Context(), dst, f, client.PutOptions{Size: &size}); err != nil || sum.Size != size {
			t.Errorf("put of %d: %+v, %v", size, sum, err)
		}
		_ = f.Close()
		if got, err := os.ReadFile(dst); err != nil || !bytes.Equal(got, want) {
			t.Errorf("put of %d: %d bytes that are others, %v", size, len(got), err)
		}
		if f, err = os.Create(back); err != nil {
			t.Fatal(err)
		}
		if sum, err := c.Get(t.Context(), dst, f, client.GetOptions{}); err != nil || sum.Size != size {
			t.Errorf("get of %d: %+v, %v", size, sum, err)
		}
		_ = f.Close()
		if got, err := os.ReadFile(back); err != nil || !bytes.Equal(got, want) {
			t.Errorf("get of %d: %d bytes that are others, %v", size, len(got), err)
		}
		var out, errs bytes.Buffer
		p, err := c.Start(t.Context(), client.Command{Cmd: []string{"sh", "-c", `cat "$0"; cat "$0" >&2`, src}, Stdout: &out, Stderr: &errs})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Wait(); err != nil || !bytes.Equal(out.Bytes(), want) || !bytes.Equal(errs.Bytes(), want) {
			t.Errorf("output of %d: %d and %d bytes, %v", size, out.Len(), errs.Len(), err)
		}
	}
	eventually(t, "the memory is given back", func() bool { return l.memory.inUse() == 0 })
}

// TestPutBeyondItsSize by a frame that is announced to reach too far.
func TestPutBeyondItsSize(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	dst := filepath.Join(t.TempDir(), "f")
	size := int64(1 << 20)
	src := filepath.Join(t.TempDir(), "src")
	if err := os.WriteFile(src, make([]byte, 2*size), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(src)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := c.Put(t.Context(), dst, f, client.PutOptions{Size: &size}); err == nil || !strings.Contains(err.Error(), "more than its 1048576 bytes") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(dst); err == nil {
		t.Error("the file is there")
	}
}

// TestOutputThatIsStolen: a command can read its own output from the pipe. What is
// announced to a client is there all the same.
func TestOutputThatIsStolen(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	var n counter
	p, err := c.Start(t.Context(), client.Command{
		Cmd:    []string{"sh", "-c", `cat <&1 >/dev/null & dd if=/dev/zero bs=64k count=400 2>/dev/null; kill $!; exit 7`},
		Stdout: &n,
	})
	if err != nil {
		t.Fatal(err)
	}
	exit, err := p.Wait()
	if err != nil || exit.ExitCode != 7 || n > 400<<16 {
		t.Errorf("%+v, %v, %d bytes", exit, err, n)
	}
}

// TestFloodOfASlowClient: what a command writes waits in the pipes, and is whole
// when its client reads on.
func TestFloodOfASlowClient(t *testing.T) {
	l := serve(t, testLimits())
	src := filepath.Join(t.TempDir(), "src")
	content := noiseBytes(t, 3, 8<<20)
	if err := os.WriteFile(src, content, 0o600); err != nil {
		t.Fatal(err)
	}
	s := keep(t, l.socket)
	s.send(object{"operation": "exec", "cmd": []string{"cat", src}, "stream": true, "timeout": 0}.line())
	s.receive()
	eventually(t, "its passage is counted", func() bool { return l.memory.inUse() >= 2*ductSize })
	sum, in := sha256.New(), wire.NewFrameReader(s.lines)
	for k := wire.KindStdout; k == wire.KindStdout; {
		var err error
		if k, _, err = in.Next(); err != nil {
			t.Fatal(err)
		}
		if k == wire.KindStdout {
			_, _ = io.Copy(sum, in)
		}
	}
	if got, want := fmt.Sprintf("%x", sum.Sum(nil)), fmt.Sprintf("%x", sha256.Sum256(content)); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	eventually(t, "the memory is given back", func() bool { return l.memory.inUse() == 0 })
}
