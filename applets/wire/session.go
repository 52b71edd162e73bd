package wire

import (
	"math"
	"time"
)

const (
	// DefaultRing and MaxRing are how much of a session's output is kept, in bytes.
	DefaultRing = 1 << 20
	MaxRing     = 16 << 20
)

// Attach are the fields of session_attach.
type Attach struct {
	Session string
	// Offset is where in the session's output to begin, in bytes of stdout and
	// stderr together.
	Offset int64
	// Tail, if not negative, is how much of the output so far to begin with, in
	// bytes, instead.
	Tail int64
}

// session reads the field that names a session.
func (r *fieldReader) session() string {
	id := r.string("session")
	if id == "" {
		r.fail("session", "is missing")
	}
	return id
}

// Attach reads the fields of session_attach.
func (f Fields) Attach() (Attach, error) {
	r := fieldReader{f: f}
	a := Attach{
		Session: r.session(),
		Offset:  r.int("offset", 0, 0, math.MaxInt64),
		Tail:    r.int("tail", -1, 0, math.MaxInt64),
	}
	if r.get("offset") != nil && a.Tail >= 0 {
		r.fail("tail", "can't be given beside offset")
	}
	return a, r.err
}

// Session reads the one field of session_remove.
func (f Fields) Session() (string, error) {
	r := fieldReader{f: f}
	return r.session(), r.err
}

// SessionSignal reads the fields of session_signal.
func (f Fields) SessionSignal() (session string, signal int, err error) {
	r := fieldReader{f: f}
	session, signal = r.session(), int(r.int("signal", 15, 1, 64))
	return session, signal, r.err
}

// SessionWait reads the fields of session_wait. A timeout of 0 is none.
func (f Fields) SessionWait() (session string, timeout time.Duration, err error) {
	r := fieldReader{f: f}
	session = r.session()
	timeout = time.Duration(r.int("timeout", 0, 0, MaxTimeout.Milliseconds())) * time.Millisecond
	return session, timeout, r.err
}

// Attached is the data of session_attach's reply.
type Attached struct {
	PID     int    `json:"pid"`
	Session string `json:"session"`
	TTY     bool   `json:"tty"`
	Offset  int64  `json:"offset"` // of the first byte that will come, gaps not counted
}

// A SessionInfo is one row of session_list.
type SessionInfo struct {
	Session  string    `json:"session"`
	PID      int       `json:"pid"`
	Cmd      []string  `json:"cmd"`
	TTY      bool      `json:"tty"`
	Started  string    `json:"started"`  // UTC, RFC 3339 with milliseconds
	Attached int       `json:"attached"` // clients
	From     int64     `json:"from"`     // offset of the first byte of output that is kept
	To       int64     `json:"to"`       // offset behind the last
	Exit     *ExecExit `json:"exit"`     // null while it runs
}

// A Gap is the payload of a KindEvent frame of a session: output that is not kept
// any more.
type Gap struct {
	Gap struct {
		From int64 `json:"from"`
		To   int64 `json:"to"`
	} `json:"gap"`
}

// A Process is one row of ps.
type Process struct {
	PID     int      `json:"pid"`
	PPID    int      `json:"ppid"`
	UID     uint32   `json:"uid"` // effective
	Name    string   `json:"name"`
	State   string   `json:"state"` // a letter, as in proc_pid_stat(5)
	Threads int      `json:"threads"`
	CPUMS   int64    `json:"cpu_ms"` // user and system
	RSS     int64    `json:"rss"`    // bytes
	Age     int64    `json:"age_ms"`
	Cmd     []string `json:"cmd"` // empty for a thread of the kernel
}
