//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	hfclient "github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/wire"
)

// logChecks are about what the guest tells of itself, over the agent's streams.
func logChecks() []check {
	return []check{
		{"logs of the kernel and init in order", logsInOrder},
		{"logs follow what comes", logsFollow},
		{"the kept log is for root alone", func() (string, error) {
			st, err := os.Stat("/run/hyperfleet/init.log")
			if err == nil && st.Mode() != 0o600 {
				err = fmt.Errorf("it is %v", st.Mode())
			}
			return "", err
		}},
		{"listen serves the guest's programs", listenInGuest},
	}
}

// withClient has f speak to the agent, for a minute at most.
func withClient(f func(context.Context, *hfclient.Client) (string, error)) (string, error) {
	target, err := hfclient.DefaultTarget()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return f(ctx, hfclient.New(target))
}

// logsInOrder reads the logs up to init being ready. What the kernel said as it
// started init must come before that: their clocks agree.
func logsInOrder() (string, error) {
	return withClient(func(ctx context.Context, c *hfclient.Client) (string, error) {
		n, started := 0, 0.0
		for line, err := range c.Logs(ctx, hfclient.LogOptions{Follow: true}) {
			n++
			switch {
			case err != nil:
				return "", err
			case n == 1 && (line.Source != wire.LogKernel || !strings.HasPrefix(line.Message, "Linux version ") && !strings.HasPrefix(line.Message, "Booting Linux on ")): // arm64
				return "", fmt.Errorf("the first line is %+v", line)
			case strings.HasPrefix(line.Message, "Run ") && strings.HasSuffix(line.Message, " as init process"):
				started = line.TimeMS
			case line.Source == wire.LogInit && strings.HasPrefix(line.Message, "ready in "):
				if started == 0 || line.TimeMS <= started {
					return "", fmt.Errorf("init was started at %v ms, and ready at %v ms", started, line.TimeMS)
				}
				return fmt.Sprintf("line %d, %.0f ms after the kernel started init", n, line.TimeMS-started), nil
			}
		}
		return "", errors.New("the stream ended")
	})
}

// logsFollow has the kernel log a line while somebody listens.
func logsFollow() (string, error) {
	const said = "sysrq: HELP : "
	return withClient(func(ctx context.Context, c *hfclient.Client) (string, error) {
		begun, last := false, ""
		for line, err := range c.Logs(ctx, hfclient.LogOptions{Follow: true, Sources: []string{wire.LogKernel}}) {
			switch {
			case err != nil:
				return "", fmt.Errorf("%w; the last line was %q", err, last)
			case begun && strings.HasPrefix(line.Message, said):
				return line.Level, nil
			case !begun:
				begun = true
				if err := os.WriteFile("/proc/sysrq-trigger", []byte("h"), 0); err != nil {
					return "", err
				}
			}
			last = line.Message
		}
		return "", errors.New("the stream ended")
	})
}

// listenInGuest accepts what connects to an address of the guest.
func listenInGuest() (string, error) {
	return withClient(func(ctx context.Context, c *hfclient.Client) (string, error) {
		l, err := c.Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		defer l.Close()
		go func() {
			if conn, err := l.Accept(); err == nil {
				io.Copy(conn, conn)
				conn.Close()
			}
		}()
		guest, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			return "", err
		}
		defer guest.Close()
		guest.SetDeadline(time.Now().Add(time.Minute))
		sent := string(allBytes(1 << 20))
		go func() {
			io.WriteString(guest, sent)
			guest.(*net.TCPConn).CloseWrite()
		}()
		got, err := io.ReadAll(guest)
		if err == nil && string(got) != sent {
			err = fmt.Errorf("%d bytes came back of %d", len(got), len(sent))
		}
		return "", err
	})
}

// statsChecks hold stats against what the kernel says here.
func statsChecks() []check {
	return []check{
		{"stats tell what there is", func() (string, error) {
			return withClient(func(ctx context.Context, c *hfclient.Client) (string, error) {
				st, err := c.Stats(ctx)
				if err != nil {
					return "", err
				}
				return fmt.Sprintf("%d processes, agent %d KiB", st.Processes.Processes, st.Agent.RSS>>10), checkStats(st)
			})
		}},
		{"stats every 20 ms", func() (string, error) {
			return withClient(func(ctx context.Context, c *hfclient.Client) (string, error) {
				n, begin := 0, time.Now()
				for _, err := range c.StatsEvery(ctx, 20*time.Millisecond) {
					if err != nil {
						return "", err
					}
					if n++; n == 10 {
						break
					}
				}
				return fmt.Sprintf("%d in %d ms", n, time.Since(begin).Milliseconds()), nil
			})
		}},
	}
}

func checkStats(st *wire.Stats) error {
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err != nil {
		return err
	}
	total := int64(info.Totalram) * int64(info.Unit)
	lo := len(st.Network) > 0 && st.Network[0].Name == "lo"
	if st.Memory.Total != total || st.Memory.Available == 0 || st.CPU.CPUs == 0 || st.CPU.UserMS == 0 || !lo || st.Agent.RSS == 0 {
		return fmt.Errorf("memory %d: %+v", total, st)
	}
	mounted, err := os.ReadFile("/proc/self/mounts")
	if err != nil || !strings.Contains(string(mounted), "/dev/vda / ") && !strings.Contains(string(mounted), "/dev/root / ") {
		return err // the root is not on a disk
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs("/", &fs); err != nil {
		return err
	}
	if len(st.Disks) == 0 || st.Disks[0].ReadBytes == 0 || len(st.Filesystems) == 0 || st.Filesystems[0].Target != "/" ||
		st.Filesystems[0].Size != int64(fs.Blocks)*fs.Frsize || st.Filesystems[0].Free == 0 {
		return fmt.Errorf("disks %+v, filesystems %+v", st.Disks, st.Filesystems)
	}
	return nil
}
