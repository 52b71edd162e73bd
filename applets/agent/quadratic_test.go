//go:build linux

package agent

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/internal/identity"
)

// TestManyOfAThing: a line within its limit takes a time in proportion to its
// length, whatever it repeats. What is quadratic takes minutes here.
func TestManyOfAThing(t *testing.T) {
	limits := testLimits()
	limits.Line, limits.Memory = 64<<20, 256<<20 // by default there can't be as many
	l := serve(t, limits)
	words := make([]string, 300_000)
	for i := range words {
		words[i] = fmt.Sprintf(`"N%d":""`, i)
	}
	for _, row := range []struct{ line, code string }{
		{`{"operation":"ping",` + strings.Repeat(`"content":"",`, 500_000) + `"x":0}`, "EINVAL"},
		{`{"operation":"exec","cmd":["true"],"env":{` + strings.Join(words, ",") + `}}`, "E2BIG"},
	} {
		begin := time.Now()
		if r := parseReply(t, say(t, l.socket, row.line+"\n")); r.Code != row.code {
			t.Errorf("%.60s…: %+v", row.line, r)
		}
		if took := time.Since(begin); took > 20*time.Second {
			t.Errorf("%.60s…: took %v", row.line, took)
		}
	}
}

// TestEnvironmentWords of a command: what is added replaces a default of its name, and
// no other.
func TestEnvironmentWords(t *testing.T) {
	got := environment(identity.Identity{Name: "u", Home: "/home/u"}, []string{"HOME=/h", "A=1", "PATH=", "TERMINAL=x"})
	want := []string{"TERM=linux", "USER=u", "LOGNAME=u", "HOME=/h", "A=1", "PATH=", "TERMINAL=x"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
