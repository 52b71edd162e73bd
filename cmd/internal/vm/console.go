package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
)

// ErrEnded is the end of the console's output where more was waited for.
var ErrEnded = errors.New("the machine ended")

// A Console keeps what a machine has printed and lets one reader wait for the
// next lines of it. It is the io.Writer that the emulator's output goes to.
type Console struct {
	// Tee, if set, gets a copy of everything; set it before the machine starts.
	Tee io.Writer

	mu      sync.Mutex
	lines   []string
	partial []byte
	next    int // the first line that no Next or Expect has returned
	ended   bool
	changed chan struct{} // closed and replaced at every change
}

// NewConsole returns an empty console.
func NewConsole() *Console { return &Console{changed: make(chan struct{})} }

// Write takes output of the machine. It never fails and never blocks on readers.
func (c *Console) Write(p []byte) (int, error) {
	if c.Tee != nil {
		c.Tee.Write(p)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.partial = append(c.partial, p...)
	for {
		i := bytes.IndexByte(c.partial, '\n')
		if i < 0 {
			break
		}
		c.lines = append(c.lines, clean(c.partial[:i]))
		c.partial = c.partial[i+1:]
	}
	c.wake()
	return len(p), nil
}

// wake tells every waiter to look again; c.mu is held.
func (c *Console) wake() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// end marks the output as complete, with what was left of a last line.
func (c *Console) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.partial) > 0 {
		c.lines = append(c.lines, clean(c.partial))
		c.partial = nil
	}
	c.ended = true
	c.wake()
}

// escape matches the terminal control sequences that firmware prints.
var escape = regexp.MustCompile("\x1b(\\[[0-9;?=]*[A-Za-z]|c)")

// clean drops what a terminal would not show: the carriage returns that the
// guest's tty puts before each newline, and control sequences.
func clean(line []byte) string {
	return strings.Trim(escape.ReplaceAllString(string(line), ""), "\r")
}

// Next returns the next line, waiting for it until ctx is done or the machine
// ends.
func (c *Console) Next(ctx context.Context) (string, error) {
	for {
		c.mu.Lock()
		if c.next < len(c.lines) {
			line := c.lines[c.next]
			c.next++
			c.mu.Unlock()
			return line, nil
		}
		ended, changed := c.ended, c.changed
		c.mu.Unlock()
		if ended {
			return "", ErrEnded
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

// Expect returns the first line, from where the last call stopped, that matches re.
func (c *Console) Expect(ctx context.Context, re *regexp.Regexp) (string, error) {
	for {
		line, err := c.Next(ctx)
		if err != nil {
			return "", fmt.Errorf("waiting for a console line like %q: %w", re, err)
		}
		if re.MatchString(line) {
			return line, nil
		}
	}
}

// All returns everything printed so far.
func (c *Console) All() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(append(c.lines[:len(c.lines):len(c.lines)], clean(c.partial)), "\n")
}

// Tail returns the last n lines printed so far.
func (c *Console) Tail(n int) string {
	lines := strings.Split(strings.TrimRight(c.All(), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
