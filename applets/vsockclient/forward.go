package vsockclient

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hyperfleet/init/applets/internal/transport"
)

const forwardHelp = `8080:80           127.0.0.1:8080 here to 127.0.0.1:80 in the guest
80                the same port on both sides
0.0.0.0:80:db:5432
                  all addresses here; db is looked up in the guest
0:80              a free port here, which is printed
8080:/run/x.sock  to a Unix socket in the guest
/tmp/x.sock:80    from a Unix socket here, which only this user may use

IPv6 addresses stand in brackets. It runs until a signal ends it. With --json
what it listens on is printed as JSON, a line each.
`

const proxyHelp = `For ssh: ssh -o ProxyCommand='hf-vsock-client --cid 3 proxy 22' root@vm. An
absolute PATH in place of [HOST:]PORT is a Unix socket in the guest.
`

func forwardFlags(f *flag.FlagSet, o *options) {
	f.DurationVar(&o.timeout, "timeout", 0, "give up connecting in the guest after `D` (default: the agent's limit)")
}

func proxyFlags(f *flag.FlagSet, o *options) { forwardFlags(f, o) }

// An endpoint is an address to listen on or to connect to.
type endpoint struct{ network, address string }

// parseForward reads [[ADDR:]PORT:][HOST:]PORT, where each side can be the path of
// a Unix socket.
func parseForward(s string) (here, there endpoint, err error) {
	words, err := splitColons(s)
	if err != nil {
		return here, there, err
	}
	hereWords, thereWords := words[:1], words[1:]
	if !strings.HasPrefix(words[0], "/") && !isPort(words[0], 0) && len(words) > 2 {
		hereWords, thereWords = words[:2], words[2:]
	}
	if len(words) == 1 {
		thereWords = words
	}
	if here, err = side(hereWords, 0); err == nil {
		there, err = side(thereWords, 1)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w: want [[ADDR:]PORT:][HOST:]PORT, or a path for either side", s, err)
	}
	return here, there, err
}

// splitColons splits at colons that are not inside brackets, whose content it
// leaves without them. A path goes on to the end, unless it is the first word.
func splitColons(s string) ([]string, error) {
	var words []string
	for {
		if strings.HasPrefix(s, "/") && len(words) > 0 {
			return append(words, s), nil
		}
		word, rest, more := strings.Cut(s, ":")
		if strings.HasPrefix(s, "[") {
			var closed bool
			if word, rest, closed = strings.Cut(s[1:], "]"); !closed || rest != "" && rest[0] != ':' {
				return nil, fmt.Errorf("%s: brackets are for an IPv6 address", s)
			}
			rest, more = strings.CutPrefix(rest, ":")
		}
		words = append(words, word)
		if !more {
			return words, nil
		}
		s = rest
	}
}

func isPort(s string, lowest int) bool {
	n, err := strconv.Atoi(s)
	return err == nil && n >= lowest && n <= 65535
}

// side reads one side: a path, a port, or an address and a port.
func side(words []string, lowest int) (endpoint, error) {
	switch {
	case len(words) == 1 && strings.HasPrefix(words[0], "/"):
		return endpoint{"unix", words[0]}, nil
	case len(words) == 1 && isPort(words[0], lowest):
		return endpoint{"tcp", net.JoinHostPort("127.0.0.1", words[0])}, nil
	case len(words) == 2 && isPort(words[1], lowest):
		if words[0] == "*" {
			words[0] = ""
		}
		return endpoint{"tcp", net.JoinHostPort(words[0], words[1])}, nil
	}
	return endpoint{}, fmt.Errorf("%q is no port, and no path", strings.Join(words, ":"))
}

