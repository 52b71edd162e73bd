//go:build linux

package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/internal/logging"
	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// testLogs are the sources of an agent whose PID 1 keeps its log in dir.
func testLogs(t *testing.T, dir, text string) []logSource {
	t.Helper()
	path := filepath.Join(dir, "init.log")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(dir, "agent.log")
	return []logSource{
		{wire.LogInit, func() (logReader, error) { return openJournal(wire.LogInit, path) }},
		{wire.LogAgent, func() (logReader, error) { return openJournal(wire.LogAgent, missing) }},
	}
}

func TestParseKmsg(t *testing.T) {
	for record, want := range map[string]wire.LogLine{
		"6,339,5140900,-;NET: Registered protocol family 10\n":    {Level: "info", TimeMS: 5140.9, Message: "NET: Registered protocol family 10"},
		"30,340,5690716,-;udevd[80]: starting version 181\n":      {Level: "info", TimeMS: 5690.716, Message: "udevd[80]: starting version 181"},
		"5,0,0,-;Linux version 6.1.0\n":                           {Level: "notice", Message: "Linux version 6.1.0"},
		"0,1,1,-,caller=T1;x;y\n SUBSYSTEM=pci\n DEVICE=+pci:0\n": {Level: "emerg", TimeMS: 0.001, Message: "x;y"},
		`4,2,3000,c;a\x0ab\x5cc\x1b\xzz` + "\n":                   {Level: "warn", TimeMS: 3, Message: "a\nb\\c\x1b\\xzz"},
		"7,3,4000,-;no newline":                                   {Level: "debug", TimeMS: 4, Message: "no newline"},
		"7,3,4000,-;\n":                                           {Level: "debug", TimeMS: 4},
	} {
		want.Source = wire.LogKernel
		if got, _, ok := parseKmsg([]byte(record)); !ok || got != want {
			t.Errorf("%q: %+v, %v, want %+v", record, got, ok, want)
		}
	}
	for _, record := range []string{"", "\n", "6,1,1,-", "6;x", "6,1;x", "-6,1,1,-;x", "6,1,x,-;y", "6,,1,-;y", "99999999999999999999,1,1,-;y"} {
		if got, _, ok := parseKmsg([]byte(record)); ok {
			t.Errorf("%q: %+v", record, got)
		}
	}
}

func FuzzParseKmsg(f *testing.F) {
	f.Add([]byte("6,339,5140900,-;NET: Registered\\x0aprotocol\n SUBSYSTEM=pci\n"))
	f.Add([]byte("5,0,0,-;x"))
	f.Fuzz(func(t *testing.T, record []byte) {
		line, _, ok := parseKmsg(record)
		if ok && (line.TimeMS < 0 || line.Level == "" || len(line.Message) > len(record)) {
			t.Errorf("%+v", line)
		}
		kept, ok := parseKept(wire.LogInit, string(record))
		if ok && (kept.TimeMS < 0 || kept.Level == "" || len(kept.Message) > len(record)) {
			t.Errorf("%+v", kept)
		}
	})
}

func TestParseKept(t *testing.T) {
	for text, want := range map[string]wire.LogLine{
		"12.345678 INFO  init: ready in 4.2 ms":    {TimeMS: 12345.678, Level: "info", Message: "ready in 4.2 ms"},
		"0.000001 WARN  init: boot: x err=EPERM":   {TimeMS: 0.001, Level: "warn", Message: "boot: x err=EPERM"},
		"1.000000 ERROR log: 3 lines were dropped": {TimeMS: 1000, Level: "err", Message: "log: 3 lines were dropped"},
		"1.000000 DEBUG init: reaped processes=1":  {TimeMS: 1000, Level: "debug", Message: "reaped processes=1"},
		"1.000000 panic: runtime error":            {TimeMS: 1000, Level: "err", Message: "panic: runtime error"},
		"1.000000 ":                                {TimeMS: 1000, Level: "err"},
	} {
		want.Source = wire.LogInit
		if got, ok := parseKept(wire.LogInit, text); !ok || got != want {
			t.Errorf("%q: %+v, %v, want %+v", text, got, ok, want)
		}
	}
	for _, text := range []string{"", "x", "1 INFO", "1.5 INFO", "-1.000000 x", "1.00000x y", "99999999999999999999.000000 x"} {
		if got, ok := parseKept(wire.LogInit, text); ok {
			t.Errorf("%q: %+v", text, got)
		}
	}
}

