package vsockclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

func print(w io.Writer, s string) error {
	_, err := io.WriteString(w, s)
	return err
}

// print writes what the user reads; with --json that is the reply alone.
func (c *call) print(format string, args ...any) error {
	if c.json {
		return nil
	}
	_, err := fmt.Fprintf(c.stdout, format, args...)
	return err
}

// line writes one line of JSON: with --json, where there is no reply to print.
func (c *call) line(v any) error {
	return json.NewEncoder(c.stdout).Encode(v)
}

// complain tells of what went wrong without ending the command.
func (c *call) complain(err error) {
	fmt.Fprintf(c.stderr, "%s: %s\n", program, printable(err.Error()))
}

// fail tells a program, with --json, what a person reads on stderr: as the reply of
// an agent that failed, unless that is what has been printed.
func (c *call) fail(err error) {
	var refused *client.Error
	var left *detachedError
	f := wire.Failure{Error: err.Error()}
	switch {
	case c.replies == nil, errors.As(err, &left), errors.As(err, &refused) && c.replies.printed():
		return
	case refused != nil:
		f.Code = refused.Code
	case errors.Is(err, context.DeadlineExceeded):
		f.Code = "ETIMEDOUT"
	default:
		var errno syscall.Errno
		if errors.As(err, &errno) {
			f.Code = unix.ErrnoName(errno)
		}
	}
	c.replies.endLine()
	_ = c.line(f) // stderr has it
}

// replies are those of the agent on their way to stdout.
type replies struct {
	w    io.Writer
	last byte // that was written since printed was asked; or 0
}

func (r *replies) Write(p []byte) (int, error) {
	n, err := r.w.Write(p)
	if n > 0 {
		r.last = p[n-1]
	}
	return n, err
}

// printed tells whether there was a reply since it was asked before.
func (r *replies) printed() bool {
	last := r.last
	r.last = 0
	return last == '\n'
}

// endLine ends a reply that was cut short.
func (r *replies) endLine() {
	if r.last != 0 && r.last != '\n' {
		_, _ = r.w.Write([]byte("\n"))
	}
	r.last = 0
}

// printable makes one line of a text that may come from the guest, without what
// could command the terminal that shows it.
func printable(s string) string {
	var b strings.Builder
	for _, r := range s {
		if strconv.IsPrint(r) {
			b.WriteRune(r)
			continue
		}
		q := strconv.QuoteRune(r)
		b.WriteString(q[1 : len(q)-1])
	}
	return b.String()
}

// table writes rows in columns: those whose heading ends in a space flush right,
// less that space. The last column may be of any width.
func (c *call) table(rows [][]string) error {
	var width []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], utf8.RuneCountInString(strings.TrimSpace(cell)))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		for i, cell := range row {
			w := width[i]
			switch last := i == len(row)-1; {
			case last:
				w = 0
			case !strings.HasSuffix(rows[0][i], " "):
				w = -w
			}
			if i > 0 {
				b.WriteString("  ")
			}
			fmt.Fprintf(&b, "%*s", w, strings.TrimSpace(cell))
		}
		b.WriteByte('\n')
	}
	return c.print("%s", b.String())
}

// size writes a number of bytes for people.
func size(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	f, i := float64(n), 0
	for ; f >= 999.5 && i < len(units)-1; i++ {
		f /= 1024
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.*f %s", map[bool]int{f < 9.95: 1}[true], f, units[i])
}