func forward(ctx context.Context, c *call) (int, error) {
	type pair struct {
		net.Listener
		to endpoint
	}
	var pairs []pair
	defer func() {
		for _, p := range pairs {
			_ = p.Close()
		}
	}()
	var ways [][2]endpoint
	for _, arg := range c.args {
		here, there, err := parseForward(arg)
		if err != nil {
			return 0, usagef("%v", err)
		}
		ways = append(ways, [2]endpoint{here, there})
	}
	for _, way := range ways {
		l, err := listen(way[0])
		if err != nil {
			return 0, fmt.Errorf("forward: %w", err)
		}
		pairs = append(pairs, pair{l, way[1]})
	}
	failed := make(chan error, len(pairs))
	for _, p := range pairs {
		if err := c.announce(p.Addr().String(), p.to.address); err != nil {
			return 0, err
		}
		go func() { failed <- c.accept(ctx, p.Listener, p.to) }()
	}
	select {
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	case err := <-failed:
		return 0, fmt.Errorf("forward: %w", err)
	}
}

func (c *call) announce(here, there string) error {
	if c.json {
		return c.line(struct {
			Listening string `json:"listening"`
			To        string `json:"to"`
		}{here, there})
	}
	return c.print("listening on %s, for %s in the guest\n", here, there)
}

func listen(e endpoint) (net.Listener, error) {
	if e.network == "unix" {
		// What connects is root's in the guest.
		old := syscall.Umask(0o177)
		defer syscall.Umask(old)
	}
	l, err := transport.ListenOn(e.network, e.address)
	if errors.Is(err, syscall.EADDRINUSE) && e.network == "unix" {
		err = fmt.Errorf("%w: remove it if nobody listens on it any more", err)
	}
	return l, err
}

// accept serves a listener until it fails for good.
func (c *call) accept(ctx context.Context, l net.Listener, to endpoint) error {
	for {
		conn, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil: // too many files, say
			c.complain(fmt.Errorf("forward: %w", err))
			time.Sleep(100 * time.Millisecond)
			continue
		}
		go func() {
			defer conn.Close()
			guest, err := c.dial(ctx, to)
			if err != nil {
				c.complain(fmt.Errorf("%s: %w", l.Addr(), err))
				return
			}
			defer guest.Close()
			join(guest, conn)
		}()
	}
}

// dial connects to an address in the guest.
func (c *call) dial(ctx context.Context, to endpoint) (net.Conn, error) {
	if c.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, c.timeout, timeoutf("no connection within %v (--timeout)", c.timeout))
		defer cancel()
	}
	return c.quiet.Dial(ctx, to.network, to.address)
}

// join passes bytes between two connections until both directions have ended, or
// one broke.
func join(a, b net.Conn) {
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
		both.Go(func() {
			if _, err := io.Copy(way[0], way[1]); err == nil {
				err = closeWrite(way[0])
				if err == nil {
					return
				}
			}
			_ = a.Close()
			_ = b.Close()
		})
	}
	both.Wait()
}

func closeWrite(c net.Conn) error {
	half, ok := c.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}

func proxy(ctx context.Context, c *call) (int, error) {
	if c.json {
		return 0, usagef("there is no --json of it: bytes are passed on as they are")
	}
	words, err := splitColons(c.args[0])
	if err != nil {
		return 0, usagef("%v", err)
	}
	to, err := side(words, 1)
	if err != nil {
		return 0, usagef("%v", err)
	}
	guest, err := c.dial(ctx, to)
	if err != nil {
		return 0, err
	}
	defer guest.Close()
	stop := context.AfterFunc(ctx, func() { _ = guest.Close() })
	defer stop()
	typed := make(chan error, 1)
	go func() {
		_, err := io.Copy(guest, c.stdin)
		if err == nil {
			err = closeWrite(guest)
		}
		typed <- err
	}()
	if _, err := io.Copy(c.stdout, guest); err != nil {
		return 0, fmt.Errorf("proxy: %w", err)
	}
	// The guest has said all. Who reads that from a pipe may still have something to
	// say, and closes stdin when not; who types does not.
	if f, ok := c.stdout.(*os.File); ok && terminalOf(c.stdin) == nil {
		_ = f.Close()
		select {
		case <-typed:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
	return 0, nil
}
