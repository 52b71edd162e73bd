//go:build linux

package agent

import (
	"errors"
	"fmt"
	"slices"

	"github.com/hyperfleet/init/applets/internal/handoff"
	"github.com/hyperfleet/init/applets/wire"
)

// A logSource is where lines come from, by its name.
type logSource struct {
	name string
	open func() (logReader, error)
}

// A logReader reads a log from its start.
type logReader interface {
	// next returns a line; ok is false when there is none at the moment.
	next() (line wire.LogLine, ok bool, err error)
	// await returns when there may be more. After close it is an error.
	await() error
	close()
}

// logSources are all of them.
func logSources() []logSource {
	return []logSource{
		{wire.LogKernel, openKernelLog},
		{wire.LogInit, func() (logReader, error) { return openJournal(wire.LogInit, handoff.InitLog) }},
		{wire.LogAgent, func() (logReader, error) { return openJournal(wire.LogAgent, handoff.AgentLog) }},
	}
}

// A mergedLog reads several logs in the order of their times.
type mergedLog struct {
	readers []logReader
	heads   []wire.LogLine // the next line of each
	full    []bool         // whether there is one in heads
	closed  chan struct{}
}

// logs sends the lines of logs, and goes on with those that come if the client
// wants.
func (a *Agent) logs(r *request) error {
	f, err := r.fields.Logs()
	if err != nil {
		return err
	}
	m, header, err := a.openLogs(f.Sources)
	if err != nil {
		return fmt.Errorf("logs: %w", err)
	}
	defer m.close()
	s, err := r.begin(header)
	if err != nil {
		return err
	}
	said, stop := s.until()
	defer stop()
	var end wire.LogsEnd
	var more <-chan struct{}
	if f.Follow {
		more = m.changes()
	}
	for {
		n, err := m.send(s, float64(f.SinceMS))
		end.Lines += n
		if err != nil {
			return err
		}
		if !f.Follow {
			return s.end(end)
		}
		select {
		case <-more:
		case err := <-said:
			if err != nil {
				return err
			}
			return s.end(end)
		case <-a.stopping:
			return errShuttingDown
		}
	}
}

// openLogs opens the logs of those names, or all. That one can't be read is
// told; that none can is an error.
func (a *Agent) openLogs(names []string) (*mergedLog, wire.LogsStarted, error) {
	m := &mergedLog{closed: make(chan struct{})}
	header := wire.LogsStarted{Sources: []string{}}
	var failed error
	for _, source := range a.sources {
		if len(names) > 0 && !slices.Contains(names, source.name) {
			continue
		}
		reader, err := source.open()
		if err != nil {
			failed = errors.Join(failed, err)
			if header.Unreadable == nil {
				header.Unreadable = map[string]string{}
			}
			header.Unreadable[source.name] = err.Error()
			continue
		}
		m.readers = append(m.readers, reader)
		header.Sources = append(header.Sources, source.name)
	}
	if len(m.readers) == 0 {
		return nil, header, failed
	}
	m.heads, m.full = make([]wire.LogLine, len(m.readers)), make([]bool, len(m.readers))
	return m, header, nil
}

func (m *mergedLog) close() {
	close(m.closed)
	for _, r := range m.readers {
		r.close()
	}
}

// changes returns what has a value whenever there may be more lines.
func (m *mergedLog) changes() <-chan struct{} {
	c := make(chan struct{})
	for _, r := range m.readers {
		go func() {
			for r.await() == nil {
				select {
				case c <- struct{}{}:
				case <-m.closed:
					return
				}
			}
		}()
	}
	return c
}

// next returns the line that is the oldest of those that there are.
func (m *mergedLog) next() (line wire.LogLine, ok bool, err error) {
	oldest := -1
	for i, r := range m.readers {
		if !m.full[i] {
			if m.heads[i], m.full[i], err = r.next(); err != nil {
				return line, false, err
			}
		}
		if m.full[i] && (oldest < 0 || m.heads[i].TimeMS < m.heads[oldest].TimeMS) {
			oldest = i
		}
	}
	if oldest < 0 {
		return line, false, nil
	}
	m.full[oldest] = false
	return m.heads[oldest], true, nil
}

// logBatch is how much text goes into one frame, in bytes. Escaped it may be six
// times as much, and no line is longer than maxLogLine: it fits a frame of JSON.
const (
	logBatch   = 6 << 10
	maxLogLine = 4 << 10
)

// send sends all lines that there are.
func (m *mergedLog) send(s *stream, since float64) (sent int64, err error) {
	var batch wire.LogLines
	size := 0
	flush := func() error {
		if len(batch.Lines) == 0 {
			return nil
		}
		err := replying(s.Encode(wire.KindEvent, batch))
		sent += int64(len(batch.Lines))
		batch.Lines, size = batch.Lines[:0], 0
		return err
	}
	for {
		line, ok, err := m.next()
		if err != nil {
			return sent, err
		}
		if !ok {
			return sent, flush()
		}
		if line.TimeMS < since {
			continue
		}
		if len(line.Message) > maxLogLine {
			line.Message = line.Message[:maxLogLine] + "…"
		}
		batch.Lines = append(batch.Lines, line)
		if size += len(line.Message) + logOverhead; size >= logBatch {
			if err := flush(); err != nil {
				return sent, err
			}
		}
	}
}

// logOverhead is about what a line takes beside its message.
const logOverhead = 80
