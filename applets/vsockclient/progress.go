package vsockclient

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/hyperfleet/init/applets/client"
)

// A progress shows on a terminal how far a copy is: what is written to it has been
// copied.
type progress struct {
	w           *os.File // a terminal, or nil
	columns     int
	name        string
	total, done int64 // total is 0 if it is not known
	there       int64 // of done, from an earlier attempt
	start, last time.Time
	verbose     bool
	log         io.Writer
}

// progressInterval is how often it is shown anew.
const progressInterval = 100 * time.Millisecond

func (c *call) progress(name string, total int64) *progress {
	p := &progress{name: printable(name), total: total, start: time.Now(), log: c.stderr, verbose: c.verbose && !c.json}
	p.last = p.start
	if t := terminalOf(c.stderr); t != nil && !c.json {
		p.w, p.verbose, p.columns = t, true, 80
	}
	return p
}

func (p *progress) Write(b []byte) (int, error) {
	p.at(p.done + int64(len(b)))
	return len(b), nil
}

// at tells how many bytes have been copied.
func (p *progress) at(done int64) {
	p.done = done
	if now := time.Now(); p.w != nil && now.Sub(p.last) >= progressInterval {
		p.last = now
		if size, ok := (&terminal{shown: p.w}).size(); ok {
			p.columns = int(size.Cols)
		}
		fmt.Fprintf(p.w, "\r%s\x1b[K", p.line(now.Sub(p.start)))
	}
}

// end shows the result in place of the bar.
func (p *progress) end(sum client.Sum, err error) {
	if p.clear(); err == nil && p.verbose {
		fmt.Fprintf(p.log, "%s  %s  %s\n", sum.SHA256, p.name, p.took(sum.Size))
	}
}

func (p *progress) endTree(r client.CopyResult) {
	if p.clear(); p.verbose {
		fmt.Fprintf(p.log, "%s  %s  %d entries, %s\n", cmp.Or(r.SHA256, "no sum"), p.name, r.Entries, p.took(r.Bytes))
	}
}

func (p *progress) clear() {
	if p.w != nil {
		_, _ = p.w.WriteString("\r\x1b[K")
	}
}

func (p *progress) took(n int64) string {
	d := time.Since(p.start)
	return fmt.Sprintf("%s in %.1fs, %s/s", size(n), d.Seconds(), size(rate(max(n-p.there, 0), d)))
}

// rate is in bytes per second.
func rate(n int64, took time.Duration) int64 {
	return int64(float64(n) / max(took.Seconds(), 0.001))
}

// line is one line of the terminal: name, bar, bytes, rate, and the time left.
func (p *progress) line(took time.Duration) string {
	speed := rate(max(p.done-p.there, 0), took)
	tail := fmt.Sprintf("  %s  %s/s", size(p.done), size(speed))
	bar := ""
	if p.total > 0 && p.done <= p.total {
		share := float64(p.done) / float64(p.total)
		left := "-:--"
		if speed > 0 {
			left = clock((p.total - p.done) / speed * 1000)
		}
		tail = fmt.Sprintf(" %3.0f%%  %s  %s/s  %s", share*100, size(p.done), size(speed), left)
		const cells = 20
		full := int(share * cells)
		bar = " [" + strings.Repeat("#", full) + strings.Repeat(".", cells-full) + "]"
	}
	name := []rune(p.name)
	room := max(p.columns-1-len(bar)-len(tail), 0)
	if len(name) > room {
		name = name[len(name)-room:] // its end tells more
	}
	line := []rune(string(name) + bar + tail)
	return string(line[:min(len(line), max(p.columns-1, 0))])
}
