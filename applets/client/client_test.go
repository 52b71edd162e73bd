package client

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"reflect"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/hyperfleet/init/applets/internal/agenttest"
	"github.com/hyperfleet/init/applets/internal/transport"
	"github.com/hyperfleet/init/applets/wire"
)

// connect returns a client of a made-up agent.
func connect(t *testing.T) (*Client, *agenttest.Agent) {
	a := new(agenttest.Agent)
	return New(Unix(agenttest.Listen(t, a.Serve))), a
}

// scripted returns a client whose every request gets this reply.
func scripted(t *testing.T, reply string) *Client {
	return New(Unix(agenttest.Listen(t, agenttest.Script(reply))))
}

// soon is a context that ends before a test hangs, and for no other reason.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestOperations(t *testing.T) {
	ctx := soon(t)
	c, a := connect(t)
	if err := c.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	info, err := c.Info(ctx)
	if err != nil || info.Version != "v1.0.0" || info.Boot == nil || info.Boot.ReadyMS != 3.5 {
		t.Fatalf("Info: %+v, %v", info, err)
	}
	content := "binary \x00\xff\n"
	if n, err := c.WriteFile(ctx, "/f é\n", strings.NewReader(content), WithMode(0o751|fs.ModeSetgid)); n != 10 || err != nil {
		t.Fatalf("WriteFile: %d, %v", n, err)
	}
	if n, err := c.WriteFile(ctx, "/f é\n", strings.NewReader("more"), Append()); n != 4 || err != nil {
		t.Fatalf("WriteFile, appending: %d, %v", n, err)
	}
	if f, _ := a.Get("/f é\n"); string(f.Content) != content+"more" || f.Mode != "2751" {
		t.Fatalf("written: %q", f)
	}
	var b bytes.Buffer
	if n, err := c.ReadFile(ctx, "/f é\n", &b); n != 14 || err != nil || b.String() != content+"more" {
		t.Fatalf("ReadFile: %d, %v, %q", n, err, b.String())
	}
	want := &FileInfo{Path: "/f é\n", Size: 14, Mode: 0o751 | fs.ModeSetgid, ModTime: time.Date(2026, 11, 23, 15, 4, 5, 0, time.UTC)}
	if st, err := c.Stat(ctx, "/f é\n"); err != nil || !reflect.DeepEqual(st, want) {
		t.Fatalf("Stat: %+v, %v", st, err)
	}
	if err := c.Remove(ctx, "/f é\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Stat(ctx, "/f é\n"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("Stat of what was removed: %v", err)
	}
	if n, err := c.WriteFile(ctx, "/empty", strings.NewReader("")); n != 0 || err != nil {
		t.Fatalf("WriteFile of nothing: %d, %v", n, err)
	}
	if n, err := c.ReadFile(ctx, "/empty", io.Discard); n != 0 || err != nil {
		t.Fatalf("ReadFile of nothing: %d, %v", n, err)
	}
}

