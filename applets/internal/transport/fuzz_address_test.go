//go:build linux

package transport

import (
	"bytes"
	"errors"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// FuzzAddress: what is accepted as an address or as a target can be written and
// read again, and is nobody's wildcard.
func FuzzAddress(f *testing.F) {
	f.Fuzz(func(t *testing.T, s string) {
		if a, err := ParseAddress(s); err == nil {
			again, err := ParseAddress(a.String())
			if err != nil || again != a || (a.Path == "") != (a.Port != 0) || a.Port == anyPort || a.Path != "" && a.Path[0] != '/' {
				t.Fatalf("address %q: %+v, again %+v, %v", s, a, again, err)
			}
		}
		if target, err := ParseTarget(s); err == nil {
			again, err := ParseTarget(target.String())
			if err != nil || again != target || target.CID == anyCID || target.Port == anyPort || target.Kind == Vsock && target.Port == 0 {
				t.Fatalf("target %q: %+v, again %+v, %v", s, target, again, err)
			}
		}
		if p, err := ParsePolicy(s); err == nil && string(p) != s {
			t.Fatalf("policy %q: %q", s, p)
		}
	})
}

// hypervisor is a connection on which an answer to CONNECT comes in.
type hypervisor struct {
	answer io.Reader
	asked  bytes.Buffer
	net.Conn
}

func (h *hypervisor) Read(p []byte) (int, error)       { return h.answer.Read(p) }
func (h *hypervisor) Write(p []byte) (int, error)      { return h.asked.Write(p) }
func (h *hypervisor) SetDeadline(time.Time) error      { return nil }
func (h *hypervisor) SetReadDeadline(time.Time) error  { return nil }
func (h *hypervisor) SetWriteDeadline(time.Time) error { return nil }

// FuzzHandshake: "OK" and a port is the only answer to CONNECT that counts, what
// follows its line is not touched, and of an endless line little is read.
func FuzzHandshake(f *testing.F) {
	ok := regexp.MustCompile(`^OK ([0-9]+)\n`)
	f.Fuzz(func(t *testing.T, answer string, port uint32) {
		rest := strings.NewReader(answer)
		h := &hypervisor{answer: rest}
		err := connect(h, port)
		if asked := "CONNECT " + strconv.FormatUint(uint64(port), 10) + "\n"; h.asked.String() != asked {
			t.Fatalf("asked %q", h.asked.String())
		}
		match := ok.FindStringSubmatch(answer)
		want := match != nil && len(match[0]) <= maxAnswer+1
		if want {
			_, numErr := strconv.ParseUint(match[1], 10, 32)
			want = numErr == nil
		}
		read := len(answer) - rest.Len()
		switch {
		case want != (err == nil):
			t.Fatalf("%q: %v", answer, err)
		case want && read != len(match[0]), read > maxAnswer+1:
			t.Fatalf("%q: %d bytes were read", answer, read)
		case err != nil && !errors.Is(err, errNotOK) && !errors.Is(err, errHungUp) && !errors.Is(err, io.ErrUnexpectedEOF):
			t.Fatalf("%q: %v", answer, err)
		}
	})
}
