//go:build linux

package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// TestReplies: each operation's reply, to the byte.
func TestReplies(t *testing.T) {
	l := serve(t, testLimits())
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	for _, row := range []struct{ request, want string }{
		{`{"operation":"ping"}`, `{"success":true,"data":{"pong":true}}`},
		{`{"operation":"file_write","path":"$/f","content":"aGVsbG8="}`, `{"success":true,"data":{"bytes_written":5}}`},
		{`{"operation":"file_write","path":"$/f","content":""}`, `{"success":true,"data":{"bytes_written":0}}`},
		{`{"operation":"file_read","path":"$/f"}`, `{"success":true,"data":{"content":"","size":0}}`},
		{`{"operation":"file_write","path":"$/f","content":"aGVsbG8="}`, `{"success":true,"data":{"bytes_written":5}}`},
		{`{"operation":"file_read","path":"$/f"}`, `{"success":true,"data":{"content":"aGVsbG8=","size":5}}`},
		{`{"operation":"file_stat","path":"$/f"}`, `{"success":true,"data":{"path":"$/f","size":5,"mode":"644","mod_time":"2001-09-09T01:46:40Z","is_dir":false}}`},
		{`{"operation":"file_stat","path":"/tmp/"}`, `"mode":"1777"`},
		{`{"operation":"file_stat","path":"/nosuch"}`, `{"success":false,"error":"file_stat: /nosuch: no such file or directory","code":"ENOENT"}`},
		{`{"operation":"exec","cmd":["sh","-c","printf out; printf err >&2; exit 7"]}`,
			`{"success":true,"data":{"exit_code":7,"stdout":"out","stdout_base64":"b3V0","stderr":"err","stderr_base64":"ZXJy","timed_out":false,"oom_killed":false,"truncated":false,"duration_ms":`},
		{`{"operation":"exec","cmd":["sh","-c","kill -9 $$"]}`,
			`{"success":true,"data":{"exit_code":137,"stdout":"","stdout_base64":"","stderr":"","stderr_base64":"","signal":9,"timed_out":false,"oom_killed":false,"truncated":false,"duration_ms":`},
		{`{"operation":"file_delete","path":"$/f"}`, `{"success":true,"data":{}}`},
		{`{"operation":"info"}`, `{"success":true,"data":{"version":"`},
		// What JSON allows.
		{"\r\n\n  {\"operation\":\"ping\"}\r", `{"success":true,"data":{"pong":true}}`},
		{`{ "operation" : "pi\u006eg" , "unknown" : [ { } , 1e99 ] }`, `{"success":true,"data":{"pong":true}}`},
		{`{"operation":"ping","path":null,"keep_alive":null}`, `{"success":true,"data":{"pong":true}}`},
		{`{"operation":"ping","content":"not base64!","stdin":"AAAA"}`, `{"success":true,"data":{"pong":true}}`},
		{`{"operation":"exec","cmd":["echo","\u00e9\ud83d\ude00\t\"\\\/"],"timeout":1e4}`, `"stdout":"é😀\t\"\\/\n"`},
	} {
		got := say(t, l.socket, strings.ReplaceAll(row.request, "$/", dir+"/")+"\n")
		want := strings.ReplaceAll(row.want, "$/", dir+"/")
		if whole := strings.HasSuffix(want, "}"); whole && got != want+"\n" || !strings.Contains(got, want) || strings.Count(got, "\n") != 1 {
			t.Errorf("%s\n got %s want %s", row.request, got, want)
		}
		_ = os.Chtimes(file, time.Unix(1e9, 0), time.Unix(1e9, 0))
	}
}

