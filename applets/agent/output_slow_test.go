//go:build linux

package agent

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/wire"
)

// TestSlowClientHoldsNoPipes: that a client is still reading when the time for output
// is up does not mean that something which the command left running holds its pipes.
func TestSlowClientHoldsNoPipes(t *testing.T) {
	limits := testLimits()
	limits.DrainGrace = time.Millisecond
	l := serve(t, limits)
	for script, want := range map[string]bool{"cat %s": false, "sleep 20 & cat %s": true} {
		src := filepath.Join(t.TempDir(), "src")
		if err := os.WriteFile(src, make([]byte, 480<<10), 0o600); err != nil {
			t.Fatal(err)
		}
		s := keep(t, l.socket)
		s.send(with(fmt.Sprintf(script, src), object{"stream": true, "timeout": 0}).line())
		s.receive()
		in := wire.NewFrameReader(s.lines)
		held, exited := false, false
		for total := 0; !exited; {
			k, n, err := in.Next()
			if err != nil {
				t.Fatal(err)
			}
			if total == 0 { // long enough for the command to end, as far as it can
				time.Sleep(300 * time.Millisecond)
			}
			content, err := io.ReadAll(in)
			if err != nil {
				t.Fatal(err)
			}
			total += n
			if k == wire.KindExit {
				var e wire.ExecExit
				if err := json.Unmarshal(content, &e); err != nil {
					t.Fatal(err)
				}
				held, exited = e.PipesHeld, true
			}
		}
		if held != want {
			t.Errorf("%s: held %v, want %v", script, held, want)
		}
	}
}
