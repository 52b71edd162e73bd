package transport

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/internal/agenttest"
	"golang.org/x/sys/unix"
)

// TestReader: it reads what its connection does, in whatever pieces and pauses, and
// ends as that does.
func TestReader(t *testing.T) {
	far, near := agenttest.Pair(t)
	r := NewReader(near)
	if _, ok := r.(*reader); !ok {
		t.Fatalf("%T", r)
	}
	if n, err := r.Read(nil); n != 0 || err != nil {
		t.Error(n, err)
	}
	var want bytes.Buffer
	go func() {
		defer far.Close()
		for i := range 40 {
			piece := bytes.Repeat([]byte{byte(i)}, []int{1, 5, 64 << 10, muchRead}[i%4])
			_, _ = far.Write(piece)
			time.Sleep(time.Duration(i%5) * moment / 2)
		}
	}()
	for i := range 40 {
		want.Write(bytes.Repeat([]byte{byte(i)}, []int{1, 5, 64 << 10, muchRead}[i%4]))
	}
	if got, err := io.ReadAll(r); !bytes.Equal(got, want.Bytes()) || err != nil {
		t.Errorf("%d bytes of %d, %v", len(got), want.Len(), err)
	}
}

// TestReaderEnds: a deadline and a close end a read, also one that waits for what
// follows much.
func TestReaderEnds(t *testing.T) {
	far, near := agenttest.Pair(t)
	r := NewReader(near)
	much := make([]byte, muchRead)
	for _, end := range []struct {
		how  func()
		want error
	}{
		{func() { _ = near.SetReadDeadline(time.Now()) }, os.ErrDeadlineExceeded},
		{func() { _ = near.Close() }, net.ErrClosed},
	} {
		_ = near.SetReadDeadline(time.Time{})
		if _, err := far.Write(much); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(r, much); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(5*moment, end.how)
		if n, err := r.Read(much); n != 0 || !errors.Is(err, end.want) {
			t.Errorf("%d, %v, want %v", n, err, end.want)
		}
	}
}

// TestReaderFailure: the error is that of the system.
func TestReaderFailure(t *testing.T) {
	far, near := agenttest.Pair(t)
	_, _ = near.Write([]byte("unread"))
	_ = far.Close()
	if n, err := NewReader(near).Read(make([]byte, 1)); n != 0 || !errors.Is(err, unix.ECONNRESET) {
		t.Error(n, err)
	}
}

// TestNewReader: what is no Unix socket is read as it wants to be.
func TestNewReader(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if got := NewReader(a); got != io.Reader(a) {
		t.Errorf("%T", got)
	}
	_, near := agenttest.Pair(t)
	wrapped := struct{ *net.UnixConn }{near}
	if got := NewReader(wrapped); got != io.Reader(wrapped) {
		t.Errorf("%T", got)
	}
}

// TestSoon: it waits for what comes, for a moment only, and only so many do.
func TestSoon(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	begin := time.Now()
	if soon(uintptr(p[0])) || time.Since(begin) < moment/2 {
		t.Errorf("nothing came, after %v", time.Since(begin))
	}
	if _, err := unix.Write(p[1], []byte("x")); err != nil {
		t.Fatal(err)
	}
	if !soon(uintptr(p[0])) {
		t.Error("what is there was not seen")
	}
	moments.Add(1)
	if soon(uintptr(p[0])) {
		t.Error("it waited with the last processor")
	}
	moments.Add(-1)
	if n := moments.Load(); n != 0 {
		t.Errorf("%d wait", n)
	}
}
