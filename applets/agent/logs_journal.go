//go:build linux

package agent

import (
	"bufio"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hyperfleet/init/applets/internal/logging"
	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// A journal reads a logging.Journal, the file before included, while it is written.
type journal struct {
	source, path string

	file    *os.File
	lines   *bufio.Reader
	part    string // of a line whose end is not there yet
	rotated bool   // file will not grow any more

	events *os.File // of inotify; or nil
	closed chan struct{}
}

func openJournal(source, path string) (logReader, error) {
	j := &journal{source: source, path: path, closed: make(chan struct{})}
	// From here on every change is told: what is read below misses none.
	j.events = watchDir(filepath.Dir(path))
	var err error
	if j.file, err = os.Open(logging.Old(path)); err != nil {
		j.file, err = os.Open(path)
	}
	if err != nil {
		j.close()
		return nil, err
	}
	j.lines = bufio.NewReaderSize(j.file, 2*maxLogLine)
	return j, nil
}

// watchDir returns what can be read when a file of dir changes; nil where no
// inotify is to be had, of which a user has 128.
func watchDir(dir string) *os.File {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO); err != nil {
		_ = f.Close()
		return nil
	}
	return f
}

// journalPause is how often a journal is looked at that can't be watched.
const journalPause = 250 * time.Millisecond

func (j *journal) await() error {
	if j.events != nil {
		_, err := j.events.Read(make([]byte, 4<<10))
		return err
	}
	select {
	case <-time.After(journalPause):
		return nil
	case <-j.closed:
		return os.ErrClosed
	}
}

func (j *journal) close() {
	close(j.closed)
	if j.events != nil {
		_ = j.events.Close()
	}
	if j.file != nil {
		_ = j.file.Close()
	}
}

func (j *journal) next() (line wire.LogLine, ok bool, err error) {
	for {
		text, err := j.lines.ReadSlice('\n')
		switch {
		case err == io.EOF:
			j.part += string(text)
			if more, err := j.advance(); !more || err != nil {
				return line, false, err
			}
			continue
		case err != nil && !errors.Is(err, bufio.ErrBufferFull): // what is too long is cut
			return line, false, err
		}
		whole := j.part + strings.TrimSuffix(string(text), "\n")
		j.part = ""
		if line, ok := parseKept(j.source, whole); ok {
			return line, true, nil
		}
	}
}

// advance goes on to the next file, if there is one and this one is read to its
// end.
func (j *journal) advance() (more bool, err error) {
	current, err := os.Open(j.path)
	if err != nil {
		return false, nil // between two files
	}
	if sameFile(current, j.file) {
		return false, current.Close()
	}
	if !j.rotated {
		// Something may have been written before it was put away.
		j.rotated = true
		return true, current.Close()
	}
	// If there was another file in between, that comes first.
	next := current
	if old, err := os.Open(logging.Old(j.path)); err == nil {
		if sameFile(old, j.file) {
			_ = old.Close()
		} else {
			_ = current.Close()
			next = old
		}
	}
	_ = j.file.Close()
	j.file, j.part, j.rotated = next, "", false
	j.lines.Reset(next)
	return true, nil
}

func sameFile(a, b *os.File) bool {
	x, errX := a.Stat()
	y, errY := b.Stat()
	return errX == nil && errY == nil && os.SameFile(x, y)
}

// parseKept reads a line of a journal: "12.345678 LEVEL name: message". What is
// not made by a logger has no level: an agent prints so only at its end.
func parseKept(source, text string) (line wire.LogLine, ok bool) {
	stamp, text, _ := strings.Cut(text, " ")
	seconds, micros, ok := strings.Cut(stamp, ".")
	s, err := strconv.ParseUint(seconds, 10, 40)
	us, errMicros := strconv.ParseUint(micros, 10, 20)
	if !ok || err != nil || errMicros != nil || len(micros) != 6 {
		return line, false
	}
	line = wire.LogLine{Source: source, TimeMS: float64(s*1_000_000+us) / 1000, Level: "err", Message: text}
	name, rest, _ := strings.Cut(text, " ")
	if level, ok := keptLevels()[name]; ok {
		line.Level = level
		line.Message = strings.TrimPrefix(strings.TrimLeft(rest, " "), source+": ")
	}
	return line, true
}

// keptLevels are the levels of package logging, as logs names them.
func keptLevels() map[string]string {
	return map[string]string{"DEBUG": "debug", "INFO": "info", "WARN": "warn", "ERROR": "err"}
}
