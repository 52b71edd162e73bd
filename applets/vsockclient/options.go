package vsockclient

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/internal/transport"
)

// options are the values of all flags.
type options struct {
	cid       string
	uds, unix string
	port      string
	json      bool
	version   bool
	timeout   time.Duration
	timed     bool // --timeout was given

	mode   *fs.FileMode // write, mkdir
	append bool         // write, tee

	env        []string // exec
	dir, user  string
	input, tty bool
	maxOutput  int64
	detach     bool
	keep       bool
	keys       []byte // that detach
	exec       client.ExecOptions

	offset    int64 // attach, as client.Attachment has it
	signal    int   // session kill
	recursive bool  // cp, ls, rm, watch
	force     bool  // rm
	preserve  bool  // cp
	resume    bool
	verbose   bool
	long      bool // ls
	parents   bool // mkdir
	noReplace bool // mv

	only   []string // watch: types of events; logs: sources
	follow bool     // logs
	since  time.Duration
	tail   int // logs: lines; -1 is all
	watch  interval
}

// flags are those before a command (cmd is nil) or after it, where the former are
// understood too. Their usage is what --help prints.
func (o *options) flags(cmd *command) *flag.FlagSet {
	f := flag.NewFlagSet(program, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&o.cid, "cid", o.cid, "the VM with this vsock context ID, `N` (Linux)")
	f.StringVar(&o.uds, "uds", o.uds, "the VM with the Unix socket `PATH` as its vsock device (Firecracker, Cloud Hypervisor)")
	f.StringVar(&o.unix, "unix", o.unix, "an agent that listens on the Unix socket `PATH`")
	f.StringVar(&o.port, "port", o.port, "the agent's vsock port `N` (default 52)")
	f.BoolVar(&o.json, "json", o.json, "print JSON alone: the reply of the agent as it comes, or a line for each thing there is to tell; a failure is a line too (not for shell and proxy, which pass bytes on)")
	f.BoolVar(&o.version, "version", o.version, "print the client's version")
	if cmd == nil {
		return f
	}
	if cmd.flags != nil {
		cmd.flags(f, o)
	}
	if !cmd.times && !cmd.local {
		limit := "for ever"
		if cmd.limit > 0 {
			limit = cmd.limit.String()
		}
		f.DurationVar(&o.timeout, "timeout", o.timeout, "wait for the end of it for `D` (default "+limit+")")
	}
	return f
}

// parse reads the flags before or after a command and returns what follows them.
func (o *options) parse(args []string, cmd *command) ([]string, error) {
	f := o.flags(cmd)
	if err := f.Parse(split(f, args)); err != nil {
		return nil, err
	}
	// --uds "$SOCKET" with nothing in it must not mean another VM.
	var empty error
	f.Visit(func(given *flag.Flag) {
		o.timed = o.timed || given.Name == "timeout"
		if slices.Contains([]string{"cid", "uds", "unix", "port"}, given.Name) && given.Value.String() == "" {
			empty = fmt.Errorf("--%s is empty", given.Name)
		}
	})
	if empty != nil {
		return nil, empty
	}
	if o.timeout < 0 {
		return nil, errors.New("--timeout must not be negative")
	}
	if o.exec.Grace < 0 {
		return nil, errors.New("--grace must not be negative")
	}
	return f.Args(), nil
}

// split makes -i -t of -it: of the flags only, not of what follows them.
func split(f *flag.FlagSet, args []string) []string {
	var words []string
	for len(args) > 0 {
		word := args[0]
		if len(word) < 2 || word[0] != '-' || word == "--" {
			break
		}
		args = args[1:]
		name, _, hasValue := strings.Cut(strings.TrimPrefix(word[1:], "-"), "=")
		given := f.Lookup(name)
		switch {
		case given == nil && joined(f, word):
			for _, letter := range word[1:] {
				words = append(words, "-"+string(letter))
			}
			continue
		case given != nil && takesValue(given) && !hasValue && len(args) > 0:
			words = append(words, word, args[0])
			args = args[1:]
			continue
		}
		words = append(words, word)
	}
	return append(words, args...)
}

// joined tells whether a word is several flags of one letter each.
func joined(f *flag.FlagSet, word string) bool {
	for _, letter := range word[1:] {
		if one := f.Lookup(string(letter)); one == nil || takesValue(one) {
			return false
		}
	}
	return true
}

// target is where the flags, or else the environment, say that the agent is.
func (o *options) target() (client.Target, error) {
	t, err := o.explicit()
	if err != nil {
		return t, err
	}
	if t == (client.Target{}) {
		if t, err = client.DefaultTarget(); err != nil {
			return t, err
		}
	}
	if o.port == "" {
		return t, nil
	}
	if t.Port == 0 {
		return t, fmt.Errorf("--port: %s has no ports", t)
	}
	// ParseTarget knows what a port may be.
	p, err := client.ParseTarget("vsock:0:" + o.port)
	if err != nil {
		return t, fmt.Errorf("--port: %q is not the number of a port", o.port)
	}
	if t.Kind == transport.Guest && t.Port != p.Port {
		// The local socket is that of the agent on its own port, not of this one.
		t = client.Vsock(transport.LocalCID, p.Port)
	}
	t.Port = p.Port
	return t, nil
}

