package vsockclient

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/wire"
)

const watchHelp = `A line an event: its type (create, modify, delete, rename or attrib) and the
name below PATH, "." for PATH itself, with a / behind a directory's; rename has
the old one and the new. "overflow" means that events were lost: look at PATH
anew. On stderr it says when it has begun. It runs until a signal ends it, or
until PATH is deleted.
`

func watchFlags(f *flag.FlagSet, o *options) {
	for _, name := range []string{"r", "recursive"} {
		f.BoolVar(&o.recursive, name, false, "watch the directories below too, new ones included")
	}
	f.Func("e", "tell of `TYPE` only, again for more", func(s string) error {
		if !slices.Contains(wire.WatchTypes(), s) {
			return fmt.Errorf("want %s", strings.Join(wire.WatchTypes(), ", "))
		}
		o.only = append(o.only, s)
		return nil
	})
}

func watch(ctx context.Context, c *call) (int, error) {
	o := client.WatchOptions{Recursive: c.recursive, Events: c.only, Begin: func() {
		fmt.Fprintf(c.stderr, "watching %s\n", printable(c.args[0]))
	}}
	for e, err := range c.quiet.Watch(ctx, c.args[0], o) {
		if err == nil {
			err = c.happened(e)
		}
		if err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// happened prints an event.
func (c *call) happened(e client.WatchEvent) error {
	switch {
	case c.json && e.Overflow:
		return c.line(wire.Watch{Overflow: true})
	case c.json:
		return c.line(wire.WatchEvent{
			Type: e.Type, Name: e.Name, NameBase64: notText(e.Name), From: e.From, FromBase64: notText(e.From), IsDir: e.IsDir,
		})
	case e.Overflow:
		return c.print("overflow\n")
	}
	name := func(s string) string {
		if s == "" {
			s = "."
		}
		if s = printable(s); e.IsDir {
			s += "/"
		}
		return s
	}
	if e.Type == wire.WatchRename {
		return c.print("%-8s  %s -> %s\n", e.Type, name(e.From), name(e.Name))
	}
	return c.print("%-8s  %s\n", e.Type, name(e.Name))
}

// notText is a name of which JSON can't hold every byte, or nil.
func notText(name string) []byte {
	if utf8.ValidString(name) {
		return nil
	}
	return []byte(name)
}

const logsHelp = `What the kernel, init and the agents have logged, in the order of their times,
which are seconds from the guest's start.
`

func logsFlags(f *flag.FlagSet, o *options) {
	f.BoolVar(&o.follow, "f", false, "go on with what comes, until a signal ends it")
	f.DurationVar(&o.since, "since", 0, "leave out what is older than `D`, as 10m")
	f.IntVar(&o.tail, "n", -1, "begin with the last `N` lines (default: the first)")
	sources := []string{wire.LogKernel, wire.LogInit, wire.LogAgent}
	f.Func("source", "of `SOURCE` only: kernel, init or agent; again for more", func(s string) error {
		if !slices.Contains(sources, s) {
			return errors.New("want kernel, init or agent")
		}
		o.only = append(o.only, s)
		return nil
	})
}

func logs(ctx context.Context, c *call) (int, error) {
	o := client.LogOptions{Follow: c.follow, Sources: c.only, Unreadable: func(source, why string) {
		c.complain(fmt.Errorf("logs: %s: %s", source, why))
	}}
	if c.since > 0 {
		now, err := c.quiet.Stats(ctx)
		if err != nil {
			return 0, err
		}
		o.Since = max(time.Duration(now.TimeMS*1e6)-c.since, 0)
	}
	shown := -1.0 // the time of the last line that has been printed
	if c.tail >= 0 {
		o.Follow = false
		var last []wire.LogLine
		for line, err := range c.quiet.Logs(ctx, o) {
			if err != nil {
				return 0, err
			}
			shown = line.TimeMS
			if last = append(last, line); len(last) > c.tail {
				last = last[1:]
			}
		}
		for _, line := range last {
			if err := c.logged(line); err != nil {
				return 0, err
			}
		}
		if !c.follow {
			return 0, nil
		}
		o.Follow, o.Since, o.Unreadable = true, time.Duration(max(shown, 0))*time.Millisecond, nil
	}
	for line, err := range c.quiet.Logs(ctx, o) {
		if err == nil && line.TimeMS > shown {
			err = c.logged(line)
		}
		if err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// logged prints a line of a log, whose message may hold several.
func (c *call) logged(l wire.LogLine) error {
	if c.json {
		return c.line(l)
	}
	for text := range strings.SplitSeq(strings.TrimSuffix(l.Message, "\n"), "\n") {
		if err := c.print("[%12.6f] %s: %s\n", l.TimeMS/1000, printable(l.Source), printable(text)); err != nil {
			return err
		}
	}
	return nil
}
