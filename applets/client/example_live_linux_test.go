package client_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/wire"
)

// These examples run against an agent of this machine, which stands for a guest: a
// real program would have client.New(client.UDS("/run/vm1.vsock",
// client.DefaultPort)) instead of guest(), and a directory of the guest for dir.

func ExampleClient_Start() {
	c, _ := guest()
	p, err := c.Start(context.Background(), client.Command{
		Cmd:    []string{"sh", "-c", "while read name; do echo hello $name; done; exit 3"},
		Stdin:  strings.NewReader("world\nguest\n"),
		Stdout: os.Stdout,
		Stderr: os.Stderr,
	})
	if err != nil {
		log.Fatal(err)
	}
	exit, err := p.Wait() // had the context ended, the command would have
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("exit status", exit.ExitCode)
	// Output:
	// hello world
	// hello guest
	// exit status 3
}

func ExampleClient_Detach() {
	c, _ := guest()
	ctx := context.Background()
	started, err := c.Detach(ctx, client.Command{Cmd: []string{"sh", "-c", "echo one; echo two"}})
	if err != nil {
		log.Fatal(err)
	}
	exit, err := c.WaitSession(ctx, started.Session)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("exit status", exit.ExitCode)
	// Its output is kept until it is removed.
	p, err := c.Attach(ctx, client.Attachment{Session: started.Session, Stdout: os.Stdout})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := p.Wait(); err != nil {
		log.Fatal(err)
	}
	if err := c.RemoveSession(ctx, started.Session); err != nil {
		log.Fatal(err)
	}
	// Output:
	// exit status 0
	// one
	// two
}

// A client leaves its session, and another one goes on where it was.
func ExampleClient_StartSession() {
	c, _ := guest()
	ctx, leave := context.WithCancel(context.Background())
	seen := &upTo{want: len("begun\n"), reached: leave}
	p, err := c.StartSession(ctx, client.Command{Cmd: []string{"sh", "-c", "echo begun; read word; echo $word"}, Stdin: silence{}, Stdout: seen})
	if err != nil {
		log.Fatal(err)
	}
	_, err = p.Wait()
	fmt.Println(err != nil, p.Offset())

	again, err := c.Attach(context.Background(), client.Attachment{
		Session: p.Session, Offset: p.Offset(), Stdin: strings.NewReader("continued\n"), Stdout: os.Stdout,
	})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := again.Wait(); err != nil {
		log.Fatal(err)
	}
	// Output:
	// true 6
	// continued
}

// upTo calls reached when it has taken want bytes.
type upTo struct {
	want    int
	reached func()
}

func (u *upTo) Write(b []byte) (int, error) {
	if u.want -= len(b); u.want <= 0 {
		u.reached()
	}
	return len(b), nil
}

// silence is input that does not come and does not end.
type silence struct{}

func (silence) Read([]byte) (int, error) { select {} }

func ExampleClient_Put() {
	c, dir := guest()
	ctx := context.Background()
	const content = "a disk's worth of bytes\n"
	size := int64(len(content))
	// Cut off, the same call goes on with what has come.
	sum, err := c.Put(ctx, dir+"/disk.img", strings.NewReader(content), client.PutOptions{Size: &size, Partial: "disk-42", Hash: true})
	if err != nil {
		log.Fatal(err)
	}
	there, err := c.Hash(ctx, dir+"/disk.img")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(sum.Size, "bytes,", there == sum)
	// Output: 24 bytes, true
}

func ExampleClient_Get() {
	c, dir := guest()
	ctx := context.Background()
	if _, err := c.Put(ctx, dir+"/f", strings.NewReader("0123456789"), client.PutOptions{}); err != nil {
		log.Fatal(err)
	}
	begin := func(a client.Attr) error {
		fmt.Println(a.Size, a.Mode)
		return nil
	}
	if _, err := c.Get(ctx, dir+"/f", os.Stdout, client.GetOptions{Offset: 2, Length: 3, Begin: begin}); err != nil {
		log.Fatal(err)
	}
	// Output:
	// 10 -rw-r--r--
	// 234
}

