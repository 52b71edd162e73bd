package client

import (
	"github.com/hyperfleet/init/applets/internal/transport"
	"github.com/hyperfleet/init/applets/wire"
)

// DefaultPort is the vsock port of an agent that was not told another.
const DefaultPort = wire.Port

// A Target is where an agent is to be reached. Make one with [Vsock], [UDS],
// [Unix], [ParseTarget] or [DefaultTarget].
type Target = transport.Target

// Vsock is an agent on AF_VSOCK, which needs Linux. cid is the VM's context ID;
// 1 is the machine itself, and takes root.
func Vsock(cid, port uint32) Target {
	return Target{Kind: transport.Vsock, CID: cid, Port: port}
}

// UDS is an agent in a VM of Firecracker or Cloud Hypervisor. path is the Unix
// socket on the host that was configured as the VM's vsock device.
func UDS(path string, port uint32) Target {
	return Target{Kind: transport.UDS, Path: path, Port: port}
}

// Unix is an agent that listens on a Unix socket, at path.
func Unix(path string) Target {
	return Target{Kind: transport.Unix, Path: path}
}

// ParseTarget reads "vsock:CID", "vsock:CID:PORT", "uds:PATH" or "unix:PATH".
func ParseTarget(s string) (Target, error) { return transport.ParseTarget(s) }

// DefaultTarget is the agent that the environment variable HF_VSOCK names, in
// the form that ParseTarget reads. Without it, inside a guest, it is the guest's
// own agent: over vsock loopback or, where the kernel has none, over
// /run/hyperfleet.sock. Elsewhere the error is [ErrNoTarget].
func DefaultTarget() (Target, error) { return transport.DefaultTarget() }
