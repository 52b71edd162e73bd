package client

import (
	"context"
	"iter"

	"github.com/hyperfleet/init/applets/wire"
)

// A WatchEvent is something that happened in the guest.
type WatchEvent struct {
	Type  string // one of wire.WatchTypes, or ""
	Name  string // relative to what is watched, and "" for that itself; may hold any bytes
	From  string // the name before a rename
	IsDir bool
	// Overflow tells that there was more than could be told: what is watched has to
	// be looked at anew. Such an event has nothing else.
	Overflow bool
}

// WatchOptions change what [Client.Watch] does.
type WatchOptions struct {
	Recursive bool     // directories below too, new ones included
	Events    []string // types; all if none is given
	// Begin, if there is one, is called when the guest watches: what happens from
	// then on is told.
	Begin func()
}

// Watch tells what happens to a file or in a directory of the guest, until ctx
// ends, which is an error, or what is watched is gone. It begins when it is
// iterated over.
func (c *Client) Watch(ctx context.Context, path string, o WatchOptions) iter.Seq2[WatchEvent, error] {
	return func(yield func(WatchEvent, error) bool) {
		req := newRequest(wire.OpFileWatch)
		req.string("path", path)
		req.flag("recursive", o.Recursive)
		if len(o.Events) > 0 {
			req.list("events", o.Events)
		}
		s, err := c.stream(ctx, req, nil)
		if err != nil {
			yield(WatchEvent{}, err)
			return
		}
		defer s.close()
		if o.Begin != nil {
			o.Begin()
		}
		for {
			events, more, err := s.nextWatch()
			for _, e := range events {
				if !yield(e, nil) {
					return
				}
			}
			if err != nil {
				yield(WatchEvent{}, err)
			}
			if !more {
				return
			}
		}
	}
}

// nextWatch reads a frame of file_watch.
func (s *stream) nextWatch() (events []WatchEvent, more bool, err error) {
	k, _, err := s.next()
	switch {
	case err != nil:
		return nil, false, err
	case k == wire.KindExit:
		return nil, false, nil
	case k != wire.KindEvent:
		return nil, false, s.wrap(replyError("a frame of kind %d", k))
	}
	var w wire.Watch
	if err := s.Decode(&w); err != nil {
		return nil, false, s.wrap(err)
	}
	for _, e := range w.Events {
		events = append(events, WatchEvent{
			Type:  e.Type,
			Name:  bytesOr(e.NameBase64, e.Name),
			From:  bytesOr(e.FromBase64, e.From),
			IsDir: e.IsDir,
		})
	}
	if w.Overflow {
		events = append(events, WatchEvent{Overflow: true})
	}
	return events, true, nil
}

// bytesOr is a name of which JSON may hold only a likeness.
func bytesOr(raw []byte, text string) string {
	if raw != nil {
		return string(raw)
	}
	return text
}