// TestBadRequests: one line with a code that names the field, the connection
// closed, nothing done, and the next client served. (FAULTS.md 1.9, 1.10, 1.11)
func TestBadRequests(t *testing.T) {
	l := serve(t, testLimits())
	dir := t.TempDir()
	touch := func(extra string) string { return `{"operation":"exec","cmd":["touch","$/done"]` + extra + `}` }
	write := func(extra string) string { return `{"operation":"file_write","path":"$/done"` + extra + `}` }
	for _, row := range []struct{ request, code, says string }{
		{`hello`, "EBADMSG", "JSON"},
		{`[1]`, "EBADMSG", "JSON"},
		{`"ping"`, "EBADMSG", "JSON"},
		{`{"operation":"ping"`, "EBADMSG", "JSON"},
		{`{"operation":"ping"}}`, "EBADMSG", "JSON"},
		{`{"operation":"ping"} {}`, "EBADMSG", "JSON"},
		{`{'operation':'ping'}`, "EBADMSG", "JSON"},
		{`{"operation":"ping",}`, "EBADMSG", "JSON"},
		{"\xef\xbb\xbf" + `{"operation":"ping"}`, "EBADMSG", "byte order mark"},
		{touch(`,"x":"` + "\xff" + `"`), "EBADMSG", "UTF-8"},
		{touch(`,"x":"\ud800"`), "EBADMSG", "surrogate"},
		{touch(`,"x":` + strings.Repeat("[", 100000) + strings.Repeat("]", 100000)), "EBADMSG", "nested"},
		{`{}`, "EINVAL", "operation"},
		{`{"operation":5}`, "EINVAL", "operation"},
		{`{"operation":null}`, "EINVAL", "operation"},
		{`{"operation":""}`, "ENOSYS", "operation"},
		{`{"operation":"PING"}`, "ENOSYS", "operation"},
		{`{"operation":"ping","keep_alive":"true"}`, "EINVAL", "keep_alive"},
		{`{"operation":"exec"}`, "EINVAL", "cmd"},
		{`{"operation":"exec","cmd":"touch $/done"}`, "EINVAL", "cmd"},
		{`{"operation":"exec","cmd":[]}`, "EINVAL", "cmd"},
		{`{"operation":"exec","cmd":[""]}`, "EINVAL", "cmd"},
		{`{"operation":"exec","cmd":["touch",5]}`, "EINVAL", "cmd"},
		{`{"operation":"exec","cmd":["touch",null]}`, "EINVAL", "cmd"},
		{`{"operation":"exec","cmd":["touch","$/do\u0000ne"]}`, "EINVAL", "cmd"},
		{touch(`,"timeout":"9000"`), "EINVAL", "timeout"},
		{touch(`,"timeout":-5000`), "EINVAL", "timeout"},
		{touch(`,"timeout":1e400`), "EINVAL", "timeout"},
		{touch(`,"timeout":1.5`), "EINVAL", "timeout"},
		{touch(`,"timeout":9223372036854775808`), "EINVAL", "timeout"},
		{touch(`,"timeout":NaN`), "EBADMSG", "JSON"},
		{touch(`,"timeout":true`), "EINVAL", "timeout"},
		{touch(`,"timeout":1,"timeout":2`), "EINVAL", "timeout"},
		{touch(`,"env":["A=B"]`), "EINVAL", "env"},
		{touch(`,"env":{"A":1}`), "EINVAL", "env"},
		{touch(`,"env":{"A=":""}`), "EINVAL", "env"},
		{touch(`,"cwd":"tmp"`), "EINVAL", "cwd"},
		{touch(`,"cwd":7`), "EINVAL", "cwd"},
		{touch(`,"user":0`), "EINVAL", "user"},
		{touch(`,"user":"nosuchuser"`), "EINVAL", "user"},
		{touch(`,"user":"4294967295"`), "EINVAL", "user"},
		{touch(`,"stdin":5`), "EINVAL", "stdin"},
		{touch(`,"stdin":"%"`), "EINVAL", "stdin: must be base64"},
		{touch(`,"max_output":-1`), "EINVAL", "max_output"},
		{touch(`,"max_output":1e12`), "EINVAL", "max_output"},
		{`{"operation":"file_read"}`, "EINVAL", "path"},
		{`{"operation":"file_read","path":7}`, "EINVAL", "path"},
		{`{"operation":"file_stat","path":""}`, "EINVAL", "path"},
		{`{"operation":"file_delete","path":"keep"}`, "EINVAL", "path"},
		{`{"operation":"file_delete","path":"$/ke\u0000ep"}`, "EINVAL", "path"},
		{write(``), "EINVAL", "content"},
		{write(`,"content":5`), "EINVAL", "content"},
		{write(`,"content":null`), "EINVAL", "content"},
		{write(`,"content":["QQ=="]`), "EINVAL", "content"},
		{write(`,"content":"QQ==QUJD"`), "EINVAL", "content: must be base64"},
		{write(`,"content":"QQ"`), "EINVAL", "content: must be base64"},
		{write(`,"content":"QR=="`), "EINVAL", "content: must be base64"},
		{write(`,"content":"QQ=\n="`), "EINVAL", "content: must be base64"},
		{write(`,"content":"QQ==","content":"QQ=="`), "EINVAL", "content"},
		{write(`,"content":"QQ==","path":"$/other"`), "EINVAL", "path"},
		{write(`,"content":"QQ==","mode":644`), "EINVAL", "mode"},
		{write(`,"content":"QQ==","mode":"10000"`), "EINVAL", "mode"},
		{write(`,"content":"QQ==","append":1`), "EINVAL", "append"},
		{`{"operation":"file_write","path":"done","content":"QQ=="}`, "EINVAL", "path"},
		{`{"content":"QQ==","operation":"file_write","path":""}`, "EINVAL", "path"},
	} {
		name := fmt.Sprintf("%.80s", row.request)
		// keep_alive does not save it, and a second request is not looked at.
		request := strings.ReplaceAll(row.request, "$/", dir+"/")
		got := say(t, l.socket, request+"\n"+strings.ReplaceAll(touch(""), "$/", dir+"/")+"\n")
		r := parseReply(t, got)
		if r.Success || r.Code != row.code || !strings.Contains(r.Error, row.says) {
			t.Errorf("%s: answered %.300s want %s and %q", name, got, row.code, row.says)
		}
		if left := readDir(t, dir); len(left) != 0 {
			t.Fatalf("%s: left %v", name, left)
		}
	}
	if got := say(t, l.socket, `{"operation":"ping"}`+"\n"); got != `{"success":true,"data":{"pong":true}}`+"\n" {
		t.Error(got)
	}
}