func TestExec(t *testing.T) {
	ctx := soon(t)
	c, a := connect(t)
	var stdout, stderr bytes.Buffer
	r, err := c.Exec(ctx, ExecRequest{Cmd: []string{"crash"}, Stdout: &stdout, Stderr: &stderr})
	want := &ExecResult{ExitCode: 139, Signal: 11, Duration: 7 * time.Millisecond}
	if err != nil || !reflect.DeepEqual(r, want) {
		t.Fatalf("%+v, %v", r, err)
	}
	if stdout.String() != "half" || stderr.String() != "\xff\x00segfault" {
		t.Fatalf("%q, %q", stdout.String(), stderr.String())
	}
	input := strings.Repeat("\x00\x01\xfe\xff", 100_000)
	stdout.Reset()
	if _, err = c.Exec(ctx, ExecRequest{
		Cmd: []string{"cat", "", "-\"\\\n"}, Env: []string{"A=1", "B=x=y", "A=2", "C="}, Cwd: "/tmp", User: "1000:100",
		Stdin: strings.NewReader(input), Stdout: &stdout, Timeout: time.Minute, MaxOutput: 1 << 20,
	}); err != nil {
		t.Fatal(err)
	}
	if stdout.String() != input {
		t.Fatalf("output of cat: %d bytes", stdout.Len())
	}
	wantExec := wire.Exec{Cmd: []string{"cat", "", "-\"\\\n"}, Env: []string{"B=x=y", "A=2", "C="}, Cwd: "/tmp", User: "1000:100",
		Timeout: time.Minute, MaxOutput: 1 << 20, HasStdin: true}
	if got := a.LastExec(); !reflect.DeepEqual(got, wantExec) {
		t.Errorf("the agent was asked for %+v, want %+v", got, wantExec)
	}
	r, err = c.Exec(ctx, ExecRequest{Cmd: []string{"yes"}, MaxOutput: 10, Timeout: NoTimeout})
	if err != nil || !r.Truncated || a.LastExec().Timeout != 0 || a.LastExec().HasStdin {
		t.Errorf("yes: %+v, %v, %+v", r, err, a.LastExec())
	}
	if _, err = c.Exec(ctx, ExecRequest{Cmd: []string{"echo"}, Timeout: time.Nanosecond}); err != nil || a.LastExec().Timeout != time.Millisecond {
		t.Errorf("a timeout below 1 ms: %v, %v", a.LastExec().Timeout, err)
	}
}

// What JSON can't carry, or would carry as something else, must not be sent.
func TestArgumentsThatCannotBeSent(t *testing.T) {
	c := NewDialer(func(context.Context) (net.Conn, error) {
		t.Error("connected")
		return nil, errors.New("no")
	})
	ctx := soon(t)
	_, stat := c.Stat(ctx, "/\xff")
	_, arg := c.Exec(ctx, ExecRequest{Cmd: []string{"ls", "\xff"}})
	_, env := c.Exec(ctx, ExecRequest{Cmd: []string{"ls"}, Env: []string{"A=\xff"}})
	_, noName := c.Exec(ctx, ExecRequest{Cmd: []string{"ls"}, Env: []string{"=x"}})
	_, noValue := c.Exec(ctx, ExecRequest{Cmd: []string{"ls"}, Env: []string{"A"}})
	for i, err := range []error{stat, arg, env, noName, noValue} {
		if err == nil {
			t.Errorf("%d: no error", i)
		}
	}
}

func TestErrors(t *testing.T) {
	for _, test := range []struct {
		code string
		is   []error
	}{
		{"ENOENT", []error{fs.ErrNotExist, syscall.ENOENT}},
		{"EACCES", []error{fs.ErrPermission, syscall.EACCES}},
		{"EPERM", []error{fs.ErrPermission, syscall.EPERM}},
		{"EEXIST", []error{fs.ErrExist}},
		{"ENOTEMPTY", []error{syscall.ENOTEMPTY}},
		{"EISDIR", []error{syscall.EISDIR}},
		{"ENOSPC", []error{syscall.ENOSPC}},
		{"EDQUOT", []error{syscall.EDQUOT}},
		{"", nil},
		{"EWHATEVER", nil},
	} {
		c := scripted(t, `{"success":false,"error":"path: /x: no","code":"`+test.code+`"}`+"\n")
		_, err := c.ReadFile(soon(t), "/x", io.Discard)
		var e *Error
		if !errors.As(err, &e) || *e != (Error{"file_read", "path: /x: no", test.code}) || err.Error() != "file_read: path: /x: no" {
			t.Errorf("%s: %#v", test.code, err)
		}
		for _, target := range test.is {
			if !errors.Is(err, target) {
				t.Errorf("%s is not %v", test.code, target)
			}
		}
		if test.is == nil && (errors.Unwrap(err) != nil || errors.Is(err, fs.ErrNotExist)) {
			t.Errorf("%q unwraps to %v", test.code, errors.Unwrap(err))
		}
	}
}