// explicit is the target of the flags, or none.
func (o *options) explicit() (client.Target, error) {
	var target client.Target
	given := 0
	for _, way := range []struct{ flag, network, value string }{
		{"--cid", "vsock:", o.cid},
		{"--uds", "uds:", o.uds},
		{"--unix", "unix:", o.unix},
	} {
		if way.value == "" {
			continue
		}
		if given++; given > 1 {
			return target, errors.New("only one of --cid, --uds and --unix can be given")
		}
		var err error
		if way.flag == "--cid" && strings.Contains(way.value, ":") {
			return target, fmt.Errorf("--cid: %q is not a number", way.value)
		}
		if target, err = client.ParseTarget(way.network + way.value); err != nil {
			return target, fmt.Errorf("%s: %w", way.flag, err)
		}
	}
	return target, nil
}

func modeFlag(f *flag.FlagSet, o *options, name, fallback string) {
	f.Func(name, "`OCTAL` permission bits (default: "+fallback+")", func(s string) error {
		n, err := strconv.ParseUint(s, 8, 12)
		if err != nil {
			return errors.New("want octal permission bits, as 0755")
		}
		mode := fs.FileMode(n & 0o777)
		for i, special := range []fs.FileMode{fs.ModeSticky, fs.ModeSetgid, fs.ModeSetuid} {
			if n&(0o1000<<i) != 0 {
				mode |= special
			}
		}
		o.mode = &mode
		return nil
	})
}

func writeFlags(f *flag.FlagSet, o *options) {
	f.BoolVar(&o.append, "append", false, "add to the file instead of replacing it")
	modeFlag(f, o, "mode", "those of the file that is replaced, 0644 for a new one")
}

// commandFlags are of a command in the guest, whichever way it is started.
func commandFlags(f *flag.FlagSet, o *options) {
	f.Func("e", "set an environment variable to `NAME=VALUE`, again for more; -e NAME passes the client's on", func(s string) error {
		name, _, ok := strings.Cut(s, "=")
		if name == "" {
			return errors.New("want NAME=VALUE, or the NAME of one to pass on")
		}
		if value, has := os.LookupEnv(name); !ok && has {
			s += "=" + value
		} else if !ok {
			return nil
		}
		o.env = append(o.env, s)
		return nil
	})
	f.Func("u", "run it as `USER[:GROUP]` (default root)", func(s string) error {
		if s == "" { // a variable that is not set
			return errors.New("want a user")
		}
		o.user = s
		return nil
	})
	f.BoolVar(&o.keep, "keep", false, "let it go on as a session if the client goes away: attach comes back to it")
	keyFlag(f, o)
}

func execFlags(f *flag.FlagSet, o *options) {
	commandFlags(f, o)
	f.StringVar(&o.dir, "w", "", "run it in `DIR` (default /)")
	f.BoolVar(&o.input, "i", false, "give it the client's stdin as it comes, to its end (default: no input)")
	f.BoolVar(&o.tty, "t", false, "give it a terminal, of the size of the client's")
	f.BoolVar(&o.detach, "d", false, "start it as a session, print the session's name, and leave")
	f.DurationVar(&o.timeout, "timeout", 0, "kill the command, and all that it started, after `D` (default: never; 30s with --json or --max-output, where 0 is never)")
	limitFlags(f, o)
	f.Func("max-output", "keep `N` bytes of each of stdout and stderr, and print them when it has ended", func(s string) error {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n <= 0 {
			return errors.New("want a number of bytes above 0")
		}
		o.maxOutput = n
		return nil
	})
}

// keyFlag is for what leaves a session that it is attached to.
func keyFlag(f *flag.FlagSet, o *options) {
	o.keys, _ = parseKeys("ctrl-p,ctrl-q")
	f.Func("detach-keys", "the `KEYS` that leave a session which has a terminal, or none (default ctrl-p,ctrl-q)", func(s string) (err error) {
		o.keys, err = parseKeys(s)
		return err
	})
}

// parseKeys reads what docker takes for --detach-keys: characters and ctrl-x, with
// commas between them.
func parseKeys(s string) ([]byte, error) {
	if s == "none" || s == "" {
		return nil, nil
	}
	var keys []byte
	for word := range strings.SplitSeq(s, ",") {
		letter, ctrl := strings.CutPrefix(word, "ctrl-")
		if len(letter) != 1 || ctrl && !strings.Contains("abcdefghijklmnopqrstuvwxyz@[\\]^_", letter) {
			return nil, errors.New("want keys as in ctrl-p,ctrl-q, or none")
		}
		if ctrl {
			letter = string(letter[0] & 0x1F)
		}
		keys = append(keys, letter[0])
	}
	return keys, nil
}
