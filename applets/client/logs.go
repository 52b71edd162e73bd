package client

import (
	"context"
	"io"
	"iter"
	"time"

	"github.com/hyperfleet/init/applets/wire"
)

// LogOptions say which lines of the guest's logs are wanted; the zero is all there
// are.
type LogOptions struct {
	Follow  bool          // go on with the lines that come, until the context ends
	Since   time.Duration // after the machine's start; what is older is left out
	Sources []string      // of [wire.LogKernel], [wire.LogInit] and [wire.LogAgent]; empty is all

	// Unreadable, if not nil, is told before the first line of a source that there
	// is none from, and why. That there is none at all is an error.
	Unreadable func(source, why string)
}

// Logs returns the lines of the guest's logs, in the order of their times. An
// error is the last of the sequence.
//
// What the lines hold is the guest's: it may be made to mislead a terminal.
func (c *Client) Logs(ctx context.Context, o LogOptions) iter.Seq2[wire.LogLine, error] {
	return func(yield func(wire.LogLine, error) bool) {
		req := newRequest(wire.OpLogs)
		req.name("follow")
		req.json(o.Follow)
		if o.Since > 0 {
			req.name("since_ms")
			req.json(o.Since.Milliseconds())
		}
		if len(o.Sources) > 0 {
			req.list("sources", o.Sources)
		}
		var header wire.LogsStarted
		s, err := c.stream(ctx, req, &header)
		if err != nil {
			yield(wire.LogLine{}, err)
			return
		}
		defer s.close()
		if o.Unreadable != nil {
			for source, why := range header.Unreadable {
				o.Unreadable(source, why)
			}
		}
		for {
			var batch wire.LogLines
			switch err := s.event(&batch); {
			case err == io.EOF:
				return
			case err != nil:
				yield(wire.LogLine{}, err)
				return
			}
			for _, line := range batch.Lines {
				if !yield(line, nil) {
					return
				}
			}
		}
	}
}

// event decodes the next event; io.EOF stands for the result, which ends them.
func (s *stream) event(v any) error {
	k, _, err := s.next()
	switch {
	case err != nil:
		return err
	case k == wire.KindExit:
		return io.EOF
	case k != wire.KindEvent:
		return s.wrap(replyError("a frame of kind %d", k))
	}
	if err := s.Decode(v); err != nil {
		return s.wrap(err)
	}
	return nil
}

// Stats returns what the kernel counts in the guest, and the agent in itself.
func (c *Client) Stats(ctx context.Context) (*wire.Stats, error) {
	st := new(wire.Stats)
	if err := c.call(ctx, newRequest(wire.OpStats), nil, st); err != nil {
		return nil, err
	}
	return st, nil
}

// StatsEvery returns [Client.Stats] at once and then one each interval, until the
// context ends. An error is the last of the sequence.
func (c *Client) StatsEvery(ctx context.Context, interval time.Duration) iter.Seq2[*wire.Stats, error] {
	return func(yield func(*wire.Stats, error) bool) {
		req := newRequest(wire.OpStats)
		req.name("interval_ms")
		req.json(max(interval.Milliseconds(), wire.MinStatsInterval))
		s, err := c.stream(ctx, req, nil)
		if err != nil {
			yield(nil, err)
			return
		}
		defer s.close()
		for {
			st := new(wire.Stats)
			switch err := s.event(st); {
			case err == io.EOF:
				return
			case err != nil:
				yield(nil, err)
				return
			case !yield(st, nil):
				return
			}
		}
	}
}