// Each of these replies is bad in its way, and none may pass for a success.
func TestBadReplies(t *testing.T) {
	read := func(c *Client) error { _, err := c.ReadFile(soon(t), "/x", io.Discard); return err }
	write := func(c *Client) error { _, err := c.WriteFile(soon(t), "/x", strings.NewReader("abc")); return err }
	stat := func(c *Client) error { _, err := c.Stat(soon(t), "/x"); return err }
	exec := func(c *Client) error { _, err := c.Exec(soon(t), ExecRequest{Cmd: []string{"x"}}); return err }
	ping := func(c *Client) error { return c.Ping(soon(t)) }
	raw := func(c *Client) error { return c.Raw(soon(t), strings.NewReader("{}")) }
	cut := io.ErrUnexpectedEOF
	for _, test := range []struct {
		call  func(*Client) error
		reply string
		want  error
	}{
		{ping, "", cut},
		{ping, "\n", cut},
		{ping, `{"success":true,"data":{"pong":true}`, cut},
		{ping, `{"success":tr`, cut},
		{ping, "hello\n", ErrReply},
		{ping, "{}\n", ErrReply},
		{ping, `{"success":"yes"}` + "\n", ErrReply},
		{ping, `{"success":null}` + "\n", ErrReply},
		{ping, `{"success":true,"data":"` + strings.Repeat("x", wire.MaxLine) + `"}` + "\n", ErrReply},
		{raw, "", cut},
		{raw, `{"success":true,"data":{"content":"QUJD`, cut},
		{raw, "[1]\n", ErrReply},
		{read, `{"success":true,"data":{"content":"QUJD`, cut},
		{read, `{"success":true,"data":{"content":"QUJD","size":3`, cut},
		{read, `{"success":true,"data":{"content":"QUJD","size":4}}` + "\n", cut},
		{read, `{"success":true,"data":{"content":"QUJD","size":2}}` + "\n", cut},
		{read, `{"success":true,"data":{"content":"QUJD"}}` + "\n", ErrReply},
		{read, `{"success":true,"data":{"size":0}}` + "\n", ErrReply},
		{read, `{"success":true,"data":{"content":null,"size":0}}` + "\n", ErrReply},
		{read, `{"success":true}` + "\n", ErrReply},
		{read, `{"success":true,"data":{"content":"QUJD","content":"QUJD","size":6}}` + "\n", ErrReply},
		{read, `{"success":true,"data":{"content":"QUJ","size":2}}` + "\n", ErrReply},
		{write, `{"success":true,"data":{"bytes_written":2}}` + "\n", ErrReply},
		{write, `{"success":true,"data":{}}` + "\n", ErrReply},
		{write, `{"success":true,"data":{"bytes_written":3}`, cut},
		{stat, `{"success":true,"data":{"mode":"999","mod_time":"2026-11-23T15:04:05Z"}}` + "\n", ErrReply},
		{stat, `{"success":true,"data":{"mode":"644","mod_time":"yesterday"}}` + "\n", ErrReply},
		{exec, `{"success":true,"data":{"stdout_base64":"","stderr_base64":""}}` + "\n", ErrReply},
		{exec, `{"success":true,"data":{"exit_code":256,"stdout_base64":"","stderr_base64":""}}` + "\n", ErrReply},
		{exec, `{"success":true,"data":{"exit_code":-1,"stdout_base64":"","stderr_base64":""}}` + "\n", ErrReply},
		{exec, `{"success":true,"data":{"exit_code":0,"stdout":"x","stderr":""}}` + "\n", ErrReply},
		{exec, `{"success":true,"data":{"exit_code":0,"stdout_base64":"QUJD","stderr_base64":"QU`, cut},
	} {
		// A server that ends its reply by closing, as a dying one does.
		path := agenttest.Listen(t, func(conn net.Conn) {
			if _, err := agenttest.ReadLine(conn); err == nil {
				_, _ = io.WriteString(conn, test.reply)
			}
		})
		if err := test.call(New(Unix(path))); !errors.Is(err, test.want) {
			t.Errorf("%.80q: %v, want %v", test.reply, err, test.want)
		}
	}
}

// endless is a source that never ends and counts what was taken from it.
type endless struct{ n atomic.Int64 }

func (e *endless) Read(p []byte) (int, error) {
	e.n.Add(int64(len(p)))
	return len(p), nil
}

