package transport

import (
	"bufio"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
)

// hostsFile says what names stand for; see hosts(5).
const hostsFile = "/etc/hosts"

// Addresses returns what HOST:PORT may mean on network tcp, tcp4 or tcp6: HOST is a
// number, a name of hosts or DNS, "localhost", or "" for any. What net has for
// that would be a twentieth of the binary.
func Addresses(network, hostPort string) ([]*net.TCPAddr, error) {
	host, service, err := net.SplitHostPort(hostPort)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return nil, &net.AddrError{Err: "the port is no number up to 65535", Addr: hostPort}
	}
	if host == "" {
		return []*net.TCPAddr{{Port: int(port)}}, nil
	}
	var all []*net.TCPAddr
	found := lookup(host, hostsFile)
	if found == nil {
		found = resolve(host, systemServers())
	}
	for _, ip := range found {
		if ip = ip.Unmap(); network == "tcp" || ip.Is4() == (network == "tcp4") {
			all = append(all, net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, uint16(port))))
		}
	}
	if all == nil {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return all, nil
}

// lookup finds the addresses of a host.
func lookup(host, hosts string) (all []netip.Addr) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip}
	}
	if f, err := os.Open(hosts); err == nil {
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			text, _, _ := strings.Cut(lines.Text(), "#")
			fields := strings.Fields(text)
			isHost := func(name string) bool { return strings.EqualFold(name, host) }
			if len(fields) == 0 || !slices.ContainsFunc(fields[1:], isHost) {
				continue
			}
			if ip, err := netip.ParseAddr(fields[0]); err == nil {
				all = append(all, ip)
			}
		}
	}
	if all == nil && strings.EqualFold(host, "localhost") {
		all = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	}
	return all
}

// ListenOn is net.Listen for what [Addresses] knows.
func ListenOn(network, address string) (net.Listener, error) {
	if network == "unix" {
		return listener(net.ListenUnix(network, &net.UnixAddr{Name: address, Net: network}))
	}
	all, err := Addresses(network, address)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Err: err}
	}
	return listener(net.ListenTCP(network, all[0]))
}

// listener keeps a nil *T out of an interface.
func listener[T net.Listener](l T, err error) (net.Listener, error) {
	if err != nil {
		return nil, err
	}
	return l, nil
}
