//go:build linux

package agent

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/wire"
)

// TestRudeClientOfASession: a client that breaks the rules is told and cut off; the
// session is not its own, and goes on for others.
func TestRudeClientOfASession(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	for _, rude := range []string{
		frameOf(99, ""), frameOf(wire.KindData, "data"), frameOf(wire.KindSignal, "{"), "\x01\xff\xff\xff\xff", frameOf(wire.KindResize, `{"rows":1,"cols":1}`),
	} {
		conn := dial(t, l.socket)
		fmt.Fprint(conn, `{"operation":"exec","stream":true,"detach":true,"cmd":["cat"]}`+"\n"+rude)
		if said, err := io.ReadAll(conn); err != nil || !bytes.Contains(said, []byte("EPROTO")) {
			t.Errorf("%q: %q, %v", rude, said, err)
		}
		all, err := c.Sessions(t.Context())
		if err != nil || len(all) != 1 || all[0].Exit != nil {
			t.Fatalf("%q: %+v, %v", rude, all, err)
		}
		var out bytes.Buffer
		p, err := c.Attach(t.Context(), client.Attachment{Session: all[0].Session, Stdin: strings.NewReader("later"), Stdout: &out})
		if err != nil {
			t.Fatal(err)
		}
		if exit, err := p.Wait(); err != nil || exit.ExitCode != 0 || out.String() != "later" {
			t.Errorf("%q: %+v, %v, %q", rude, exit, err, out.String())
		}
		if err := c.RemoveSession(t.Context(), all[0].Session); err != nil {
			t.Fatal(err)
		}
	}
}