// An agent may refuse a request while most of it is still to come, and then
// close, or wait for the client to close. Either way its reply is what counts.
func TestEarlyRefusal(t *testing.T) {
	const refusal = `{"success":false,"error":"path: /: is a directory","code":"EISDIR"}` + "\n"
	for name, closes := range map[string]bool{"closes": true, "reads no more": false} {
		t.Run(name, func(t *testing.T) {
			done := make(chan struct{})
			defer close(done)
			c := New(Unix(agenttest.Listen(t, func(conn net.Conn) {
				_, _ = io.ReadFull(conn, make([]byte, 100))
				_, _ = io.WriteString(conn, refusal)
				if !closes {
					<-done
				}
			})))
			if _, err := c.WriteFile(soon(t), "/", new(endless)); !errors.Is(err, syscall.EISDIR) {
				t.Fatal(err)
			}
		})
	}
	t.Run("source stuck", func(t *testing.T) {
		stuck, unstick := io.Pipe()
		defer unstick.Close()
		c := New(Unix(agenttest.Listen(t, func(conn net.Conn) {
			_, _ = io.ReadFull(conn, make([]byte, 20))
			_, _ = io.WriteString(conn, refusal)
			agenttest.Linger(conn)
		})))
		if _, err := c.WriteFile(soon(t), "/", stuck); !errors.Is(err, syscall.EISDIR) {
			t.Fatal(err)
		}
	})
	t.Run("claims success", func(t *testing.T) {
		c := New(Unix(agenttest.Listen(t, func(conn net.Conn) {
			_, _ = io.ReadFull(conn, make([]byte, 100))
			_, _ = io.WriteString(conn, `{"success":true,"data":{"exit_code":0,"stdout_base64":"","stderr_base64":""}}`+"\n")
			agenttest.Linger(conn)
		})))
		if r, err := c.Exec(soon(t), ExecRequest{Cmd: []string{"cat"}, Stdin: new(endless)}); !errors.Is(err, ErrReply) {
			t.Fatalf("%+v, %v", r, err)
		}
	})
	t.Run("over a pipe", func(t *testing.T) {
		c := NewDialer(func(context.Context) (net.Conn, error) {
			near, far := net.Pipe()
			go func() {
				defer far.Close()
				_, _ = io.ReadFull(far, make([]byte, 100))
				_, _ = io.WriteString(far, refusal)
			}()
			return near, nil
		})
		if _, err := c.WriteFile(soon(t), "/", new(endless)); !errors.Is(err, syscall.EISDIR) {
			t.Fatal(err)
		}
	})
}

// A request whose content can't be read must not reach the agent whole.
func TestSourceFails(t *testing.T) {
	boom := errors.New("disk on fire")
	got := make(chan string, 1)
	c := New(Unix(agenttest.Listen(t, func(conn net.Conn) {
		b, _ := io.ReadAll(conn)
		got <- string(b)
	})))
	_, err := c.WriteFile(soon(t), "/x", io.MultiReader(strings.NewReader("some"), iotest.ErrReader(boom)))
	if !errors.Is(err, boom) {
		t.Fatal(err)
	}
	if line := <-got; strings.Contains(line, "}") {
		t.Errorf("the agent received %q", line)
	}
}

func TestSinkFails(t *testing.T) {
	c, a := connect(t)
	a.Put("/x", agenttest.File{Content: []byte("content")})
	boom := errors.New("disk full")
	if _, err := c.ReadFile(soon(t), "/x", failing{boom}); !errors.Is(err, boom) {
		t.Error(err)
	}
	if err := c.Tee(failing{boom}).Ping(soon(t)); !errors.Is(err, boom) {
		t.Error(err)
	}
}

