//go:build linux

package agent

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/wire"
)

// frameOf is a frame of a seed.
func frameOf(k wire.Kind, payload string) string {
	header := binary.BigEndian.AppendUint32([]byte{byte(k)}, uint32(len(payload)))
	return string(header) + payload
}

// FuzzStream sends a live agent frames, right or wrong, in pieces, and ends its
// sending or breaks off. What comes back is frames, of which the last is exit or
// error, and what was said well is done: bytes that a command was sent come back, a
// file that was ended is there, and one that was not is not. No command is left, nothing
// stays open, and the next client is served. (FAULTS.md 2: frames that are none)
//
// The agent is a process that can do no harm, as that of FuzzAgent.
func FuzzStream(f *testing.F) {
	in, end := frameOf(wire.KindStdin, "hello"), frameOf(wire.KindEnd, "")
	data, kill := frameOf(wire.KindData, "content"), frameOf(wire.KindSignal, `{"signal":9}`)
	archive, _ := io.ReadAll(tarOf(file("a"), folder("d"), file("d/f"), symlink("s", "../x"), file("s/y"), file("../z")))
	for _, seed := range []string{
		in + end, in + in + end, end, in, in + end + in, in + end + end, in + kill, kill + end, end + "\x00",
		frameOf(wire.KindKeepAlive, "") + in + end,
		frameOf(wire.KindKeepAlive, "x"),
		frameOf(wire.KindEnd, "x"),
		frameOf(wire.KindStdin, strings.Repeat("0123456789abcdef", 8<<10)) + end,
		frameOf(wire.KindStdin, strings.Repeat("0123456789abcdef", 8<<10))[:1000],
		frameOf(wire.KindResize, `{"rows":24,"cols":80}`),
		frameOf(wire.KindSignal, `{"signal":65}`), frameOf(wire.KindSignal, `{`), frameOf(wire.KindSignal, `{"signal":"9"}`),
		frameOf(wire.KindStdout, "hello"), frameOf(wire.KindExit, `{}`), frameOf(wire.KindError, `{}`),
		frameOf(99, ""), "\x01\xff\xff\xff\xff", "\x01\x00\x10\x00\x01", "\x01\x00", in[:7],
		data + end, data + data + end, data, data + in + end, data + end + data,
		frameOf(wire.KindData, string(archive)) + end, frameOf(wire.KindData, string(archive[:700])) + end,
	} {
		for op := range byte(streamKinds) {
			f.Add(op, []byte(seed), []byte{1, 3, 0xF0, 100})
		}
	}
	a := confine(f)
	f.Fuzz(func(t *testing.T, op byte, frames, plan []byte) {
		a.streams(t, op%streamKinds, frames, plan)
		eventually(t, "the agent has closed what it opened", func() bool {
			a.forget(t) // again and again: a client that broke off does not know whether its session has begun
			return a.openFiles(t) <= a.files
		})
		eventually(t, "no command is left", func() bool { return a.children(t) == 0 })
		a.clean(t)
	})
}

// The streams that FuzzStream opens.
const (
	streamedExec = iota
	streamedPut
	streamedTar
	streamedSession
	streamedWatch
	streamedListen
	streamKinds
)

const streamedFile = "/tmp/streamed"

func streamRequest(op byte) string {
	return [streamKinds]string{
		streamedExec:    `{"operation":"exec","stream":true,"cmd":["hf-cat"]}`,
		streamedPut:     `{"operation":"file_put","path":"` + streamedFile + `"}`,
		streamedTar:     `{"operation":"tar_put","path":"/tmp/tree","make":true}`,
		streamedSession: `{"operation":"exec","stream":true,"detach":true,"cmd":["hf-cat"]}`,
		streamedWatch:   `{"operation":"file_watch","path":"/tmp"}`,
		streamedListen:  `{"operation":"listen","network":"unix","address":"/tmp/listen"}`,
	}[op] + "\n"
}

// streams is one connection.
func (a *confined) streams(t *testing.T, op byte, frames, planned []byte) {
	t.Helper()
	p := decisions(planned)
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: a.socket, Net: "unix"})
	if err != nil {
		t.Fatal(err, a.log.String())
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	breaksOff := p.next()&0x80 != 0 || op == streamedWatch || op == streamedListen
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for rest := append([]byte(streamRequest(op)), frames...); len(rest) > 0; {
			n, pause := int(p.next()), p.next()
			if n == 0 || n > len(rest) {
				n = len(rest)
			}
			if _, err := c.Write(rest[:n]); err != nil {
				return // the agent has refused
			}
			rest = rest[n:]
			if pause > 0xE0 {
				time.Sleep(time.Millisecond)
			}
		}
		if !breaksOff {
			_ = c.CloseWrite()
		}
	}()
	if breaksOff {
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Millisecond)) // none need come
		_, _ = io.Copy(io.Discard, c)
		_ = c.Close()
		<-sent
		return
	}
	got, err := io.ReadAll(c)
	<-sent
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("%q, plan %x: %v after %.300q", frames, planned, err, got)
	}
	s := parseStream(t, got)
	switch op {
	case streamedExec:
		s.isEcho(t, frames)
	case streamedPut:
		s.isPut(t, frames, a)
	}
}

