package wire

import (
	"bufio"
	"encoding/json"
	"io"
	"iter"
	"sync"
	"unicode/utf8"
)

// Stat is the data of file_stat's reply.
type Stat struct {
	Path    string `json:"path"`
	Size    int64  `json:"size"`     // bytes
	Mode    string `json:"mode"`     // permission bits incl. suid, sgid, sticky, octal
	ModTime string `json:"mod_time"` // UTC, as 2006-01-02T15:04:05Z
	IsDir   bool   `json:"is_dir"`
}

// ExecResult is the data of exec's reply less the output, which is streamed:
// stdout and stderr as text, in which what is not UTF-8 reads U+FFFD, and
// stdout_base64 and stderr_base64, which hold every byte.
type ExecResult struct {
	// ExitCode is the command's, or 128 and the number of the signal that ended
	// it; 126 for a command that can't be executed, 127 for one not found.
	ExitCode   int   `json:"exit_code"`
	Signal     int   `json:"signal,omitempty"` // that ended it
	TimedOut   bool  `json:"timed_out"`        // it was ended at its timeout
	OOMKilled  bool  `json:"oom_killed"`       // the kernel killed it for want of memory
	Truncated  bool  `json:"truncated"`        // there was output beyond max_output
	DurationMS int64 `json:"duration_ms"`
}

// ExecStarted is the data of exec's reply that begins a stream or a session, and
// of session_attach's.
type ExecStarted struct {
	PID     int    `json:"pid"` // 0 for a command that could not be started
	Session string `json:"session,omitempty"`
}

// ExecExit is how a stream of exec ends.
type ExecExit struct {
	ExitCode   int   `json:"exit_code"` // as in ExecResult
	Signal     int   `json:"signal,omitempty"`
	TimedOut   bool  `json:"timed_out"`
	OOMKilled  bool  `json:"oom_killed"`
	DurationMS int64 `json:"duration_ms"`
	// CPUMS is the time, user and system, of the command and all that it started;
	// without cgroup v2, of what it waited for.
	CPUMS int64 `json:"cpu_ms"`
	// MemoryPeak is, in bytes, the most that all of these had at one time where there
	// was a memory_max; else what the largest of them had resident, or the agent.
	MemoryPeak int64 `json:"memory_peak"`
	// PipesHeld tells that something which the command left running held its
	// output open, and was no longer listened to.
	PipesHeld bool `json:"pipes_held"`
}

// Info is the data of info's reply.
type Info struct {
	Version    string   `json:"version"`  // of the agent
	Protocol   int      `json:"protocol"` // Version of this package
	Operations []string `json:"operations"`
	Kernel     string   `json:"kernel"` // as uname -r
	Arch       string   `json:"arch"`   // as uname -m
	Hostname   string   `json:"hostname"`
	PID        int      `json:"pid"`       // of the agent
	UptimeMS   int64    `json:"uptime_ms"` // of the kernel
	// KillScope says what a timeout or a lost client ends: "cgroup", all that the
	// command started, or "process_group" where there is no cgroup v2.
	KillScope string `json:"kill_scope"`
	Boot      *Boot  `json:"boot,omitempty"` // where PID 1 is this program
}

// Boot tells how PID 1 came up.
type Boot struct {
	ReadyMS float64    `json:"ready_ms"` // from the start of init to the agent being ready
	Steps   []BootStep `json:"steps"`
}

// A BootStep is one of the things that PID 1 did.
type BootStep struct {
	Name  string  `json:"name"`
	MS    float64 `json:"ms"`
	Error string  `json:"error,omitempty"`
}

// A Reply writes the line of a reply piece by piece, so that content need not be
// held. Errors are kept until End.
type Reply struct {
	Memory Memory // what large buffers are taken from

	w     *bufio.Writer
	err   error
	comma bool
}

// NewReply starts the line of a successful reply on w.
func NewReply(w io.Writer) *Reply {
	return newReply(w, `{"success":true,"data":{`)
}

func newReply(w io.Writer, head string) *Reply {
	r := &Reply{w: writers.Get().(*bufio.Writer)}
	r.w.Reset(w)
	r.raw(head)
	return r
}

// writers are shared: the buffer is most of what a small request costs in memory.
var writers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, 4<<10) }}

// flush writes what is left. It is the last that is done with r.
func (r *Reply) flush() error {
	if r.err == nil {
		r.err = r.w.Flush()
	}
	r.w.Reset(nil)
	writers.Put(r.w)
	r.w = nil
	return r.err
}

func (r *Reply) raw(s string) {
	if r.err == nil {
		_, r.err = r.w.WriteString(s)
	}
}

func (r *Reply) name(name string) {
	if r.comma {
		r.raw(",")
	}
	r.comma = true
	r.raw(`"` + name + `":`)
}

// Value adds a field. v must be something that encoding/json can encode.
func (r *Reply) Value(name string, v any) {
	r.name(name)
	r.json(v)
}

