package wire

import "slices"

// Listening is the data of listen's reply, which begins a stream: a [Visit] for
// each connection that comes, until the client sends an end frame or goes away.
type Listening struct {
	Address  string `json:"address"`  // where it listens, with the port that the kernel chose
	Listener string `json:"listener"` // its name, for accept
}

// A Visit is the payload of a KindEvent frame of listen: a connection that waits to
// be accepted.
type Visit struct {
	Connection string `json:"connection"` // its name, for accept
	Peer       string `json:"peer"`       // where it comes from; a Unix socket's is often "" or "@"
}

// Listened is how a stream of listen ends.
type Listened struct {
	Accepted int `json:"accepted"` // connections that were
	Lost     int `json:"lost"`     // those that nobody accepted in time
}

// Accept are the fields of accept.
type Accept struct{ Listener, Connection string }

// Accept reads the fields of accept.
func (f Fields) Accept() (Accept, error) {
	r := fieldReader{f: f}
	a := Accept{Listener: r.string("listener"), Connection: r.string("connection")}
	switch {
	case a.Listener == "":
		r.fail("listener", "is missing")
	case a.Connection == "":
		r.fail("connection", "is missing")
	}
	return a, r.err
}

// Accepted is the data of accept's reply, which begins a stream.
type Accepted struct {
	Peer string `json:"peer"`
}

// The sources of log lines.
const (
	LogKernel = "kernel" // its ring buffer, what programs wrote to /dev/kmsg included
	LogInit   = "init"   // PID 1, where that is this program
	LogAgent  = "agent"  // what agents printed, where PID 1 is this program
)

// Logs are the fields of logs.
type Logs struct {
	Follow  bool     // go on when all there is was sent
	SinceMS int64    // leave out what is older, by the clock of LogLine
	Sources []string // nil is all
}

// Logs reads the fields of logs.
func (f Fields) Logs() (Logs, error) {
	r := fieldReader{f: f}
	l := Logs{Follow: r.bool("follow"), SinceMS: r.int("since_ms", 0, 0, MaxTimeout.Milliseconds()), Sources: r.list("sources")}
	for _, s := range l.Sources {
		if !slices.Contains([]string{LogKernel, LogInit, LogAgent}, s) {
			r.fail("sources", "must be of kernel, init and agent")
		}
	}
	return l, r.err
}

// LogsStarted is the data of logs' reply, which begins a stream of [LogLines].
type LogsStarted struct {
	Sources    []string          `json:"sources"`              // those that lines will come from
	Unreadable map[string]string `json:"unreadable,omitempty"` // why not from the others
}

// LogLines is the payload of a KindEvent frame of logs.
type LogLines struct {
	Lines []LogLine `json:"lines"` // in the order of their times
}

// A LogLine is a line of a log.
type LogLine struct {
	Source string  `json:"source"`
	TimeMS float64 `json:"time_ms"` // after the machine's start, by the kernel's CLOCK_MONOTONIC; in steps of a microsecond
	Level  string  `json:"level"`   // emerg, alert, crit, err, warn, notice, info or debug
	// Message may hold line breaks, and whatever else its author wrote.
	Message string `json:"message"`
}

// LogsEnd is how a stream of logs ends.
type LogsEnd struct {
	Lines int64 `json:"lines"` // that were sent
}

// StatsInterval reads the one field of stats, in milliseconds; 0 is once.
func (f Fields) StatsInterval() (int64, error) {
	r := fieldReader{f: f}
	ms := r.int("interval_ms", 0, 0, 86_400_000)
	if ms > 0 && ms < MinStatsInterval {
		r.fail("interval_ms", "must be 0 or at least %d", MinStatsInterval)
	}
	return ms, r.err
}

// MinStatsInterval is how often stats may be sent, in milliseconds.
const MinStatsInterval = 10
