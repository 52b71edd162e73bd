//go:build linux

package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
)

// FuzzAgent sends a live agent requests, right or wrong, in pieces, slowly, cut
// off or reset, as the plan says. Each complete request gets one line that is a
// reply; one that is cut off is not run; nothing stays open; and the next client
// is served. (FAULTS.md 1.3; FAULTS.md 2: reset mid-request or mid-reply,
// pipelined requests)
//
// The agent is a process that can do no harm, see confined. It is not the one whose
// coverage is counted: the corpus has a request for each rule, to be mutated.
func FuzzAgent(f *testing.F) {
	a := confine(f)
	f.Fuzz(func(t *testing.T, requests, plan []byte) {
		a.attack(t, requests, plan)
		eventually(t, "the agent has closed what it opened", func() bool { return a.openFiles(t) <= a.files })
		if got := say(t, a.socket, pingLine); got != pong {
			t.Fatalf("the next client: %q\n%s", got, a.log.String())
		}
		a.clean(t)
	})
}

// decisions are bytes that say what happens; after their end they are 0.
type decisions []byte

func (p *decisions) next() byte {
	if len(*p) == 0 {
		return 0
	}
	b := (*p)[0]
	*p = (*p)[1:]
	return b
}

// witness is a request that leaves a file behind if it is run.
func (a *confined) witness(kind byte, path string) string {
	switch kind % 3 {
	case 0:
		return `{"operation":"exec","cmd":["hf-touch","` + path + `"]}`
	case 1:
		return `{"operation":"file_write","path":"` + path + `","content":"eA=="}`
	}
	return `{"content":"` + strings.Repeat("QUJD", 30_000) + `","path":"` + path + `","operation":"file_write","append":true}`
}

// attack is one connection.
func (a *confined) attack(t *testing.T, requests, planned []byte) {
	p := decisions(planned)
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: a.socket, Net: "unix"})
	if err != nil {
		t.Fatal(err, a.log.String())
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	how := p.next()
	sent := bytes.Clone(requests)
	a.count++
	path := fmt.Sprintf("/tmp/witness-%d", a.count)
	if how&1 != 0 { // a request that is cut off comes last
		w := a.witness(p.next(), path)
		sent = append(sent, w[:(int(p.next())<<8|int(p.next()))%len(w)]...)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for rest := sent; len(rest) > 0; {
			n, pause := int(p.next()), p.next()
			if n == 0 || n > len(rest) {
				n = len(rest)
			}
			if _, err := c.Write(rest[:n]); err != nil {
				return // the agent has refused
			}
			rest = rest[n:]
			if pause > 0xE0 {
				time.Sleep(time.Millisecond)
			}
		}
		if how&2 == 0 {
			_ = c.CloseWrite()
		}
	}()
	if how&2 == 0 {
		got, err := io.ReadAll(c)
		<-done
		if err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("%.300q, plan %x: %v after %.300q", sent, planned, err, got)
		}
		checkReplies(t, sent, got)
	} else {
		if how&4 != 0 { // break off in the middle of a reply
			_ = c.SetReadDeadline(time.Now().Add(10 * time.Millisecond)) // none need come
			_, _ = io.ReadFull(c, make([]byte, how))
		} else {
			<-done
		}
		_ = c.Close()
		<-done
	}
	if how&1 == 0 {
		return
	}
	if _, err := a.root.Stat("tmp" + strings.TrimPrefix(path, "/tmp")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("%.300q, plan %x: a request that was cut off has run: %v", sent, planned, err)
	}
}

// checkReplies compares what came back with what was sent and the end of input
// behind it.
func checkReplies(t *testing.T, sent, got []byte) {
	t.Helper()
	fail := func(why string) { t.Fatalf("%.500q\nanswered %.500q\n%s", sent, got, why) }
	lines := bytes.SplitAfter(got, []byte("\n"))
	if last := lines[len(lines)-1]; len(last) > 0 {
		fail("the last line has no end")
	}
	lines = lines[:len(lines)-1]
	requests := bytes.Split(sent, []byte("\n"))
	for i, request := range requests {
		if len(bytes.Trim(request, " \t\r")) == 0 {
			continue
		}
		cut := i == len(requests)-1 && !json.Valid(request)
		if len(lines) == 0 {
			if !cut {
				fail("no reply to " + string(request))
			}
			return
		}
		var reply struct {
			Success     *bool
			Data        *json.RawMessage
			Error, Code string
		}
		d := json.NewDecoder(bytes.NewReader(lines[0]))
		d.DisallowUnknownFields()
		if err := d.Decode(&reply); err != nil || reply.Success == nil || *reply.Success != (reply.Error == "") || *reply.Success != (reply.Data != nil) ||
			*reply.Success != (reply.Code == "") || *reply.Success && cut {
			fail("not a reply: " + string(lines[0]))
		}
		lines = lines[1:]
		var fields map[string]json.RawMessage
		_ = json.Unmarshal(request, &fields)
		keep := string(fields["keep_alive"]) == "true"
		if !*reply.Success && len(lines) == 0 || !keep {
			break // a request that is refused ends the connection
		}
	}
	if len(lines) > 0 {
		fail("more replies than requests that were to be answered")
	}
}