// Raw adds a field whose value is JSON already.
func (r *Reply) Raw(name string, encoded []byte) {
	r.name(name)
	if r.err == nil {
		_, r.err = r.w.Write(encoded)
	}
}

func (r *Reply) json(v any) {
	if r.err != nil {
		return
	}
	e := json.NewEncoder(noNewline{r.w})
	e.SetEscapeHTML(false)
	r.err = e.Encode(v)
}

// List adds a field that holds an array, whose items are encoded one by one.
func (r *Reply) List(name string, items iter.Seq[any]) {
	r.name(name)
	sep := "["
	for v := range items {
		r.raw(sep)
		r.json(v)
		sep = ","
	}
	if sep == "[" {
		r.raw(sep)
	}
	r.raw("]")
}

// noNewline drops the newline that a json.Encoder writes last.
type noNewline struct{ w io.Writer }

func (n noNewline) Write(p []byte) (int, error) {
	if _, err := n.w.Write(p[:len(p)-1]); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Base64 adds a field that holds what src holds, as base64.
func (r *Reply) Base64(name string, src io.Reader) {
	r.name(name)
	r.raw(`"`)
	if r.err == nil {
		r.err = writeBase64(r.w, src, r.Memory)
	}
	r.raw(`"`)
}

// Text adds a field that holds what src holds, as a string in which each byte
// that is not of UTF-8 reads U+FFFD.
func (r *Reply) Text(name string, src io.Reader) {
	r.name(name)
	r.raw(`"`)
	if r.err == nil {
		t := textEncoder{w: r.w}
		r.err = pieces(src, r.Memory, func(piece, _ []byte) error { return t.write(piece) })
		if r.err == nil {
			r.err = t.close()
		}
	}
	r.raw(`"`)
}

// End ends the line and returns the first error of writing it.
func (r *Reply) End() error {
	r.raw("}}\n")
	return r.flush()
}

// WriteData writes a successful reply whose data is what v encodes to, an object.
func WriteData(w io.Writer, v any) error {
	r := newReply(w, `{"success":true,"data":`)
	r.json(v)
	r.raw("}\n")
	return r.flush()
}

// Failure is the reply to a request that failed.
type Failure struct {
	Success bool   `json:"success"` // false
	Error   string `json:"error"`
	Code    string `json:"code"` // the name of a Linux errno, such as ENOENT
}

// WriteFailure writes the reply to a request that failed.
func WriteFailure(w io.Writer, message, code string) error {
	line, err := json.Marshal(Failure{Error: message, Code: code})
	if err != nil {
		return err
	}
	_, err = w.Write(append(line, '\n'))
	return err
}

// A textEncoder writes bytes as the inside of a JSON string.
type textEncoder struct {
	w    *bufio.Writer
	rest []byte // an incomplete UTF-8 sequence
}

func (t *textEncoder) write(p []byte) error {
	if len(t.rest) > 0 {
		p = append(t.rest, p...)
		t.rest = nil
	}
	for len(p) > 0 {
		if i := plain(p); i > 0 {
			if _, err := t.w.Write(p[:i]); err != nil {
				return err
			}
			p = p[i:]
			continue
		}
		c, size := rune(p[0]), 1
		if c >= utf8.RuneSelf {
			if !utf8.FullRune(p) {
				t.rest = append([]byte(nil), p...)
				break
			}
			c, size = utf8.DecodeRune(p)
		}
		if err := t.rune(c); err != nil {
			return err
		}
		p = p[size:]
	}
	return nil
}

// close writes what is left: the start of a sequence that never ended.
func (t *textEncoder) close() error {
	for range t.rest {
		if err := t.rune(utf8.RuneError); err != nil {
			return err
		}
	}
	return nil
}

// rune writes one character. Bytes and strings, not slices: those would be made
// anew for each.
func (t *textEncoder) rune(c rune) error {
	switch {
	case c == '"':
		_, err := t.w.WriteString(`\"`)
		return err
	case c == '\\':
		_, err := t.w.WriteString(`\\`)
		return err
	case c == '\n':
		_, err := t.w.WriteString(`\n`)
		return err
	case c == '\r':
		_, err := t.w.WriteString(`\r`)
		return err
	case c == '\t':
		_, err := t.w.WriteString(`\t`)
		return err
	case c < ' ' || c == 0x7F:
		const hex = "0123456789abcdef"
		_, _ = t.w.WriteString(`\u00`) // an error stays, see bufio.Writer
		_ = t.w.WriteByte(hex[c>>4])
		return t.w.WriteByte(hex[c&15])
	}
	_, err := t.w.WriteRune(c)
	return err
}

// plain returns how many of p's first bytes stand for themselves.
func plain(p []byte) int {
	for i, c := range p {
		if c < ' ' || c >= 0x7F || c == '"' || c == '\\' {
			return i
		}
	}
	return len(p)
}