// testKernelLog returns a kernel's log, and what adds a record to it. A packet pipe
// gives, like /dev/kmsg, one record for each read.
func testKernelLog(t *testing.T) (k *kernelLog, write func(record string)) {
	t.Helper()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_DIRECT|unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	w := os.NewFile(uintptr(fds[1]), "w")
	t.Cleanup(func() { _ = w.Close() })
	k, err := newKernelLog(os.NewFile(uintptr(fds[0]), "r"))
	if err != nil {
		t.Fatal(err)
	}
	return k, func(record string) {
		t.Helper()
		if _, err := w.WriteString(record); err != nil {
			t.Error(err)
		}
	}
}

// TestFollowKernelLog: a record that comes is sent, though others are awaited.
func TestFollowKernelLog(t *testing.T) {
	k, write := testKernelLog(t)
	l := serve(t, testLimits())
	l.sources = []logSource{{wire.LogKernel, func() (logReader, error) { return k, nil }}}
	write("6,1,1000,-;record 1\n")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	n := 0
	for line, err := range client.New(client.Unix(l.socket)).Logs(ctx, client.LogOptions{Follow: true}) {
		if n++; err != nil || line.Message != fmt.Sprint("record ", n) {
			t.Fatalf("record %d: %+v, %v", n, line, err)
		}
		if n == 20 {
			break
		}
		time.Sleep(time.Millisecond) // so that the agent waits for it
		write(fmt.Sprintf("6,%d,1000,-;record %d\n", n+1, n+1))
	}
}

// TestKernelLog reads a log that is overwritten in between.
func TestKernelLog(t *testing.T) {
	k, write := testKernelLog(t)
	want := func(messages ...string) {
		t.Helper()
		for _, message := range append(messages, "") {
			line, ok, err := k.next()
			if err != nil || ok != (message != "") || line.Message != message {
				t.Errorf("%+v, %v, %v, want %q", line, ok, err, message)
			}
		}
	}
	want()
	write("5,7,1000,-;a\n")
	write("what is this\n")
	write("5,8,2000,-;b\n")
	want("a", "b")
	woken := make(chan error, 2)
	go func() { woken <- k.await() }()
	write("5,12,3000,-;c\n")
	if err := <-woken; err != nil {
		t.Error(err)
	}
	want("(3 lines were overwritten before they were read)", "c")
	go func() { woken <- k.await() }()
	k.close()
	if err := <-woken; err == nil {
		t.Error("it waits on after close")
	}
}

// TestMergedLogs: the lines of all sources come in the order of their times, and
// a source that can't be read is told.
func TestMergedLogs(t *testing.T) {
	l := serve(t, testLimits())
	dir := t.TempDir()
	l.sources = testLogs(t, dir, "1.000000 INFO  init: one\n3.000000 WARN  init: three\nnot a line\n")
	c := client.New(client.Unix(l.socket))
	unreadable := ""
	options := client.LogOptions{Unreadable: func(source, why string) { unreadable += source + ": " + why }}
	if got := messages(t, c, options); !reflect.DeepEqual(got, []string{"init info one", "init warn three"}) {
		t.Errorf("%q", got)
	}
	if !strings.Contains(unreadable, "agent: open ") || !strings.Contains(unreadable, "no such file") {
		t.Errorf("unreadable: %q", unreadable)
	}
	if err := os.WriteFile(filepath.Join(dir, "agent.log"), []byte("2.000000 INFO  agent: two\n2.000000 panic: oh\n4.000000 INFO  agent: four\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, want := messages(t, c, client.LogOptions{}), []string{"init info one", "agent info two", "agent err panic: oh", "init warn three", "agent info four"}; !reflect.DeepEqual(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := messages(t, c, client.LogOptions{Since: 3 * time.Second, Sources: []string{wire.LogAgent}}), []string{"agent info four"}; !reflect.DeepEqual(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	for _, err := range c.Logs(t.Context(), client.LogOptions{Sources: []string{"syslog"}}) {
		if !errors.Is(err, unix.EINVAL) {
			t.Error(err)
		}
	}
}

func messages(t *testing.T, c *client.Client, o client.LogOptions) (list []string) {
	t.Helper()
	for line, err := range c.Logs(t.Context(), o) {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, fmt.Sprintf("%s %s %s", line.Source, line.Level, line.Message))
	}
	return list
}

