package transport

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
)

// nameServer answers each question with what reply makes of it.
func nameServer(t testing.TB, reply func(question []byte) []byte) netip.AddrPort {
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	go func() {
		buf := make([]byte, 512)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteToUDPAddrPort(reply(append([]byte(nil), buf[:n]...)), from)
		}
	}()
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

func TestResolve(t *testing.T) {
	s := nameServer(t, func(q []byte) []byte {
		kind := q[len(q)-3]
		q[2] |= 0x80
		if !strings.Contains(string(q), "\x02db\x04home\x00") {
			return q
		}
		q[7] = 2
		alias := "\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x01\x00\x04\x01a\xc0\x0c"
		if kind == typeA {
			return append(q, alias+"\x01a\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x01\x00\x04\x0a\x00\x00\x07"...)
		}
		return append(q, alias+"\x01a\x00\x00\x1c\x00\x01\x00\x00\x00\x01\x00\x10\xfd\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"...)
	})
	for host, want := range map[string]string{"db.home": "[10.0.0.7 fd00::1]", "db.home.": "[10.0.0.7 fd00::1]", "other": "[]", "a..b": "[]", strings.Repeat("x", 64): "[]"} {
		if got := fmt.Sprint(resolve(host, []netip.AddrPort{s})); got != want {
			t.Errorf("%s: %s, want %s", host, got, want)
		}
	}
}

// TestResolveElsewhere: a name server that can't tell is passed over for the next one;
// that there is no such name is an answer.
func TestResolveElsewhere(t *testing.T) {
	knows := nameServer(t, func(q []byte) []byte {
		q[2] |= 0x80
		if q[len(q)-3] != typeA {
			return q
		}
		q[7] = 1
		return append(q, "\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x01\x00\x04\x0a\x00\x00\x07"...)
	})
	for code, want := range map[byte]string{2: "[10.0.0.7]", noSuchName: "[]", 4: "[10.0.0.7]", 5: "[10.0.0.7]"} {
		first := nameServer(t, func(q []byte) []byte {
			q[2], q[3] = q[2]|0x80, code
			return q
		})
		if got := fmt.Sprint(resolve("db.home", []netip.AddrPort{first, knows})); got != want {
			t.Errorf("code %d: %s, want %s", code, got, want)
		}
	}
}

func TestNameServers(t *testing.T) {
	got := fmt.Sprint(nameServers(strings.NewReader("# x\nnameserver 10.0.0.1\nsearch a\nnameserver\nnameserver ::1\nnameserver x\n")))
	if want := "[10.0.0.1:53 [::1]:53]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// FuzzRecords: no reply does harm.
func FuzzRecords(f *testing.F) {
	f.Add([]byte("\x00\x00\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x01\x00\x04\x0a\x00\x00\x07"), 19)
	f.Fuzz(func(t *testing.T, reply []byte, at int) {
		if len(reply) < dnsHeader || at < dnsHeader || at > len(reply) {
			return
		}
		for _, ip := range records(reply, at, typeA) {
			if !ip.Is4() && !ip.Is6() {
				t.Error(ip)
			}
		}
	})
}
