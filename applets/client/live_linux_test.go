package client_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/internal/cgroup"
)

// A live agent, for the examples: they can't ask for one of their own.
var live struct {
	once sync.Once
	dir  string // with its binary, its socket, and what the examples write
	stop []func()
}

func TestMain(m *testing.M) {
	status := m.Run()
	for i := range live.stop {
		live.stop[len(live.stop)-1-i]()
	}
	os.Exit(status)
}

// guest returns a client of a real agent, and a directory for it to work in.
func guest() (*client.Client, string) {
	live.once.Do(func() {
		if err := startAgent(); err != nil {
			panic(err)
		}
	})
	work, err := os.MkdirTemp(live.dir, "work")
	if err != nil {
		panic(err)
	}
	return client.New(client.Unix(live.dir + "/s")), work
}

func startAgent() (err error) {
	if live.dir, err = os.MkdirTemp("", "hf"); err != nil {
		return err
	}
	live.stop = append(live.stop, func() { _ = os.RemoveAll(live.dir) })
	binary := filepath.Join(live.dir, "hf-agent")
	if out, err := exec.Command("go", "build", "-o", binary, "../../cmd/hf").CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	agent := exec.Command(binary, "--listen", "unix:"+live.dir+"/s", "--peers", "any")
	if err := confine(agent); err != nil {
		return err
	}
	if err := agent.Start(); err != nil {
		return err
	}
	live.stop = append(live.stop, func() {
		_ = agent.Process.Signal(syscall.SIGTERM)
		_ = agent.Wait()
	})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return client.New(client.Unix(live.dir + "/s")).Wait(ctx)
}

// confine gives the agent a cgroup, where it can: two in one would take each other's
// commands for their own.
func confine(agent *exec.Cmd) error {
	root, err := cgroup.Root()
	if err != nil || os.Getuid() != 0 {
		return nil
	}
	group, err := root.Child(fmt.Sprintf("hf-example-%d", os.Getpid()))
	if err != nil {
		return nil
	}
	own, err := group.Child("agent")
	if err != nil {
		return err
	}
	d, err := own.Open()
	if err != nil {
		return err
	}
	agent.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: d}
	live.stop = append(live.stop, func() {
		_ = syscall.Close(d)
		_ = group.Kill()
		for end := time.Now().Add(time.Minute); group.Remove() != nil && time.Now().Before(end); {
			time.Sleep(5 * time.Millisecond)
		}
	})
	return nil
}
