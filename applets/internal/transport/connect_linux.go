package transport

import (
	"cmp"
	"context"
	"errors"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Connect is net.Dialer.DialContext for what [Addresses] knows.
func Connect(ctx context.Context, network, address string) (c net.Conn, err error) {
	if network == "unix" {
		return dialUnix(ctx, address)
	}
	all, err := Addresses(network, address)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	for _, a := range all {
		if c, err = connectTCP(ctx, a); err == nil {
			return c, nil
		}
		err = &net.OpError{Op: "dial", Net: network, Addr: a, Err: err}
	}
	return nil, err
}

// connectTCP connects, for as long as ctx lets it: net.DialTCP could not be stopped.
func connectTCP(ctx context.Context, a *net.TCPAddr) (net.Conn, error) {
	domain, to := sockaddr(a)
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), a.String())
	defer f.Close() // net.FileConn has one of its own
	if err := unix.Connect(fd, to); err != nil && !errors.Is(err, unix.EINPROGRESS) && !errors.Is(err, unix.EINTR) {
		return nil, os.NewSyscallError("connect", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetDeadline(time.Now()) })
	defer stop()
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var result error
	err = raw.Write(func(fd uintptr) bool {
		n, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if n != 0 {
			err = unix.Errno(n)
		}
		if err == nil {
			_, err = unix.Getpeername(int(fd))
		}
		result = os.NewSyscallError("connect", err)
		return !errors.Is(err, unix.ENOTCONN)
	})
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err = cmp.Or(err, result); err != nil {
		return nil, err
	}
	return net.FileConn(f)
}

// sockaddr is an address as the kernel wants it; no IP at all is this machine.
func sockaddr(a *net.TCPAddr) (domain int, to unix.Sockaddr) {
	ip := a.IP
	if len(ip) == 0 {
		ip = net.IPv4(127, 0, 0, 1)
	}
	if v4 := ip.To4(); v4 != nil {
		return unix.AF_INET, &unix.SockaddrInet4{Port: a.Port, Addr: [4]byte(v4)}
	}
	v6 := &unix.SockaddrInet6{Port: a.Port, Addr: [16]byte(ip)}
	if i, err := net.InterfaceByName(a.Zone); err == nil { // of a link's own address
		v6.ZoneId = uint32(i.Index)
	}
	return unix.AF_INET6, v6
}