// TestEndOfInput: a request that ends with the connection counts if it is whole;
// one that is cut off does nothing, wherever it is cut. (FAULTS.md 1.3)
func TestEndOfInput(t *testing.T) {
	l := serve(t, testLimits())
	path := filepath.Join(t.TempDir(), "f")
	request := object{"operation": "file_write", "path": path, "content": base64Of([]byte("hello")), "mode": "600"}.line()
	request = strings.TrimSuffix(request, "\n")
	end := func(part string) string {
		c := dial(t, l.socket)
		_, _ = io.WriteString(c, part)
		_ = c.CloseWrite()
		b, _ := io.ReadAll(c)
		return string(b)
	}
	for cut := range len(request) {
		if got := end(request[:cut]); strings.Contains(got, "true") {
			t.Errorf("%s: %s", request[:cut], got)
		}
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("a request that was cut off has run")
	}
	if got := end(request); got != `{"success":true,"data":{"bytes_written":5}}`+"\n" {
		t.Error(got)
	}
}

// TestKeepAlive: requests that are sent at once are answered in order, whatever
// they are and however they are cut into packets; an operation that fails leaves
// the connection, a request that is refused ends it.
func TestKeepAlive(t *testing.T) {
	l := serve(t, testLimits())
	path := filepath.Join(t.TempDir(), "f")
	big := bytes.Repeat([]byte("0123456789abcdef"), 20000)
	requests := []object{
		{"operation": "ping"},
		{"operation": "file_write", "path": path, "content": base64Of(big)},
		{"operation": "file_read", "path": path},
		{"operation": "file_read", "path": path + "nosuch"},
		{"operation": "exec", "cmd": []string{"sh", "-c", "sleep 0.1; cat"}, "stdin": base64Of([]byte("in"))},
		{"operation": "exec", "cmd": []string{"nosuch"}},
		{"operation": "file_delete", "path": path},
		{"operation": "file_stat", "path": path},
	}
	var all strings.Builder
	for _, r := range requests {
		r["keep_alive"] = true
		all.WriteString(r.line())
	}
	check := func(next func() string) {
		t.Helper()
		for i, want := range []func(reply) bool{
			func(r reply) bool { return r.Success },
			func(r reply) bool { return r.Data.BytesWritten == int64(len(big)) },
			func(r reply) bool { return bytes.Equal(r.Data.Content, big) },
			func(r reply) bool { return r.Code == "ENOENT" },
			func(r reply) bool { return r.Data.Stdout == "in" },
			func(r reply) bool { return r.Data.ExitCode == 127 },
			func(r reply) bool { return r.Success },
			func(r reply) bool { return r.Code == "ENOENT" },
		} {
			if line := next(); !want(parseReply(t, line)) {
				t.Errorf("reply %d: %.200s", i, line)
			}
		}
	}
	s := keep(t, l.socket)
	go s.send(all.String() + `{"operation":"nosuch","keep_alive":true}` + "\n" + `{"operation":"ping"}` + "\n")
	check(s.receive)
	if r := parseReply(t, s.receive()); r.Code != "ENOSYS" {
		t.Errorf("%+v", r)
	}
	if b, err := io.ReadAll(s.lines); len(b) != 0 || err != nil {
		t.Errorf("after a request that was refused: %q %v", b, err)
	}
	s = keep(t, l.socket)
	go func() {
		for rest := all.String(); rest != ""; {
			n := min(len(rest), 1+len(rest)%977)
			s.send(rest[:n])
			rest = rest[n:]
		}
		_ = s.CloseWrite()
	}()
	check(s.receive)
	if b, err := io.ReadAll(s.lines); len(b) != 0 || err != nil {
		t.Errorf("after the end: %q %v", b, err)
	}
}

