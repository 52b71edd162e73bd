//go:build linux

package agent

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/wire"
)

// slowly reads a reply's line and what follows it, at the pace of one piece a tick,
// until ticks is closed and then without a pause. It returns how much came.
func slowly(t *testing.T, socket, request string, ticks <-chan struct{}) (n int64) {
	c := connect(t, socket)
	if c == nil {
		return 0
	}
	defer c.Close()
	if _, err := io.WriteString(c, request); err != nil {
		t.Error(err)
		return 0
	}
	buf := make([]byte, 4<<10)
	for {
		<-ticks
		m, err := c.Read(buf)
		n += int64(m)
		if err != nil {
			return n
		}
	}
}

// ticking returns a channel that lets one reader on at a time, and all after d.
func ticking(d time.Duration) <-chan struct{} {
	ticks := make(chan struct{})
	go func() {
		defer close(ticks)
		end := time.After(d)
		for {
			select {
			case <-end:
				return
			case ticks <- struct{}{}:
				time.Sleep(time.Millisecond)
			}
		}
	}()
	return ticks
}

// TestMemoryOfStreams: as many streams as there may be, with those many connections,
// whose clients read slowly, or send without a pause.
// (issue 4: streams in bounded memory; 16 MiB each with HF_SOAK=1)
func TestMemoryOfStreams(t *testing.T) {
	size, while := int64(256<<10), time.Second
	if os.Getenv("HF_SOAK") != "" {
		size, while = 16<<20, 30*time.Second
	}
	b := watched(t, "--max-connections=1088", "--max-memory=8388608", "--busy-timeout=10m")
	b.limits.Conns = 1088
	dir := filepath.Dir(b.socket)
	tree := filepath.Join(dir, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(tree, "file")
	if err := os.WriteFile(file, noiseBytes(t, 1, size), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(file, filepath.Join(tree, "again")); err != nil {
		t.Fatal(err)
	}
	ticks := ticking(while)
	var wg sync.WaitGroup
	ask := func(n int, least int64, request object) {
		line := request.line()
		for range scaled(n) {
			wg.Go(func() {
				if got := slowly(t, b.socket, line, ticks); got < least {
					t.Errorf("%s: %d bytes, of %d", line, got, least)
				}
			})
		}
	}
	ask(200, size, object{"operation": "file_get", "path": file})
	ask(150, size, object{"operation": "file_get", "path": file, "hash": true})
	ask(150, size, object{"operation": "tar_get", "path": tree})
	ask(25, size/2, object{"operation": "tar_get", "path": tree, "compress": wire.Gzip})
	ask(25, size/2, object{"operation": "tar_get", "path": tree, "compress": wire.Zstd})
	ask(150, size, object{"operation": "exec", "cmd": []string{"head", "-c", fmt.Sprint(size), "/dev/zero"}, "stream": true, "timeout": 0})
	for i := range scaled(300) {
		wg.Go(func() { putSlowly(t, b.socket, fmt.Sprintf("%s/%d", dir, i), i%2 == 0, size, ticks) })
	}
	wg.Wait()
	b.settle(t)
}

// putSlowly uploads size bytes, a piece a tick.
func putSlowly(t *testing.T, socket, path string, hash bool, size int64, ticks <-chan struct{}) {
	defer os.Remove(path)
	c := connect(t, socket)
	if c == nil {
		return
	}
	defer c.Close()
	_, _ = io.WriteString(c, object{"operation": "file_put", "path": path, "hash": hash}.line())
	frame := wire.NewFrame(64 << 10)
	w := wire.NewFrameWriter(c)
	for left := size; left > 0; left -= int64(len(frame.Payload())) {
		<-ticks
		if err := w.WriteFrame(wire.KindData, frame, len(frame.Payload())); err != nil {
			t.Errorf("file_put: %v", err)
			return
		}
	}
	_ = w.Empty(wire.KindEnd)
	got, _ := io.ReadAll(c)
	if want := fmt.Sprintf(`{"size":%d`, size); !bytes.Contains(got, []byte(want)) {
		t.Errorf("file_put: %s", got)
	}
}
