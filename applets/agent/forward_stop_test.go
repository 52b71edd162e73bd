//go:build linux

package agent

import (
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/client"
)

// TestForwardStops: a shutdown ends a forward in which both sides are silent, and
// tells the client.
func TestForwardStops(t *testing.T) {
	l := serve(t, testLimits())
	target, err := net.Listen("unix", filepath.Join(shortDir(t), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	near, err := client.New(client.Unix(l.socket)).Dial(t.Context(), "unix", target.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	far, err := target.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	_ = near.SetDeadline(time.Now().Add(patience))
	_ = far.SetDeadline(time.Now().Add(patience))
	l.Stop()
	if _, err := io.ReadAll(near); err == nil || !strings.Contains(err.Error(), "shutting down") {
		t.Errorf("the client's side ended with %v", err)
	}
	if rest, err := io.ReadAll(far); len(rest) > 0 || err != nil {
		t.Errorf("the target's side ended with %q, %v", rest, err)
	}
}
