package logging

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A Journal keeps lines in a file, for those who come later: each with the time
// of the kernel's clock at which it came, "12.345678 ", in front. Until there is a
// place for files the lines wait in memory. The disk, like the console, makes
// nobody wait: what it does not take in time is dropped and counted.
type Journal struct {
	limit   int64 // bytes of the file; as much again is in the one before
	lines   chan []byte
	stop    chan chan struct{}
	dropped atomic.Int64
	opened  bool
	adding  sync.Mutex // so that the lines are in the order of their times

	// Of the goroutine that writes.
	path string
	file *os.File
	size int64
}

const (
	// JournalLimit is how large the file of a Journal is to become, in bytes.
	JournalLimit = 256 << 10

	// longest is how much of a line is kept, in bytes.
	longest = 4 << 10
)

// NewJournal returns a Journal without a file.
func NewJournal(limit int64) *Journal {
	return &Journal{limit: limit, lines: make(chan []byte, queue), stop: make(chan chan struct{})}
}

// Old returns the name of what a Journal's file is renamed to when it is full.
func Old(path string) string { return path + ".1" }

// Open begins to write, into a new file that only root may read. What was there
// is of another boot.
func (j *Journal) Open(path string) error {
	if err := os.Remove(Old(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	j.path = path
	if err := j.create(); err != nil {
		return err
	}
	j.opened = true
	go j.write()
	return nil
}

func (j *Journal) create() (err error) {
	if err := os.Remove(j.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	j.size = 0
	j.file, err = os.OpenFile(j.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	return err
}

// Add keeps a line, which ends in a newline.
func (j *Journal) Add(line []byte) {
	j.adding.Lock()
	defer j.adding.Unlock()
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // the clock of the kernel's own log
	if len(line) > longest {
		line = append(line[:longest:longest], "…\n"...)
	}
	kept := fmt.Appendf(nil, "%d.%06d %s", now.Sec, now.Nsec/1000, line)
	select {
	case j.lines <- kept:
	default:
		j.dropped.Add(1)
	}
}

// Close ends the writing, when what was added before is written, but waits no
// longer than limit.
func (j *Journal) Close(limit time.Duration) {
	if !j.opened {
		return
	}
	j.opened = false
	timeout := time.After(limit)
	done := make(chan struct{})
	select {
	case j.stop <- done:
	case <-timeout:
		return
	}
	select {
	case <-done:
	case <-timeout:
	}
}

func (j *Journal) write() {
	for {
		select {
		case line := <-j.lines:
			j.put(line)
		case done := <-j.stop:
			for len(j.lines) > 0 {
				j.put(<-j.lines)
			}
			_ = j.file.Close()
			close(done)
			return
		}
	}
}

func (j *Journal) put(line []byte) {
	if n := j.dropped.Swap(0); n > 0 {
		stamp, _, _ := bytes.Cut(line, []byte(" "))
		j.append(fmt.Appendf(nil, "%s WARN  log: %d lines were dropped: the disk is too slow\n", stamp, n))
	}
	j.append(line)
}

// append writes a line whole, so that a reader sees none that is cut.
func (j *Journal) append(line []byte) {
	if j.size+int64(len(line)) > j.limit {
		_ = j.file.Close()
		// A file that can't be kept is lost: what grows without limit would take
		// the machine's memory.
		_ = os.Rename(j.path, Old(j.path))
		if j.create() != nil {
			j.dropped.Add(1)
			j.size = j.limit // so that the next line tries again
			return
		}
	}
	n, err := j.file.Write(line)
	j.size += int64(n)
	if err != nil {
		j.dropped.Add(1)
	}
}

// Lines returns a writer that adds what is written to it, line by line. It is for
// one goroutine; at the end, close what it holds of a last line.
func (j *Journal) Lines() *LineWriter { return &LineWriter{journal: j} }

// A LineWriter cuts what is written to it into lines.
type LineWriter struct {
	journal *Journal
	rest    []byte // of a line without its end
}

func (w *LineWriter) Write(p []byte) (int, error) {
	n := len(p)
	for {
		line, after, ended := bytes.Cut(p, []byte("\n"))
		if room := longest - len(w.rest); len(line) > room {
			line = line[:room]
		}
		w.rest = append(w.rest, line...)
		if !ended {
			return n, nil
		}
		w.journal.Add(append(w.rest, '\n'))
		w.rest = w.rest[:0]
		p = after
	}
}

// Close adds a last line that has no end.
func (w *LineWriter) Close() error {
	if len(w.rest) > 0 {
		_, _ = w.Write([]byte("\n"))
	}
	return nil
}