// A heardStream is what the agent said.
type heardStream struct {
	out, errs []byte
	last      wire.Kind // 0 if it was cut off
	result    string
}

func parseStream(t *testing.T, got []byte) (s heardStream) {
	t.Helper()
	line, rest, whole := bytes.Cut(got, []byte("\n"))
	var reply struct{ Success bool }
	if err := json.Unmarshal(line, &reply); !whole || err != nil || !reply.Success {
		t.Fatalf("the reply is %q", got)
	}
	frames := wire.NewFrameReader(bytes.NewReader(rest))
	for {
		k, _, err := frames.Next()
		if err == io.EOF {
			return s
		}
		payload, readErr := io.ReadAll(frames)
		if err != nil || readErr != nil || s.last != 0 {
			t.Fatalf("%.300q: %v, %v behind the last frame, %d", got, err, readErr, s.last)
		}
		switch k {
		case wire.KindStdout:
			s.out = append(s.out, payload...)
		case wire.KindStderr:
			s.errs = append(s.errs, payload...)
		case wire.KindExit, wire.KindError:
			s.last, s.result = k, string(payload)
		default:
			t.Fatalf("%.300q: a frame of kind %d", got, k)
		}
	}
}

// said reads the frames that were sent as an operation does that takes only some
// kinds: the bytes up to the end frame, whether that came, and whether a frame
// before it was wrong.
func said(frames []byte, k wire.Kind, others ...wire.Kind) (content []byte, ended, wrong, more bool) {
	r := wire.NewFrameReader(bytes.NewReader(frames))
	for {
		got, _, err := r.Next()
		switch {
		case errors.As(err, new(*wire.FrameError)):
			return content, ended, true, more
		case err != nil:
			return content, ended, false, more || ended && err != io.EOF // a part of one
		case ended:
			more = true
			return content, ended, false, more
		case got == wire.KindEnd:
			ended = true
		case got == k:
			b, err := io.ReadAll(r)
			content = append(content, b...) // a frame is passed on as it comes
			if err != nil {
				return content, false, false, more
			}
		case len(others) > 0 && got == others[0]:
			more = true
			return content, false, false, more
		default:
			return content, ended, true, more
		}
	}
}

// isEcho holds hf-cat's stream to what was sent.
func (s *heardStream) isEcho(t *testing.T, frames []byte) {
	t.Helper()
	content, ended, wrong, more := said(frames, wire.KindStdin, wire.KindSignal)
	switch {
	case more: // a signal, or something behind the end: the command may have ended by then, or not
	case ended && !wrong:
		if s.last != wire.KindExit || !strings.Contains(s.result, `"exit_code":0`) || !bytes.Equal(s.out, content) || !bytes.Equal(s.errs, content) {
			t.Fatalf("%.300q: the end is %d, %s; %d and %d bytes came back of %d", frames, s.last, s.result, len(s.out), len(s.errs), len(content))
		}
	case wrong && !ended:
		if s.last != wire.KindError || !strings.Contains(s.result, "EPROTO") {
			t.Fatalf("%.300q: the end is %d, %s", frames, s.last, s.result)
		}
	}
	if !bytes.HasPrefix(content, s.out) && !more {
		t.Fatalf("%.300q: it came back as %.300q", frames, s.out)
	}
}

// isPut looks for the file that was sent, or was not sent whole.
func (s *heardStream) isPut(t *testing.T, frames []byte, a *confined) {
	t.Helper()
	content, ended, wrong, _ := said(frames, wire.KindData)
	b, err := fs.ReadFile(a.root.FS(), strings.TrimPrefix(streamedFile, "/"))
	switch {
	case ended && (s.last != wire.KindExit || err != nil || !bytes.Equal(b, content)):
		t.Fatalf("%.300q: the end is %d, %s, and the file holds %d bytes of %d, %v", frames, s.last, s.result, len(b), len(content), err)
	case !ended && !errors.Is(err, fs.ErrNotExist):
		t.Fatalf("%.300q: the file is there, with %d bytes, %v", frames, len(b), err)
	case !ended && wrong && (s.last != wire.KindError || !strings.Contains(s.result, "EPROTO")):
		t.Fatalf("%.300q: the end is %d, %s", frames, s.last, s.result)
	}
}

// forget removes the sessions.
func (a *confined) forget(t *testing.T) {
	t.Helper()
	var reply struct {
		Data struct{ Sessions []wire.SessionInfo }
	}
	list := say(t, a.socket, `{"operation":"session_list"}`+"\n")
	if err := json.Unmarshal([]byte(list), &reply); err != nil {
		t.Fatalf("%q: %v\n%s", list, err, a.log.String())
	}
	for _, s := range reply.Data.Sessions {
		if got := say(t, a.socket, fmt.Sprintf(`{"operation":"session_remove","session":%q}`+"\n", s.Session)); !strings.Contains(got, "true") {
			t.Fatal(got)
		}
	}
}

// children counts the agent's.
func (a *confined) children(t *testing.T) (n int) {
	t.Helper()
	for _, task := range readDir(t, fmt.Sprintf("/proc/%d/task", a.cmd.Process.Pid)) {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", a.cmd.Process.Pid, task))
		n += len(strings.Fields(string(b)))
	}
	return n
}
