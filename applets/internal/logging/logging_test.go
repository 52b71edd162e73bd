package logging

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// logged returns what use writes to a log.
func logged(t *testing.T, debug bool, use func(*Log)) string {
	t.Helper()
	var b bytes.Buffer
	l := New(&b, "init", debug)
	use(l)
	l.Flush(time.Minute)
	return b.String()
}

func TestFormat(t *testing.T) {
	for want, use := range map[string]func(*Log){
		"INFO  init: ready in 4.2 ms\n":                    func(l *Log) { l.Info("ready in 4.2 ms") },
		"WARN  init: boot err=EPERM n=3 d=1.5s\n":          func(l *Log) { l.Warn("boot", "err", errors.New("EPERM"), "n", 3, "d", 1500*time.Millisecond) },
		"ERROR init: x path=\"/a b\" empty=\n":             func(l *Log) { l.Error("x", "path", "/a b", "empty", "") },
		"INFO  init: x a=\"1\\n2\" b=\"c=d\" q=\"\\\"\"\n": func(l *Log) { l.Info("x", "a", "1\n2", "b", "c=d", "q", `"`) },
		"INFO  init: x esc=\"\\x1b[2J\" del=\"\\x7f\"\n":   func(l *Log) { l.Info("x", "esc", "\x1b[2J", "del", "\x7f") },
		"INFO  init: x csi=\"\\u009b2J\" bad=\"\\xff\"\n":  func(l *Log) { l.Info("x", "csi", "\u009b2J", "bad", "\xff") },
		"INFO  init: \"two\\nlines\"\n":                    func(l *Log) { l.Info("two\nlines") },
		"INFO  init: é ü=ö\n":                              func(l *Log) { l.Info("é", "ü", "ö") },
	} {
		if got := logged(t, false, use); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestLevels(t *testing.T) {
	all := func(l *Log) { l.Debug("d"); l.Info("i"); l.Warn("w"); l.Error("e") }
	if got, want := logged(t, false, all), "INFO  init: i\nWARN  init: w\nERROR init: e\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := logged(t, true, all); !strings.HasPrefix(got, "DEBUG init: d\n") {
		t.Errorf("%q", got)
	}
}

// blocked is a writer that waits until it is opened.
type blocked struct {
	open    chan struct{}
	entered chan struct{} // has a value once a Write has begun
	mu      sync.Mutex
	b       bytes.Buffer
}

func (w *blocked) Write(p []byte) (int, error) {
	select {
	case w.entered <- struct{}{}:
	default:
	}
	<-w.open
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

// Nobody who logs waits for a console that is stuck; what can't be kept is counted.
func TestBlocked(t *testing.T) {
	w := &blocked{open: make(chan struct{}), entered: make(chan struct{}, 1)}
	l := New(w, "init", false)
	const lines = 3 * queue
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range lines {
			l.Info(fmt.Sprint("line ", i))
			if i == 0 {
				<-w.entered // nothing is dropped before the console is stuck
			}
		}
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("who logs waits")
	}
	start := time.Now()
	l.Flush(50 * time.Millisecond)
	if took := time.Since(start); took < 50*time.Millisecond || took > 20*time.Second {
		t.Errorf("Flush took %v, want 50 ms", took)
	}
	close(w.open)
	l.Flush(time.Minute)
	text := w.b.String()
	m := regexp.MustCompile(`WARN  log: (\d+) lines were dropped`).FindStringSubmatch(text)
	if m == nil {
		t.Fatal("nothing tells of dropped lines")
	}
	var dropped int
	_, _ = fmt.Sscan(m[1], &dropped)
	if kept := strings.Count(text, "INFO  init: line "); kept < queue || kept+dropped != lines {
		t.Errorf("%d kept, %d dropped of %d", kept, dropped, lines)
	}
	if strings.Count(text, "were dropped") != 1 {
		t.Error("dropped lines are told of more than once")
	}
}

// Each line is written whole, and at once.
func TestConcurrent(t *testing.T) {
	r, w := io.Pipe()
	l := New(w, "x", false)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 50 {
				l.Info("m", "i", i, "j", j)
			}
		})
	}
	go func() { wg.Wait(); l.Flush(time.Minute); w.Close() }()
	text, _ := io.ReadAll(r)
	if n := len(regexp.MustCompile(`(?m)^INFO  x: m i=\d j=\d+$`).FindAll(text, -1)); n != 400 {
		t.Errorf("%d lines, want 400", n)
	}
}

// What another program prints comes out as it is, between lines, and its buffer
// may be used again.
func TestWrite(t *testing.T) {
	var b bytes.Buffer
	l := New(&b, "x", false)
	p := []byte("one\ntwo\n")
	if n, err := l.Write(p); n != len(p) || err != nil {
		t.Error(n, err)
	}
	copy(p, "ONE\nTWO\n")
	l.Info("m")
	l.Flush(10 * time.Second)
	if got := b.String(); got != "one\ntwo\nINFO  x: m\n" {
		t.Errorf("%q", got)
	}
}
