package transport

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"
)

const (
	typeA, typeAAAA = 1, 28

	noSuchName = 3 // a code that is an answer, too

	dnsHeader = 12 // bytes
	dnsRecord = 10 // of a record between its name and its data

	// dnsTimeout is how long a name server may take, before another is asked.
	dnsTimeout = 2 * time.Second
)

// nameServers reads resolv.conf(5).
func nameServers(r io.Reader) (all []netip.AddrPort) {
	for lines := bufio.NewScanner(r); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if ip, err := netip.ParseAddr(fields[1]); err == nil && len(all) < 3 {
			all = append(all, netip.AddrPortFrom(ip, 53))
		}
	}
	return all
}

// resolve asks name servers, one after the other until one answers. It knows no
// search domains: the name is a whole one.
func resolve(host string, servers []netip.AddrPort) []netip.Addr {
	for _, s := range servers {
		v4, ok := ask(s, host, typeA)
		if !ok {
			continue
		}
		v6, _ := ask(s, host, typeAAAA)
		return append(v4, v6...)
	}
	return nil
}

func systemServers() []netip.AddrPort {
	f, err := os.Open("/etc/resolv.conf")
	if err != nil {
		return nil
	}
	defer f.Close()
	return nameServers(f)
}

// ask asks a name server for the addresses of a host, of one kind. It is false if
// there is no answer, or none but that the server can't tell: another may.
func ask(server netip.AddrPort, host string, kind byte) (all []netip.Addr, ok bool) {
	question := []byte{byte(rand.Uint32()), byte(rand.Uint32()), 1, 0, 0, 1, 0, 0, 0, 0, 0, 0} // one, recursive
	for label := range strings.SplitSeq(strings.TrimSuffix(host, "."), ".") {
		if len(label) == 0 || len(label) > 63 {
			return nil, false
		}
		question = append(append(question, byte(len(label))), label...)
	}
	question = append(question, 0, 0, kind, 0, 1)
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(server))
	if err != nil {
		return nil, false
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(dnsTimeout))
	if _, err := c.Write(question); err != nil {
		return nil, false
	}
	for buf := make([]byte, 4<<10); ; {
		n, err := c.Read(buf)
		if err != nil {
			return nil, false
		}
		if reply := buf[:n]; answers(reply, question) {
			code := reply[3] & 0xF
			return records(reply, len(question), kind), code == 0 || code == noSuchName
		}
	}
}

// answers tells whether a reply is one to a question, which it repeats.
func answers(reply, question []byte) bool {
	return len(reply) >= len(question) && reply[0] == question[0] && reply[1] == question[1] && reply[2]&0x80 != 0 &&
		bytes.EqualFold(reply[dnsHeader:len(question)], question[dnsHeader:])
}

// records returns the addresses in the records that begin at an offset of a reply.
func records(reply []byte, at int, kind byte) (all []netip.Addr) {
	for range binary.BigEndian.Uint16(reply[6:]) {
		for at < len(reply) && reply[at] != 0 && reply[at] < 0xC0 { // labels, up to the end or a pointer
			at += 1 + int(reply[at])
		}
		if at < len(reply) && reply[at] >= 0xC0 {
			at++
		}
		at++
		if at+dnsRecord > len(reply) {
			return all
		}
		size := int(binary.BigEndian.Uint16(reply[at+8:]))
		data := at + dnsRecord
		if data+size > len(reply) {
			return all
		}
		if ip, ok := netip.AddrFromSlice(reply[data : data+size]); ok && reply[at] == 0 && reply[at+1] == kind {
			all = append(all, ip)
		}
		at = data + size
	}
	return all
}
