//go:build linux

package agent

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/internal/cgroup"
	"github.com/hyperfleet/init/applets/internal/logging"
	"github.com/hyperfleet/init/applets/internal/transport"
	"github.com/hyperfleet/init/applets/wire"
)

// varies are the fields whose values differ between runs: an example shows one of
// its kind.
var varies = []string{"version", "kernel", "arch", "hostname", "pid", "uptime_ms", "kill_scope", "mod_time", "duration_ms", "cpu_ms", "memory_peak", "started", "processes", "uid", "gid", "mtime",
	"time_ms", "cpu", "memory", "disks", "filesystems", "network", "agent"}

// TestProtocolExamples runs what PROTOCOL.md shows, in its order: a line that
// starts with > is a request on a new connection, and the line with < behind it the
// answer. Frames, sent and received, have >> and <<. 2> and 2< are on a connection
// beside that.
func TestProtocolExamples(t *testing.T) {
	b, err := os.ReadFile("../../PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	srv := t.TempDir()
	echo(t, "unix", srv+"/echo.sock")
	socket := filepath.Join(t.TempDir(), "s")
	f, err := transport.Listen(transport.Address{Path: socket})
	if err != nil {
		t.Fatal(err)
	}
	l, err := transport.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	a := New(logging.New(io.Discard, "agent", false), defaultLimits(), transport.Anyone, cgroup.Group{})
	a.sources = testLogs(t, srv, "1.234567 INFO  init: ready in 4.2 ms listening=vsock:52\n")
	visitor(t, srv+"/visited.sock")
	go a.Serve(l)
	defer a.Stop()

	e := examples{t: t, socket: socket, seen: map[string]bool{}}
	other := examples{t: t, socket: socket, seen: map[string]bool{}}
	for line := range strings.Lines(strings.ReplaceAll(string(b), "/srv", srv)) {
		mark, rest, _ := strings.Cut(line, " ")
		switch mark {
		case ">":
			e.request(rest)
		case "<":
			e.reply(rest)
		case "2>":
			other.request(rest)
		case "2<":
			other.reply(rest)
		case ">>":
			e.send(rest)
		case "<<":
			e.receive(rest)
		}
	}
	for name := range operations() {
		if !e.seen[name] {
			t.Errorf("PROTOCOL.md has no example of %s", name)
		}
	}
	if e.replies < 15 {
		t.Errorf("PROTOCOL.md has %d examples; were they found?", e.replies)
	}
}

// examples is the client that speaks the examples of a page.
type examples struct {
	t       *testing.T
	socket  string
	asked   string // the last request
	conn    net.Conn
	lines   *bufio.Reader
	frames  *wire.FrameReader
	seen    map[string]bool // operations that were answered
	replies int
}

func (e *examples) request(line string) {
	e.t.Helper()
	c, err := net.Dial("unix", e.socket)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	e.asked, e.conn, e.lines = strings.TrimSpace(line), c, bufio.NewReader(c)
	e.frames = wire.NewFrameReader(e.lines)
	if _, err := io.WriteString(c, line); err != nil {
		e.t.Fatal(err)
	}
}

func (e *examples) reply(want string) {
	e.t.Helper()
	e.replies++
	got, err := e.lines.ReadString('\n')
	if err != nil {
		e.t.Fatalf("%s: %v", e.asked, err)
	}
	if g, w := comparable(e.t, got), comparable(e.t, want); !reflect.DeepEqual(g, w) {
		e.t.Errorf("%s is answered\n%snot as the example says\n%s", e.asked, got, want)
	}
	var header struct{ Operation string }
	_ = json.Unmarshal([]byte(e.asked), &header)
	e.seen[header.Operation] = true
}

func (e *examples) send(line string) {
	e.t.Helper()
	k, payload := e.frame(line)
	if _, err := wire.NewFrameWriter(e.conn).Bytes(k, payload); err != nil {
		e.t.Fatalf("%s: %s: %v", e.asked, line, err)
	}
	if len(payload) == 0 {
		if err := wire.NewFrameWriter(e.conn).Empty(k); err != nil {
			e.t.Fatalf("%s: %s: %v", e.asked, line, err)
		}
	}
}

func (e *examples) receive(line string) {
	e.t.Helper()
	k, want := e.frame(line)
	gotKind, got, err := e.payload()
	// What a command writes at once may come in pieces: so passes a terminal it on.
	for err == nil && k < wire.KindEnd && gotKind == k && len(got) < len(want) {
		var more []byte
		gotKind, more, err = e.payload()
		got = append(got, more...)
	}
	if err != nil {
		e.t.Fatalf("%s: instead of %s: %q, %v", e.asked, line, got, err)
	}
	same := string(got) == string(want)
	if k >= wire.KindEvent { // JSON, in which some values vary
		same = reflect.DeepEqual(comparable(e.t, string(got)), comparable(e.t, string(want)))
	}
	if strings.HasSuffix(strings.TrimSpace(line), "…") { // any content of that length
		same = len(got) == len(want)
	}
	if gotKind != k || !same {
		e.t.Errorf("%s: there comes kind %d, %q\nnot as the example says %s", e.asked, gotKind, got, line)
	}
}

// payload reads a frame.
func (e *examples) payload() (k wire.Kind, payload []byte, err error) {
	if k, _, err = e.frames.Next(); err == nil {
		payload, err = io.ReadAll(e.frames)
	}
	return k, payload, err
}

// quotedBytes reads bytes as a page shows them: quoted strings, and 00*7 for seven
// zeros.
func quotedBytes(t *testing.T, text string) (all []byte) {
	t.Helper()
	for text = strings.TrimSpace(text); text != ""; text = strings.TrimSpace(text) {
		if n, rest, ok := strings.Cut(text, " "); strings.HasPrefix(n, "00*") {
			count, err := strconv.Atoi(n[3:])
			if err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			all = append(all, make([]byte, count)...)
			if text = rest; !ok {
				break
			}
			continue
		}
		quoted, err := strconv.QuotedPrefix(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		s, _ := strconv.Unquote(quoted)
		all = append(all, s...)
		text = text[len(quoted):]
	}
	return all
}

// frame reads a frame as a page shows it: five bytes in hexadecimal, and its
// payload as quoted bytes, as JSON, or as … where its content varies.
func (e *examples) frame(line string) (k wire.Kind, payload []byte) {
	e.t.Helper()
	line = strings.TrimSpace(line)
	digits, rest := strings.ReplaceAll(line[:min(len(line), 14)], " ", ""), strings.TrimSpace(line[min(len(line), 14):])
	header, err := hex.DecodeString(digits)
	if err != nil || len(header) != wire.FrameHeader {
		e.t.Fatalf("%s does not begin with %d bytes: %v", line, wire.FrameHeader, err)
	}
	if rest == "…" {
		return wire.Kind(header[0]), make([]byte, binary.BigEndian.Uint32(header[1:]))
	}
	payload = []byte(rest)
	if strings.HasPrefix(rest, `"`) {
		payload = quotedBytes(e.t, rest)
	}
	if n := binary.BigEndian.Uint32(header[1:]); int(n) != len(payload) {
		e.t.Errorf("%s: the length is %d, not %d", line, len(payload), n)
	}
	return wire.Kind(header[0]), payload
}

// comparable decodes a line or the payload of a frame; of what varies only the type
// is left.
func comparable(t *testing.T, text string) map[string]any {
	t.Helper()
	var reply map[string]any
	if err := json.Unmarshal([]byte(text), &reply); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	var blur func(object map[string]any)
	blur = func(object map[string]any) {
		delete(object, "boot")
		delete(object, "pressure") // not every kernel tells
		for name, v := range object {
			switch v := v.(type) {
			case map[string]any:
				blur(v)
			case []any:
				for _, item := range v {
					if inner, ok := item.(map[string]any); ok {
						blur(inner)
					}
				}
			}
			if slices.Contains(varies, name) {
				object[name] = reflect.TypeOf(v).String()
			}
		}
	}
	blur(reply)
	return reply
}
