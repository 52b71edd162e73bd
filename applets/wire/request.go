package wire

import (
	"math"
	"strconv"
	"time"
)

// Header is what every request may say.
type Header struct {
	Operation string
	KeepAlive bool // keep the connection for another request after the reply
}

// Header reads the fields that every request may have.
func (f Fields) Header() (Header, error) {
	r := fieldReader{f: f}
	h := Header{Operation: r.string("operation"), KeepAlive: r.bool("keep_alive")}
	if r.err == nil && r.get("operation") == nil {
		r.fail("operation", "is missing")
	}
	return h, r.err
}

// Path reads the one field of file_read, file_stat and file_delete: the
// absolute path.
func (f Fields) Path() (string, error) {
	r := fieldReader{f: f}
	return r.path("path", true), r.err
}

// FileWrite are the fields of file_write. The content itself is a string that a
// Sink takes, at the path "content".
type FileWrite struct {
	Path string
	// Mode are the permission bits, suid, sgid and sticky included, or -1:
	// keep those of the file that is replaced, 0644 for a new one.
	Mode int
	// Append adds to the file instead of replacing it.
	Append bool
}

// FileWrite reads the fields of file_write.
func (f Fields) FileWrite() (FileWrite, error) {
	r := fieldReader{f: f}
	w := FileWrite{Path: r.path("path", true), Mode: r.mode("mode"), Append: r.bool("append")}
	switch v := r.get("content"); {
	case v == nil:
		r.fail("content", "is missing")
	case v[0] != '"':
		r.fail("content", "must be a string")
	}
	return w, r.err
}

// mode reads permission bits as file_stat gives them: octal digits in a string.
func (r *fieldReader) mode(name string) int {
	if r.get(name) == nil {
		return -1
	}
	n, err := strconv.ParseUint(r.string(name), 8, 32)
	if err != nil || n > 0o7777 {
		r.fail(name, `must be octal permission bits in a string, such as "644"`)
	}
	return int(n)
}

// Exec are the fields of exec. Input for the command is a string that a Sink
// takes, at the path "stdin".
type Exec struct {
	Cmd     []string      // the command and its arguments; no shell is involved
	Timeout time.Duration // after which all it started is killed; 0 is never
	Env     []string      // name=value, added to the default environment
	Cwd     string        // directory to start in; "" is /
	User    string        // name or uid, with an optional :group; "" is root
	Groups  []string      // supplementary groups, names or gids; nil is the user's
	Umask   *uint32       // nil is 022
	Grace   time.Duration // at the timeout, between TERM and KILL
	Limits
	// MaxOutput is how many bytes of stdout, and of stderr, are kept.
	MaxOutput int64
	HasStdin  bool // otherwise its input is /dev/null

	Stream     bool   // frames, instead of one reply at its end
	TTY        bool   // in a stream: on a terminal of its own
	Rows, Cols uint16 // of that terminal

	Detach bool  // as a session, which outlives its client
	Ring   int64 // bytes of a session's output that are kept
}

// Exec reads the fields of exec; maxOutput is the most that max_output may say.
func (f Fields) Exec(maxOutput int64) (Exec, error) {
	r := fieldReader{f: f}
	stream, detach := r.bool("stream"), r.bool("detach")
	timeout := DefaultTimeout
	if stream || detach {
		timeout = 0
	}
	e := Exec{
		Cmd:       r.list("cmd"),
		Timeout:   time.Duration(r.int("timeout", timeout.Milliseconds(), 0, MaxTimeout.Milliseconds())) * time.Millisecond,
		Env:       r.env("env"),
		Cwd:       r.path("cwd", false),
		User:      r.string("user"),
		Groups:    r.groups(),
		Umask:     r.umask(),
		Grace:     time.Duration(r.int("grace", 0, 0, MaxTimeout.Milliseconds())) * time.Millisecond,
		Limits:    r.limits(),
		MaxOutput: r.int("max_output", min(DefaultMaxOutput, maxOutput), 0, maxOutput),
		Stream:    stream,
		TTY:       r.bool("tty"),
		Rows:      uint16(r.int("rows", 0, 0, math.MaxUint16)),
		Cols:      uint16(r.int("cols", 0, 0, math.MaxUint16)),
		Detach:    detach,
		Ring:      r.int("ring", 0, 1, MaxRing),
	}
	switch {
	case r.get("cmd") == nil:
		r.fail("cmd", "is missing")
	case len(e.Cmd) == 0 || e.Cmd[0] == "":
		r.fail("cmd", "must name a command")
	}
	if e.User == "" && r.get("user") != nil { // somebody's variable that is not set
		r.fail("user", "must not be empty")
	}
	if v := r.get("stdin"); v != nil {
		e.HasStdin = true
		if v[0] != '"' {
			r.fail("stdin", "must be a string")
		}
	}
	if detach && e.Ring == 0 {
		e.Ring = DefaultRing
	}
	switch {
	case stream && e.HasStdin:
		r.fail("stdin", "comes in frames, where stream is true")
	case e.TTY && e.HasStdin:
		r.fail("stdin", "comes from who attaches, where tty is true")
	case e.TTY && !stream && !detach:
		r.fail("tty", "needs stream or detach to be true")
	}
	return e, r.err
}