func TestContext(t *testing.T) {
	asked, gone := make(chan struct{}, 10), make(chan struct{}, 10)
	target := Unix(agenttest.Listen(t, func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 1))
		asked <- struct{}{}
		agenttest.Linger(conn)
		gone <- struct{}{}
	}))
	silent := New(target)
	t.Run("deadline", func(t *testing.T) {
		// Where the machine is too slow to connect in time, there is more of it.
		connected := false
		for limit := 30 * time.Millisecond; !connected && limit < time.Minute; limit *= 4 {
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			c := NewDialer(func(ctx context.Context) (net.Conn, error) {
				conn, err := transport.Dial(ctx, target)
				connected = err == nil
				return conn, err
			})
			if err := c.Ping(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
		}
		if !connected {
			t.Fatal("no connection")
		}
		<-asked
		<-gone // the connection was closed: a command would be killed
	})
	t.Run("cause", func(t *testing.T) {
		why := errors.New("the user left")
		ctx, cancel := context.WithCancelCause(context.Background())
		go func() { <-asked; cancel(why) }()
		if _, err := silent.Exec(ctx, ExecRequest{Cmd: []string{"sleep"}}); !errors.Is(err, why) {
			t.Error(err)
		}
		<-gone
	})
	t.Run("while sending", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		go func() { <-asked; cancel() }()
		stuck, unstick := io.Pipe()
		defer unstick.Close()
		if _, err := silent.WriteFile(ctx, "/x", stuck); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		<-gone
	})
	t.Run("ended before", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := silent.Ping(ctx); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestReplyInPieces(t *testing.T) {
	const reply = `{"data":{"size":3,"content":"QU\u004a\u0044"},"success":true}` + "\r\n"
	c := New(Unix(agenttest.Listen(t, func(conn net.Conn) {
		_, _ = agenttest.ReadLine(conn)
		for i := range len(reply) {
			_, _ = io.WriteString(conn, reply[i:i+1])
			time.Sleep(100 * time.Microsecond)
		}
		agenttest.Linger(conn)
	})))
	var b, tee bytes.Buffer
	if n, err := c.Tee(&tee).ReadFile(soon(t), "/x", &b); n != 3 || err != nil || b.String() != "ABC" {
		t.Fatalf("%d, %v, %q", n, err, b.String())
	}
	if tee.String() != strings.TrimSuffix(reply, "\n")+"\n" {
		t.Errorf("tee: %q", tee.String())
	}
}

func TestRaw(t *testing.T) {
	var got []string
	c := New(Unix(agenttest.Listen(t, func(conn net.Conn) {
		line, err := agenttest.ReadLine(conn)
		got = append(got, fmt.Sprintf("%d %.20s %v", len(line), line, err))
		_, _ = io.WriteString(conn, `{"success":true,"data":{"deep":[{"x":1}],"content":"not base64"}}`+"\n")
		agenttest.Linger(conn)
	})))
	long := `{"x":"` + strings.Repeat("y", 1<<20) + `"}`
	for _, in := range []string{`{"a":1}`, "\n \r\n\t{\"b\":1}\nmore\n", long + "\n"} {
		var b bytes.Buffer
		if err := c.Tee(&b).Raw(soon(t), strings.NewReader(in)); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(b.String(), "not base64") {
			t.Errorf("reply: %q", b.String())
		}
	}
	want := []string{`7 {"a":1} <nil>`, `7 {"b":1} <nil>`, fmt.Sprintf("%d %.20s <nil>", len(long), long)}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("sent %q, want %q", got, want)
	}
	for _, in := range []string{"", "\n\r\n  \n"} {
		if err := c.Raw(soon(t), strings.NewReader(in)); !errors.Is(err, io.EOF) {
			t.Errorf("%q: %v", in, err)
		}
	}
	refused := scripted(t, `{"success":false,"error":"operation: is missing","code":"EINVAL"}`+"\n")
	if err := refused.Raw(soon(t), strings.NewReader("{}")); !errors.Is(err, syscall.EINVAL) {
		t.Error(err)
	}
}