func ExampleClient_CopyTo() {
	c, dir := guest()
	local := filepath.Join(dir, "src")
	if err := os.Mkdir(local, 0o755); err != nil {
		log.Fatal(err)
	}
	for _, name := range []string{"main.go", "main.o"} {
		if err := os.WriteFile(filepath.Join(local, name), []byte("package main\n"), 0o644); err != nil {
			log.Fatal(err)
		}
	}
	result, err := c.CopyTo(context.Background(), local, dir+"/there", client.CopyOptions{Exclude: []string{"*.o"}})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(result.Entries, "entries,", result.Bytes, "bytes, passed over:", result.Skipped)
	// Output: 2 entries, 13 bytes, passed over: []
}

func ExampleClient_CopyFrom() {
	c, dir := guest()
	ctx := context.Background()
	if _, err := c.Exec(ctx, client.ExecRequest{Cmd: []string{"sh", "-c", "mkdir out; echo built >out/result; mkfifo out/pipe"}, Cwd: dir}); err != nil {
		log.Fatal(err)
	}
	local := filepath.Join(dir, "here")
	result, err := c.CopyFrom(ctx, dir+"/out", local, client.CopyOptions{Umask: 0o022})
	if err != nil {
		log.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(local, "result"))
	fmt.Printf("%q %v %q\n", b, err, result.Skipped)
	// Output: "built\n" <nil> ["pipe: not a file, directory or link"]
}

func ExampleClient_Watch() {
	c, dir := guest()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	o := client.WatchOptions{Recursive: true, Begin: func() {
		if err := c.Mkdir(ctx, dir+"/new", 0o755); err != nil {
			log.Fatal(err)
		}
	}}
	for event, err := range c.Watch(ctx, dir, o) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(event.Type, event.Name, event.IsDir)
		break
	}
	// Output: create new true
}

// An HTTP client whose servers are the guest's.
func ExampleClient_Dial() {
	c, _ := guest()
	server, err := net.Listen("tcp", "127.0.0.1:0") // a program in the guest
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	go http.Serve(server, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello from the guest") }))

	web := http.Client{Transport: &http.Transport{DialContext: c.Dial, DisableKeepAlives: true}}
	reply, err := web.Get("http://" + server.Addr().String() + "/")
	if err != nil {
		log.Fatal(err)
	}
	defer reply.Body.Close()
	_, _ = io.Copy(os.Stdout, reply.Body)
	// Output: hello from the guest
}

// A service of the host's for programs in the guest.
func ExampleClient_Listen() {
	c, dir := guest()
	ctx := context.Background()
	l, err := c.Listen(ctx, "unix", dir+"/service.sock")
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			log.Print(err)
			return
		}
		defer conn.Close()
		fmt.Fprint(conn, "hello from the host")
	}()
	visitor, err := net.Dial("unix", dir+"/service.sock") // a program in the guest
	if err != nil {
		log.Fatal(err)
	}
	defer visitor.Close()
	_, _ = io.Copy(os.Stdout, visitor)
	// Output: hello from the host
}

func ExampleClient_Logs() {
	c, _ := guest()
	ctx := context.Background()
	o := client.LogOptions{
		Sources:    []string{wire.LogKernel, wire.LogInit},
		Unreadable: func(source, why string) { log.Printf("%s: %s", source, why) },
	}
	lines := 0
	for line, err := range c.Logs(ctx, o) {
		if err != nil {
			log.Fatal(err)
		}
		if line.Source == wire.LogKernel && line.Level == "emerg" {
			fmt.Printf("%q\n", line.Message) // which may hold anything
		}
		lines++
	}
	fmt.Println(lines > 0)
}

func ExampleClient_StatsEvery() {
	c, _ := guest()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var last *wire.Stats
	for st, err := range c.StatsEvery(ctx, 10*time.Millisecond) {
		if err != nil {
			log.Fatal(err)
		}
		if last != nil {
			fmt.Println(st.CPU.TotalMS >= last.CPU.TotalMS, st.TimeMS > last.TimeMS)
			break
		}
		last = st
	}
	// Output: true true
}

func ExampleClient_Stats() {
	c, _ := guest()
	st, err := c.Stats(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(st.CPU.CPUs > 0, st.Memory.Total >= st.Memory.Available)
	// Output: true true
}
