// Package logging writes the log lines of init and the agent to the console. A
// console can be slow or stuck (a serial port with nobody at the other end), so
// no caller ever waits for it.
package logging

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"
)

// queue is how many lines may wait for the console; later ones are dropped and
// counted.
const queue = 512

// A Log writes lines.
type Log struct {
	name    string
	debug   bool
	lines   chan []byte
	flushed chan chan struct{}
	dropped atomic.Int64
	keep    func(line []byte)
}

// Keep has every line given to keep as well, which must not wait. It is to be
// called before the first line.
func (l *Log) Keep(keep func(line []byte)) { l.keep = keep }

// New returns a log whose lines read "LEVEL name: message key=value…".
func New(w io.Writer, name string, debug bool) *Log {
	l := &Log{name: name, debug: debug, lines: make(chan []byte, queue), flushed: make(chan chan struct{})}
	go l.write(w)
	return l
}

func (l *Log) write(w io.Writer) {
	for {
		select {
		case line := <-l.lines:
			l.put(w, line)
		case done := <-l.flushed:
			for len(l.lines) > 0 {
				l.put(w, <-l.lines)
			}
			close(done)
		}
	}
}

func (l *Log) put(w io.Writer, line []byte) {
	if n := l.dropped.Swap(0); n > 0 {
		fmt.Fprintf(w, "WARN  log: %d lines were dropped: the console is too slow\n", n)
	}
	_, _ = w.Write(line) // there is nobody else to tell
}

// Flush waits until what was logged before is written, but no longer than limit.
func (l *Log) Flush(limit time.Duration) {
	timeout := time.After(limit)
	done := make(chan struct{})
	select {
	case l.flushed <- done:
	case <-timeout:
		return
	}
	select {
	case <-done:
	case <-timeout:
	}
}

// The levels, as they stand at the start of a line.
const (
	debugLevel = "DEBUG"
	infoLevel  = "INFO "
	warnLevel  = "WARN "
	errorLevel = "ERROR"
)

// Debug logs what helps to find a mistake, if it was asked for. Here and below
// about is keys, each with its value.
func (l *Log) Debug(message string, about ...any) {
	if l.debug {
		l.log(debugLevel, message, about)
	}
}

// Info logs what is as it should be.
func (l *Log) Info(message string, about ...any) { l.log(infoLevel, message, about) }

// Warn logs what is not as it should be, and does no harm yet.
func (l *Log) Warn(message string, about ...any) { l.log(warnLevel, message, about) }

// Error logs what failed.
func (l *Log) Error(message string, about ...any) { l.log(errorLevel, message, about) }

func (l *Log) log(level, message string, about []any) {
	var b bytes.Buffer
	if strings.ContainsFunc(message, unicode.IsControl) {
		message = strconv.Quote(message)
	}
	fmt.Fprintf(&b, "%s %s: %s", level, l.name, message)
	for ; len(about) > 1; about = about[2:] {
		appendPair(&b, about[0], about[1])
	}
	b.WriteByte('\n')
	if l.keep != nil {
		l.keep(b.Bytes())
	}
	l.enqueue(b.Bytes())
}

func (l *Log) enqueue(line []byte) {
	select {
	case l.lines <- line:
	default:
		l.dropped.Add(1)
	}
}

// Write passes on what another program has printed, as it is. Like a line, it may
// be dropped, and nobody waits for it.
func (l *Log) Write(p []byte) (int, error) {
	l.enqueue(bytes.Clone(p))
	return len(p), nil
}

func appendPair(b *bytes.Buffer, key, value any) {
	s := fmt.Sprint(value)
	// A line stays a line whatever a name or a message holds.
	for _, c := range s {
		if c <= ' ' || c == '"' || c == '=' || !strconv.IsPrint(c) || c == utf8.RuneError {
			fmt.Fprintf(b, " %s=%q", key, s)
			return
		}
	}
	fmt.Fprintf(b, " %s=%s", key, s)
}