func TestWait(t *testing.T) {
	var n atomic.Int32
	a := new(agenttest.Agent)
	path := agenttest.Listen(t, func(conn net.Conn) {
		switch n.Add(1) {
		case 1: // as when the agent restarts
		case 2:
			_, _ = io.WriteString(conn, `{"success":fal`)
		case 3:
			_ = wire.WriteFailure(conn, "shutting down", "ESHUTDOWN")
		default:
			a.Serve(conn)
		}
	})
	if err := New(Unix(path)).Wait(soon(t)); err != nil || n.Load() < 4 {
		t.Errorf("%v after %d attempts", err, n.Load())
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	err := New(Unix("/does/not/exist")).Wait(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "/does/not/exist") {
		t.Error(err)
	}
	denied := NewDialer(func(context.Context) (net.Conn, error) { return nil, syscall.EACCES })
	if err := denied.Wait(soon(t)); !errors.Is(err, syscall.EACCES) {
		t.Error(err)
	}
}

func TestTimes(t *testing.T) {
	for s, want := range map[string]time.Time{
		"2026-11-23T15:04:05Z":   time.Date(2026, 11, 23, 15, 4, 5, 0, time.UTC),
		"2024-02-29T00:00:00Z":   time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC),
		"1970-01-01T00:00:00Z":   time.Unix(0, 0).UTC(),
		"292277-01-01T00:00:00Z": time.Date(292277, 1, 1, 0, 0, 0, 0, time.UTC),
		"-0044-03-15T12:00:00Z":  time.Date(-44, 3, 15, 12, 0, 0, 0, time.UTC),
	} {
		if got, err := parseTime(s); err != nil || !got.Equal(want) {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "-", "x", "2026", "2026-13-01T00:00:00Z", "20x6-01-01T00:00:00Z", "--1-01-01T00:00:00Z"} {
		if got, err := parseTime(s); err == nil {
			t.Errorf("%q: %v", s, got)
		}
	}
}

// zeros gives n zero bytes.
type zeros struct{ n int64 }

func (z *zeros) Read(p []byte) (int, error) {
	if z.n == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), z.n)
	clear(p[:n])
	z.n -= n
	return int(n), nil
}

// 100 MiB each way must not need memory of that order. Total allocation is what
// is measured: stricter than the peak, and the same on every run.
func TestMemoryIsFlat(t *testing.T) {
	const size = 100 << 20
	const most = 2 << 20
	path := agenttest.Listen(t, func(conn net.Conn) {
		var n int64
		line, err := wire.NewReader(conn, wire.MaxLine).ReadLine(func(path string, _ []byte) io.Writer {
			if path == "content" {
				return counting{&n}
			}
			return nil
		})
		if err != nil {
			return
		}
		if bytes.Contains(line, []byte("file_write")) {
			_, _ = fmt.Fprintf(conn, `{"success":true,"data":{"bytes_written":%d}}`+"\n", n)
		} else {
			r := wire.NewReply(conn)
			r.Base64("content", &zeros{size})
			r.Value("size", size)
			_ = r.End()
		}
		agenttest.Linger(conn)
	})
	c := New(Unix(path))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if n, err := c.WriteFile(soon(t), "/x", &zeros{size}); n != size || err != nil {
		t.Fatalf("WriteFile: %d, %v", n, err)
	}
	if n, err := c.ReadFile(soon(t), "/x", onlyZeros{}); n != size || err != nil {
		t.Fatalf("ReadFile: %d, %v", n, err)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > most {
		t.Errorf("allocated %d KiB", got>>10)
	}
}

type onlyZeros struct{}

func (onlyZeros) Write(p []byte) (int, error) {
	if len(bytes.Trim(p, "\x00")) > 0 {
		return 0, errors.New("other bytes arrived")
	}
	return len(p), nil
}

type counting struct{ n *int64 }

func (c counting) Write(p []byte) (int, error) {
	*c.n += int64(len(p))
	return len(p), nil
}

// A request is one line that any parser of JSON reads.
func TestRequestLines(t *testing.T) {
	var b bytes.Buffer
	r := newRequest(wire.OpFileWrite)
	r.string("path", "/a\"\\\n<é>")
	r.base64("content", strings.NewReader("hi"))
	if err := r.writeTo(&b); err != nil {
		t.Fatal(err)
	}
	want := `{"operation":"file_write","path":"/a\"\\\n\u003cé\u003e","content":"` + base64.StdEncoding.EncodeToString([]byte("hi")) + `"}` + "\n"
	if b.String() != want || r.count != 2 {
		t.Errorf("%s (%d), want %s", b.String(), r.count, want)
	}
	b.Reset()
	r = (&ExecRequest{Cmd: nil}).request()
	if err := r.writeTo(&b); err != nil || b.String() != `{"operation":"exec","cmd":[]}`+"\n" {
		t.Errorf("%s, %v", b.String(), err)
	}
}