// TestLogsUnreadable: where no source can be read there is an error, not an empty
// log.
func TestLogsUnreadable(t *testing.T) {
	l := serve(t, testLimits())
	l.sources = testLogs(t, t.TempDir(), "")[1:]
	c := client.New(client.Unix(l.socket))
	seen := false
	for _, err := range c.Logs(t.Context(), client.LogOptions{Follow: true}) {
		if seen = errors.Is(err, unix.ENOENT); !seen {
			t.Error(err)
		}
	}
	if !seen {
		t.Error("no error")
	}
}

// TestFollowLogs follows a journal through its rotations and loses no line.
func TestFollowLogs(t *testing.T) {
	for name, events := range map[string]bool{"inotify": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "init.log")
			kept := logging.NewJournal(2000)
			if err := kept.Open(path); err != nil {
				t.Fatal(err)
			}
			defer kept.Close(patience)
			l := serve(t, testLimits())
			l.sources = []logSource{{wire.LogInit, func() (logReader, error) {
				r, err := openJournal(wire.LogInit, path)
				if j, ok := r.(*journal); ok && !events {
					_ = j.events.Close()
					j.events = nil
				}
				return r, err
			}}}
			const lines = 300
			add := func(i int) { kept.Add(fmt.Appendf(nil, "INFO  init: line %d\n", i)) }
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			add(0)
			n := 0
			for line, err := range client.New(client.Unix(l.socket)).Logs(ctx, client.LogOptions{Follow: true}) {
				if err != nil {
					t.Fatalf("after %d lines: %v", n, err)
				}
				if want := fmt.Sprint("line ", n); line.Message != want {
					t.Fatalf("%q, want %q", line.Message, want)
				}
				if n++; n == lines {
					break
				}
				// Never so many that two files are full before the first is read.
				if n%20 == 1 {
					for i := n; i < n+20; i++ {
						add(i)
					}
				}
			}
			if _, err := os.Stat(logging.Old(path)); err != nil {
				t.Error("the journal was not rotated: ", err)
			}
			eventually(t, "the stream ends with its client", func() bool {
				l.mu.Lock()
				defer l.mu.Unlock()
				return len(l.conns) == 0
			})
		})
	}
}

// TestFollowEnds: whoever follows does not hold up the end of the agent.
func TestFollowEnds(t *testing.T) {
	l := serve(t, testLimits())
	l.sources = testLogs(t, t.TempDir(), "1.000000 INFO  init: one\n")
	var last error
	for _, err := range client.New(client.Unix(l.socket)).Logs(t.Context(), client.LogOptions{Follow: true}) {
		last = err
		if err == nil {
			l.Stop()
		}
	}
	if !errors.Is(last, unix.ESHUTDOWN) {
		t.Error(last)
	}
}

// TestLogFrames: whatever lines hold, they fit their frames.
func TestLogFrames(t *testing.T) {
	l := serve(t, testLimits())
	var text strings.Builder
	for i := range 200 {
		fmt.Fprintf(&text, "%d.000000 INFO  init: %s\n", i, strings.Repeat("\x01\xff", i*40))
	}
	l.sources = testLogs(t, t.TempDir(), text.String())
	n := 0
	for line, err := range client.New(client.Unix(l.socket)).Logs(t.Context(), client.LogOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if line.TimeMS != float64(n)*1000 {
			t.Errorf("line %d: %v", n, line.TimeMS)
		}
		n++
	}
	if n != 200 {
		t.Errorf("%d lines", n)
	}
}

// TestJournalPutAway: what is written between the last read of a file and its
// being put away is read, and so is a whole file that came in between.
func TestJournalPutAway(t *testing.T) {
	path := filepath.Join(t.TempDir(), "init.log")
	write := func(name, text string) {
		f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString("1.000000 INFO  init: " + text + "\n"); err != nil {
			t.Fatal(err)
		}
	}
	rotate := func() {
		if err := os.Rename(path, logging.Old(path)); err != nil {
			t.Fatal(err)
		}
	}
	write(path, "a")
	r, err := openJournal(wire.LogInit, path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	want := func(message string) {
		t.Helper()
		if line, ok, err := r.next(); err != nil || ok != (message != "") || line.Message != message {
			t.Errorf("%+v, %v, %v, want %q", line, ok, err, message)
		}
	}
	want("a")
	want("")
	write(path, "b")
	rotate()
	write(path, "c")
	rotate()
	write(path, "d")
	if more, err := r.(*journal).advance(); !more || err != nil { // as if its end had been read before b
		t.Error(more, err)
	}
	for _, message := range []string{"b", "c", "d", ""} {
		want(message)
	}
}
