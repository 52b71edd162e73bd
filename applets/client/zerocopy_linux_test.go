package client

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/hyperfleet/init/applets/internal/agenttest"
	"github.com/hyperfleet/init/applets/wire"
)

// TestPutOfAFileThatShrinks while it is sent: that is an error of the file.
func TestPutOfAFileThatShrinks(t *testing.T) {
	src := filepath.Join(t.TempDir(), "src")
	if err := os.WriteFile(src, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(src)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	socket := agenttest.Listen(t, func(c net.Conn) {
		_, _ = agenttest.ReadLine(c)
		_, _ = io.WriteString(c, `{"success":true,"data":{"offset":0}}`+"\n")
		// The first frame has begun, and does not fit the socket.
		_, _ = io.ReadFull(c, make([]byte, wire.FrameHeader))
		_ = os.Truncate(src, 1000)
		_, _ = io.Copy(io.Discard, c)
	})
	_, err = New(Unix(socket)).Put(t.Context(), "/f", f, PutOptions{})
	if pathErr := (*os.PathError)(nil); !errors.As(err, &pathErr) || pathErr.Path != src || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v", err)
	}
}
