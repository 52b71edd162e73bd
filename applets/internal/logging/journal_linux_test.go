package logging

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func readText(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// What came before there was a place for files is in the file, in order, each
// line with its own time; nobody but root reads it, and nothing of another boot
// is left.
func TestJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	for name, content := range map[string]string{elsewhere: "mine", Old(path): "of another boot"} {
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(elsewhere, path); err != nil {
		t.Fatal(err)
	}
	j := NewJournal(JournalLimit)
	l := logged(t, false, func(l *Log) {
		l.Keep(j.Add)
		l.Info("early", "n", 1)
		time.Sleep(2 * time.Millisecond)
		l.Debug("not logged, not kept")
		if err := j.Open(path); err != nil {
			t.Fatal(err)
		}
		l.Warn("later")
	})
	j.Add([]byte(strings.Repeat("x", 2*longest) + "\n"))
	j.Close(time.Minute)
	var stamps [3]float64
	text := readText(t, path)
	m := regexp.MustCompile(`^(\d+\.\d{6}) INFO  init: early n=1\n(\d+\.\d{6}) WARN  init: later\n(\d+\.\d{6}) (x+)…\n$`).FindStringSubmatch(text)
	if m == nil || len(m[4]) != longest {
		t.Fatalf("%.200q", text)
	}
	for i := range stamps {
		_, _ = fmt.Sscan(m[i+1], &stamps[i])
	}
	if stamps[1]-stamps[0] < 0.002 || stamps[2] < stamps[1] {
		t.Errorf("times: %v", stamps)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	if readText(t, elsewhere) != "mine" {
		t.Error("a link was followed")
	}
	if _, err := os.Stat(Old(path)); err == nil {
		t.Error("the file of another boot is left")
	}
	if l != "INFO  init: early n=1\nWARN  init: later\n" {
		t.Errorf("the console has %q", l)
	}
}

// A full file is put away once, and all of it is bounded; lines are whole.
func TestJournalRotates(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	const limit = 1000
	j := NewJournal(limit)
	if err := j.Open(path); err != nil {
		t.Fatal(err)
	}
	const lines = 200
	for i := range lines {
		j.Add(fmt.Appendf(nil, "line %d\n", i))
	}
	j.Close(time.Minute)
	old, now := readText(t, Old(path)), readText(t, path)
	if len(old) > limit || len(now) > limit || len(old) < limit-50 {
		t.Errorf("%d and %d bytes", len(old), len(now))
	}
	all := strings.Split(strings.TrimSuffix(old+now, "\n"), "\n")
	for i, line := range all {
		if want := fmt.Sprint("line ", lines-len(all)+i); !strings.HasSuffix(line, " "+want) {
			t.Errorf("%q, want %q", line, want)
		}
	}
}

// Where no file can be made, and where the disk is stuck, nobody waits for more
// than is asked, and what is lost is counted.
func TestJournalNowhere(t *testing.T) {
	j := NewJournal(JournalLimit)
	if err := j.Open(filepath.Join(t.TempDir(), "no", "log")); err == nil {
		t.Error("no error")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 2 * queue {
			j.Add([]byte("x\n"))
		}
		j.Close(time.Hour)
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("who logs waits")
	}
}

// TestJournalOrder: lines that are added at once are kept in the order of their
// times.
func TestJournalOrder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	j := NewJournal(JournalLimit)
	if err := j.Open(path); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range queue {
				j.Add([]byte("x\n"))
			}
		})
	}
	all.Wait()
	j.Close(time.Minute)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	last := 0.0
	for line := range strings.Lines(string(b)) {
		stamp, _, _ := strings.Cut(line, " ")
		at, err := strconv.ParseFloat(stamp, 64)
		if err != nil || at < last {
			t.Fatalf("%q behind %f: %v", line, last, err)
		}
		last = at
	}
	if last == 0 {
		t.Error("no line")
	}
}

func TestJournalStuck(t *testing.T) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	r := os.NewFile(uintptr(fds[0]), "r")
	j := NewJournal(1 << 30)
	j.file, j.opened = os.NewFile(uintptr(fds[1]), "w"), true
	go j.write()
	const lines = 4 * queue
	for i := range lines {
		j.Add(fmt.Appendf(nil, "line %d %s\n", i, strings.Repeat("x", 1000)))
	}
	j.Close(10 * time.Millisecond)
	text := make(chan string)
	go func() {
		var b strings.Builder
		buf := make([]byte, 1<<20)
		for {
			n, err := r.Read(buf)
			b.Write(buf[:n])
			if err != nil || strings.Contains(b.String(), " the end\n") {
				text <- b.String()
				return
			}
		}
	}()
	for j.dropped.Load() > 0 { // until there is room again
		time.Sleep(time.Millisecond)
	}
	j.Add([]byte("the end\n"))
	got := <-text
	dropped := 0
	for _, m := range regexp.MustCompile(`(?m)^\d+\.\d{6} WARN  log: (\d+) lines were dropped`).FindAllStringSubmatch(got, -1) {
		var n int
		_, _ = fmt.Sscan(m[1], &n)
		dropped += n
	}
	if dropped == 0 {
		t.Error("nothing tells of dropped lines")
	}
	if kept := strings.Count(got, " line "); kept < queue || kept+dropped != lines {
		t.Errorf("%d kept, %d dropped of %d", kept, dropped, lines)
	}
}

// What comes in pieces is kept in lines.
func TestJournalLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	j := NewJournal(JournalLimit)
	w := j.Lines()
	for _, piece := range []string{"one\ntw", "o", "\n\n", strings.Repeat("y", longest-1), "yyyyy\n", "no end"} {
		if n, err := w.Write([]byte(piece)); n != len(piece) || err != nil {
			t.Error(n, err)
		}
	}
	_ = w.Close()
	_ = w.Close()
	if err := j.Open(path); err != nil {
		t.Fatal(err)
	}
	j.Close(time.Minute)
	got := regexp.MustCompile(`(?m)^\d+\.\d{6} `).ReplaceAllString(readText(t, path), "")
	if want := "one\ntwo\n\n" + strings.Repeat("y", longest) + "…\nno end\n"; got != want {
		t.Errorf("%.100q", got)
	}
}
