package agenttest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyperfleet/init/applets/wire"
)

// A Firecracker stands in for the Unix socket that Firecracker (and Cloud
// Hypervisor, which has its code from it) offers for a VM's vsock ports, with all
// in which it differs from a socket. Its Serve is for Listen.
//
//   - CONNECT must come in one piece, and is answered by OK or by closing.
//   - It passes on no half-close: a client's is a close for the guest, which has
//     nothing delivered any more; of the guest's the client sees nothing.
//   - It holds up to 64 KiB that the client has not taken. When the guest closes
//     they are flushed for a while, and then dropped.
//
// See csm/connection.rs and unix/muxer.rs in its sources. In one thing it is
// harsher: what is left in the socket between it and the agent is dropped too,
// where an agent on vsock would still be waiting for credit.
type Firecracker struct {
	Guest string // the agent's Unix socket; nobody listens while it is not there

	// Shutdown is for how long it flushes after a guest has closed: its
	// CONN_SHUTDOWN_TIMEOUT_MS is 2 s.
	Shutdown time.Duration
	// Reset is for how long it does if the guest had ended its sending before:
	// until the guest's kernel gives up, which is 8 s (VSOCK_CLOSE_TIMEOUT).
	Reset time.Duration

	// HostBuffer is the size of the client's socket; 0 is the system's own.
	HostBuffer int
}

// txBuffer is CONN_TX_BUF_SIZE.
const txBuffer = 64 << 10

// Serve is the VMM's part of one connection.
func (f *Firecracker) Serve(c net.Conn) {
	host := c.(*net.UnixConn)
	if f.HostBuffer > 0 {
		_ = host.SetWriteBuffer(f.HostBuffer)
	}
	port, err := readConnect(host)
	if err != nil || port != wire.Port {
		return // so the guest's reset reaches the client
	}
	guest, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: f.Guest, Net: "unix"})
	if err != nil {
		return
	}
	defer guest.Close()
	if _, err := io.WriteString(host, "OK 1073741824\n"); err != nil {
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	flushed := make(chan struct{})
	wg.Go(func() {
		defer close(flushed)
		if _, err := io.CopyBuffer(writer{host}, reader{guest}, make([]byte, txBuffer)); err != nil {
			_ = guest.Close() // it resets what it can't deliver
		}
	})
	wg.Go(func() {
		limit := f.Shutdown
		if waitClosed(guest) {
			limit = f.Reset
		}
		select {
		case <-flushed:
		case <-time.After(limit):
		}
		_ = host.Close()
	})
	_, _ = io.Copy(writer{guest}, reader{host})
	_ = guest.Close()
	_ = host.Close()
}

// reader and writer keep io.Copy from splicing, which would hold more than the
// buffer has room for.
type (
	reader struct{ io.Reader }
	writer struct{ io.Writer }
)

// readConnect reads the first line as the VMM does: without waiting for a piece
// of it that has not come yet.
func readConnect(host *net.UnixConn) (port uint64, err error) {
	line := make([]byte, 32)
	const shortest = 10
	n, err := host.Read(line[:shortest])
	if err != nil || n < shortest {
		return 0, errors.Join(err, fmt.Errorf("CONNECT in pieces: %q", line[:n]))
	}
	for line[n-1] != '\n' && n < len(line) {
		_ = host.SetReadDeadline(time.Now().Add(time.Second)) // what is there is read at once
		if _, err := host.Read(line[n : n+1]); err != nil {
			return 0, err
		}
		n++
	}
	words := strings.Fields(string(line[:n]))
	if len(words) != 2 || !strings.EqualFold(words[0], "connect") {
		return 0, fmt.Errorf("not CONNECT: %q", line[:n])
	}
	_ = host.SetReadDeadline(time.Time{})
	return strconv.ParseUint(words[1], 10, 32)
}

// waitClosed waits until the guest, or the VMM itself, has closed the connection,
// and tells whether the guest had ended its sending some time before.
func waitClosed(guest *net.UnixConn) (halfClosed bool) {
	raw, err := guest.SyscallConn()
	for closed := false; err == nil && !closed; time.Sleep(2 * time.Millisecond) {
		err = raw.Control(func(fd uintptr) {
			p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
			_, _ = unix.Poll(p, 0)
			closed = p[0].Revents&unix.POLLHUP != 0
			halfClosed = halfClosed || !closed && p[0].Revents&unix.POLLRDHUP != 0
		})
	}
	return halfClosed
}