// TestContentFirst: the fields of a request have no order.
func TestContentFirst(t *testing.T) {
	l := serve(t, testLimits())
	path := filepath.Join(t.TempDir(), "f")
	for _, size := range []int{0, 10, spoolMemory - 1, spoolMemory, spoolMemory + 1, 300 << 10} {
		content, err := io.ReadAll(noise(uint64(size), int64(size)))
		if err != nil {
			t.Fatal(err)
		}
		encoded, _ := json.Marshal(content)
		for _, format := range []string{
			`{"content":%[1]s,"operation":"file_write","path":%[2]q}`,
			`{"operation":"file_write","content":%[1]s,"path":%[2]q}`,
			`{"path":%[2]q,"content":%[1]s,"operation":"file_write"}`,
			`{"path":%[2]q,"operation":"file_write","content":%[1]s}`,
		} {
			got := say(t, l.socket, fmt.Sprintf(format, encoded, path)+"\n")
			if b := readFile(t, path); !strings.Contains(got, "true") || b != string(content) {
				t.Errorf(format+": %s: %d bytes", "…", path, got, len(b))
			}
			_ = os.Remove(path)
		}
	}
	if left := readDir(t, filepath.Dir(path)); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestLongLine: a line without content has a limit; what follows it is read and
// dropped until the client has its answer.
func TestLongLine(t *testing.T) {
	limits := testLimits()
	limits.Line, limits.Content = 1000, 2000
	l := serve(t, limits)
	path := filepath.Join(t.TempDir(), "f")
	for _, row := range []struct {
		request object
		code    string
	}{
		{object{"operation": "exec", "cmd": []string{"true", strings.Repeat("x", 800)}}, ""},
		{object{"operation": "exec", "cmd": []string{"true", strings.Repeat("x", 1000)}}, "EMSGSIZE"},
		{object{"operation": "exec", "cmd": []string{"true", strings.Repeat("x", 4<<20)}}, "EMSGSIZE"},
		{object{"operation": "file_write", "path": path, "content": base64Of(make([]byte, 2000))}, ""},
		{object{"operation": "file_write", "path": path, "content": base64Of(make([]byte, 2001))}, "EFBIG"},
		{object{"operation": "file_write", "path": path, "content": base64Of(make([]byte, 4<<20))}, "EFBIG"},
		{object{"operation": "exec", "cmd": []string{"true"}, "stdin": base64Of(make([]byte, 2001))}, "EFBIG"},
		{object{"operation": "exec", "cmd": []string{"true"}, "max_output": 2001}, "EINVAL"},
	} {
		if r := call(t, l.socket, row.request); r.Code != row.code {
			t.Errorf("%.60s…: %q, want %q", row.request.line(), r.Code, row.code)
		}
	}
	if st, err := os.Stat(path); err != nil || st.Size() != 2000 {
		t.Error(st, err)
	}
}

// TestPanic: a fault in an operation is an error for its client; in the middle of
// a reply, its end.
func TestPanic(t *testing.T) {
	l := serve(t, testLimits())
	l.ops["panic"] = func(*Agent, *request) error { panic("oh") }
	l.ops["panic_late"] = func(_ *Agent, r *request) error {
		_, _ = io.WriteString(r.conn, `{"success":true,`)
		panic("oh")
	}
	s := keep(t, l.socket)
	s.send(`{"operation":"panic","keep_alive":true}` + "\n")
	if r := parseReply(t, s.receive()); r.Success || r.Code != "EIO" || !strings.Contains(r.Error, "oh") {
		t.Errorf("%+v", r)
	}
	s.send(`{"operation":"ping"}` + "\n")
	if r := parseReply(t, s.receive()); !r.Success {
		t.Errorf("%+v", r)
	}
	if got := say(t, l.socket, `{"operation":"panic_late"}`+"\n"); got != `{"success":true,` {
		t.Errorf("%q", got)
	}
}

// TestStop: what comes after Stop is refused.
func TestStop(t *testing.T) {
	l := serve(t, testLimits())
	s := keep(t, l.socket)
	s.send(sh("sleep 0.2; echo done").line()[:10])
	eventually(t, "the request has begun", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		for c := range l.conns {
			_, _, waits := c.idled()
			return !waits
		}
		return false
	})
	l.Stop()
	s.send(sh("sleep 0.2; echo done").line()[10:])
	if r := parseReply(t, s.receive()); r.Code != "ESHUTDOWN" {
		t.Errorf("%+v", r)
	}
	eventually(t, "the listener is closed", func() bool {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		return unix.Connect(fd, &unix.SockaddrUnix{Name: l.socket}) == unix.ECONNREFUSED
	})
}

// TestStopAmidStart: a command that was on its way to be started when Stop came is not.
// (FAULTS.md 1.29)
func TestStopAmidStart(t *testing.T) {
	l := serve(t, testLimits())
	path := filepath.Join(t.TempDir(), "ran")
	p, err := resolve(wire.Exec{Cmd: []string{"touch", path}})
	if err == nil {
		p.stdin, err = stdin(nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	out := newOutput(0, nil, nil)
	defer out.close()
	l.Stop()
	if _, err := l.commands.start(p, out); !errors.Is(err, errShuttingDown) {
		t.Errorf("%v, want %v", err, errShuttingDown)
	}
	time.Sleep(50 * time.Millisecond)
	if _, err := os.Stat(path); err == nil {
		t.Error("it ran")
	}
}
