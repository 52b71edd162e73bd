package client_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"net"
	"os"
	"strings"
	"time"

	"github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/internal/agenttest"
)

// vm stands for a VM that runs, so that the examples can: a real program would
// have client.New(client.UDS("/run/vm1.vsock", client.DefaultPort)), or
// client.Vsock(3, client.DefaultPort).
func vm() *client.Client {
	agent := new(agenttest.Agent)
	return client.NewDialer(func(context.Context) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			agent.Serve(far)
		}()
		return near, nil
	})
}

// A program that runs a command in the VM whose vsock device is that socket.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := client.New(client.UDS("/run/vm1.vsock", client.DefaultPort))
	if err := c.Wait(ctx); err != nil { // as long as it boots
		log.Fatal(err)
	}
	result, err := c.Exec(ctx, client.ExecRequest{Cmd: []string{"uname", "-a"}, Stdout: os.Stdout, Stderr: os.Stderr})
	if err != nil {
		log.Fatal(err)
	}
	os.Exit(result.ExitCode)
}

func ExampleClient_Wait() {
	c := vm()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := c.Wait(ctx); err != nil {
		fmt.Println("the VM did not come up:", err)
		return
	}
	fmt.Println("ready")
	// Output: ready
}

func ExampleClient_Exec() {
	c := vm()
	result, err := c.Exec(context.Background(), client.ExecRequest{
		Cmd:     []string{"echo", "hello", "from the guest"},
		Stdout:  os.Stdout,
		Stderr:  os.Stderr,
		Timeout: 10 * time.Second,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("exit status", result.ExitCode)
	// Output:
	// hello from the guest
	// exit status 0
}

func ExampleClient_WriteFile() {
	c := vm()
	ctx := context.Background()
	n, err := c.WriteFile(ctx, "/etc/motd", strings.NewReader("welcome\n"), client.WithMode(0o644))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(n, "bytes written")
	if _, err := c.ReadFile(ctx, "/etc/motd", os.Stdout); err != nil {
		fmt.Println(err)
	}
	// Output:
	// 8 bytes written
	// welcome
}

func ExampleError() {
	c := vm()
	_, err := c.Stat(context.Background(), "/no/such/file")
	fmt.Println(errors.Is(err, fs.ErrNotExist))
	var refused *client.Error
	if errors.As(err, &refused) {
		fmt.Println(refused.Op, refused.Code)
	}
	// Output:
	// true
	// file_stat ENOENT
}

func ExampleParseTarget() {
	for _, s := range []string{"vsock:3", "uds:/run/vm1.vsock", "unix:/run/hyperfleet.sock"} {
		t, err := client.ParseTarget(s)
		fmt.Println(t, err)
	}
	// Output:
	// vsock:3:52 <nil>
	// uds:/run/vm1.vsock <nil>
	// unix:/run/hyperfleet.sock <nil>
}
