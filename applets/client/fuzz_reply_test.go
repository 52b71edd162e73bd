package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/wire"
)

// guestConn is a connection to a guest that says what it likes, and reads nothing
// into what it is told.
type guestConn struct {
	reply io.Reader
	net.Conn
}

func (g *guestConn) Read(p []byte) (int, error)      { return g.reply.Read(p) }
func (g *guestConn) Write(p []byte) (int, error)     { return len(p), nil }
func (g *guestConn) SetReadDeadline(time.Time) error { return nil }
func (g *guestConn) Close() error                    { return nil }

// said is the data of a reply, as encoding/json reads it.
type said struct {
	Success bool
	Content []byte
	Size    int64
	Written int64
	Code    int
	Stdout  []byte
	Stderr  []byte
}

// listen reads a reply; plain tells whether no two parsers can differ about it.
func listen(reply []byte) (s said, plain bool) {
	line, _, _ := bytes.Cut(bytes.TrimLeft(reply, "\r\n\t "), []byte("\n"))
	fields, err := wire.ParseFields(line)
	data, dataErr := wire.ParseFields(fields["data"])
	for name, to := range map[string]any{"content": &s.Content, "size": &s.Size, "bytes_written": &s.Written, "exit_code": &s.Code,
		"stdout_base64": &s.Stdout, "stderr_base64": &s.Stderr} {
		_ = json.Unmarshal(data[name], to)
	}
	_ = json.Unmarshal(fields["success"], &s.Success)
	for name := range fields {
		plain = plain || name == "success"
		if name != strings.ToLower(name) {
			return s, false
		}
	}
	for name := range data {
		if name != strings.ToLower(name) {
			return s, false
		}
	}
	return s, plain && err == nil && dataErr == nil
}

// FuzzReply: whatever a guest answers, a call ends in an error or in what the
// answer says, and in no more of it than was asked for.
func FuzzReply(f *testing.F) {
	f.Fuzz(func(t *testing.T, reply []byte) {
		ctx := context.Background()
		c := NewDialer(func(context.Context) (net.Conn, error) { return &guestConn{reply: bytes.NewReader(reply)}, nil })
		want, plain := listen(reply)
		var file, stdout, stderr bytes.Buffer
		_, readErr := c.ReadFile(ctx, "/x", &file)
		_, writeErr := c.WriteFile(ctx, "/x", strings.NewReader("abc"))
		exec, execErr := c.Exec(ctx, ExecRequest{Cmd: []string{"x"}, Stdout: &stdout, Stderr: &stderr, MaxOutput: 7})
		_, _ = c.Info(ctx)
		pingErr, rawErr := c.Ping(ctx), c.Raw(ctx, strings.NewReader("{}"))
		if st, err := c.Stat(ctx, "/x"); err == nil && (st.Size < 0 || st.Mode.Perm() != st.Mode&0o777) {
			t.Fatalf("%q: %+v", reply, st)
		}
		if stdout.Len() > 7 || stderr.Len() > 7 {
			t.Fatalf("%q: %d and %d bytes of output", reply, stdout.Len(), stderr.Len())
		}
		if !plain {
			return
		}
		for op, err := range map[string]error{"ping": pingErr, "raw": rawErr, "read": readErr, "write": writeErr, "exec": execErr} {
			if refused := new(*Error); err == nil && !want.Success || errors.As(err, refused) && want.Success {
				t.Fatalf("%s: %q: %v", op, reply, err)
			}
		}
		switch {
		case readErr == nil && (!bytes.Equal(file.Bytes(), want.Content) || want.Size != int64(file.Len())):
			t.Fatalf("%q: read %q", reply, file.Bytes())
		case writeErr == nil && want.Written != 3:
			t.Fatalf("%q: wrote", reply)
		case execErr == nil && (exec.ExitCode != want.Code || exec.ExitCode < 0 || exec.ExitCode > 255 ||
			!bytes.Equal(stdout.Bytes(), want.Stdout) || !bytes.Equal(stderr.Bytes(), want.Stderr)):
			t.Fatalf("%q: %+v %q %q", reply, exec, stdout.Bytes(), stderr.Bytes())
		}
	})
}

// A guest is not trusted: an answer with sizes that can't be, or with more than
// was asked for, is none. (SECURITY.md)
func TestGuestThatLies(t *testing.T) {
	flood := `{"success":true,"data":{"exit_code":0,"stdout":"","stdout_base64":"` + strings.Repeat("QUJD", 10) + `","stderr_base64":""}}` + "\n"
	var out bytes.Buffer
	if _, err := scripted(t, flood).Exec(soon(t), ExecRequest{Cmd: []string{"x"}, MaxOutput: 29, Stdout: &out}); !errors.Is(err, ErrReply) || out.Len() > 29 {
		t.Errorf("30 bytes of 29: %v, %d were taken", err, out.Len())
	}
	if _, err := scripted(t, flood).Exec(soon(t), ExecRequest{Cmd: []string{"x"}, MaxOutput: 30}); err != nil {
		t.Error(err)
	}
	negative := `{"success":true,"data":{"path":"/x","size":-1,"mode":"644","mod_time":"2026-11-23T12:00:00Z","is_dir":false}}` + "\n"
	if st, err := scripted(t, negative).Stat(soon(t), "/x"); !errors.Is(err, ErrReply) {
		t.Errorf("%+v, %v", st, err)
	}
	twice := `{"success":true,"data":{"content":"QUJD","content":"","size":3}}` + "\n"
	if n, err := scripted(t, twice).ReadFile(soon(t), "/x", io.Discard); !errors.Is(err, ErrReply) {
		t.Errorf("content twice: %d, %v", n, err)
	}
	endless := NewDialer(func(context.Context) (net.Conn, error) {
		return &guestConn{reply: io.MultiReader(strings.NewReader(`{"success":true,"data":{"x":"`), endlessly('x'))}, nil
	})
	if err := endless.Ping(soon(t)); !errors.Is(err, wire.ErrTooLong) {
		t.Errorf("a reply without an end: %v", err)
	}
}

// endlessly reads as one byte for ever.
type endlessly byte

func (e endlessly) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(e)
	}
	return len(p), nil
}
