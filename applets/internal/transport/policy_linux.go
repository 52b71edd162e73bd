package transport

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// A Policy says who may talk to the agent. vsock knows no users, and with the
// loopback transport every process of the guest can connect, so a guest peer has
// to prove that it is root: by a source port below 1024, which only
// CAP_NET_BIND_SERVICE may bind, or by its credentials on the Unix socket.
type Policy string

// The policies.
const (
	HostOnly    Policy = "host"      // the host
	HostAndRoot Policy = "host+root" // the host, and root in the guest
	Anyone      Policy = "any"       // every process of the guest too: for tests
)

// ParsePolicy reads a Policy.
func ParsePolicy(s string) (Policy, error) {
	switch p := Policy(s); p {
	case HostOnly, HostAndRoot, Anyone:
		return p, nil
	}
	return "", fmt.Errorf("%q: want host, host+root or any", s)
}

// privilegedPorts are the source ports that need CAP_NET_BIND_SERVICE; see
// vsock(7), LAST_RESERVED_PORT in the kernel.
const privilegedPorts = 1024

// Admits decides by the peer alone: nothing that it sends counts.
func (p Policy) Admits(peer Peer) bool {
	switch {
	case p == Anyone:
		return true
	case peer.UID >= 0: // on the Unix socket
		return p == HostAndRoot && peer.UID == 0
	case peer.CID == unix.VMADDR_CID_HOST:
		return true
	case peer.CID == unix.VMADDR_CID_LOCAL:
		return p == HostAndRoot && peer.Port < privilegedPorts
	}
	return false
}
