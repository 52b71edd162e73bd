//go:build linux

package initd

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/internal/environ"
	"github.com/hyperfleet/init/applets/internal/machine"
	"github.com/hyperfleet/init/applets/internal/transport"
)

func TestParseOptions(t *testing.T) {
	unix := func(path string) transport.Address { return transport.Address{Path: path} }
	defaults := func(change func(*options)) options {
		o := options{listen: transport.DefaultAddresses(), onExit: onExitStay, powerOff: machine.Auto}
		change(&o)
		return o
	}
	for _, test := range []struct {
		words string // separated by |
		want  options
		wrong []string
	}{
		{words: "", want: defaults(func(*options) {})},
		{words: "-d", want: defaults(func(o *options) { o.debug, o.agent = true, []string{"-d"} })},
		{words: "--debug", want: defaults(func(o *options) { o.debug, o.agent = true, []string{"-d"} })},
		{words: "--listen|unix:/a|--listen=vsock:7|--listen=unix:/a", want: defaults(func(o *options) {
			o.listen = []transport.Address{unix("/a"), {Port: 7}}
		})},
		{words: "--peers=any|-d", want: defaults(func(o *options) {
			o.debug, o.peers, o.agent = true, "any", []string{"-d", "--peers=any"}
		})},
		{words: "--peers|host", want: defaults(func(o *options) { o.peers, o.agent = "host", []string{"--peers=host"} })},
		{words: "--|a|-d|--|b", want: defaults(func(o *options) {
			o.workload, o.onExit = []string{"a", "-d", "--", "b"}, onExitPowerOff
		})},
		{words: "--on-exit=stay|--|a", want: defaults(func(o *options) { o.workload, o.onExitSet = []string{"a"}, true })},
		{words: "--on-exit|exit", want: defaults(func(o *options) { o.onExit, o.onExitSet = onExitExit, true })},
		{words: "--power-off=restart", want: defaults(func(o *options) { o.powerOff = machine.ByRestart })},
		{words: "quiet|root=/dev/vda|-x|--y=1|single", want: defaults(func(o *options) {
			o.ignored = []string{"quiet", "root=/dev/vda", "-x", "--y=1", "single"}
		})},
		{words: "--peers=|--on-exit=halt|--power-off=x|--listen=unix:a", want: defaults(func(*options) {}), wrong: []string{
			`--peers: "": want host, host+root or any`, `--on-exit: "halt": want`, `--power-off: "x": want`, `--listen: "unix:a": want`}},
		// What looks like a flag is no value, so that it is not lost too.
		{words: "--peers|--on-exit=stay", want: defaults(func(o *options) { o.onExitSet = true }), wrong: []string{"--peers: needs a value"}},
		{words: "--listen", want: defaults(func(*options) {}), wrong: []string{"--listen: needs a value"}},
		{words: "--listen|--|a", want: defaults(func(o *options) { o.workload, o.onExit = []string{"a"}, onExitPowerOff }),
			wrong: []string{"--listen: needs a value"}},
	} {
		var words []string
		if test.words != "" {
			words = strings.Split(test.words, "|")
		}
		got := parseOptions(words)
		if len(got.wrong) != len(test.wrong) {
			t.Errorf("%s: wrong %q, want %q", test.words, got.wrong, test.wrong)
		}
		for i, err := range got.wrong {
			if i < len(test.wrong) && !strings.HasPrefix(err.Error(), test.wrong[i]) {
				t.Errorf("%s: %q, want %q", test.words, err, test.wrong[i])
			}
		}
		got.wrong = nil
		if !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s:\n%+v, want\n%+v", test.words, got, test.want)
		}
	}
}

func TestWorkloadOf(t *testing.T) {
	for cmdline, want := range map[string][]string{
		"console=ttyS0 init=/init\n":    nil,
		"init=/init -- -d\n":            nil,
		"init=/init -- -d --\n":         {},
		"init=/init -- -- CMD a\n":      {"CMD", "a"},
		"init=/init -- -- CMD \"a b\n":  {"CMD", "a b"}, // the quote is not closed
		"init=/init -- -d -- CMD -- b ": {"CMD", "--", "b"},
		"init=/init -- -d \"--\" CMD":   {"CMD"},
		"init=/init -- -d \"-- \" CMD":  nil,
		// As seen in a real boot.
		"console=ttyS0 reboot=t panic=-1 quiet rdinit=/init foo bar=1 -- -d a=b -- CMD \"x y\" hello.world=3 quiet\n": {
			"CMD", "x y", "hello.world=3", "quiet"},
	} {
		if got := workloadOf(cmdline); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", cmdline, got, want)
		}
	}
}

// The expected words are what next_arg in the kernel's lib/cmdline.c makes of them.
func TestSplitCmdline(t *testing.T) {
	for cmdline, want := range map[string][]string{
		"":                     nil,
		" \t\n":                nil,
		"a  b\tc\n":            {"a", "b", "c"},
		`"a b" c`:              {"a b", "c"},
		`a="b c" d`:            {"a=b c", "d"},
		`"a=b c" d`:            {"a=b c", "d"},
		`a" "b`:                {`a" "b`},
		`x={"y":1}`:            {`x={"y":1}`},
		`say="hi" "`:           {"say=hi", ""},
		`"open to the end`:     {"open to the end"},
		`a="open to the end`:   {"a=open to the end"},
		`""`:                   {""},
		`a=""`:                 {"a="},
		`="a b"`:               {`="a b"`},
		"\"two\nlines\"":       {"two\nlines"},
		`a="b"c`:               {`a=b"c`},
		`sh -c "echo 'a  b' "`: {"sh", "-c", "echo 'a  b' "},
	} {
		if got := splitCmdline(cmdline); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", cmdline, got, want)
		}
	}
}

func TestWorkloadEnv(t *testing.T) {
	for _, test := range []struct{ kernel, want []string }{
		{nil, []string{"PATH=" + environ.Path, "HOME=/root", "TERM=linux"}},
		{[]string{"HOME=/", "TERM=linux"}, []string{"PATH=" + environ.Path, "HOME=/root", "TERM=linux"}},
		{[]string{"HOME=/home/a", "TERM=vt100", "A=b=c", "A=d"}, []string{"PATH=" + environ.Path, "HOME=/home/a", "TERM=vt100", "A=d"}},
	} {
		if got := workloadEnv(test.kernel); !slices.Equal(got, test.want) {
			t.Errorf("%q: %q, want %q", test.kernel, got, test.want)
		}
	}
}

func TestLookPath(t *testing.T) {
	if path, err := lookPath("./a/b"); path != "./a/b" || err != nil {
		t.Errorf("%q, %v", path, err)
	}
	if path, err := lookPath("sh"); filepath.Base(path) != "sh" || !filepath.IsAbs(path) || err != nil {
		t.Errorf("%q, %v", path, err)
	}
	for _, name := range []string{"no-such-program", ""} {
		if path, err := lookPath(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: %q, %v", name, path, err)
		}
	}
}

func TestBackoff(t *testing.T) {
	ms := time.Millisecond
	var b backoff
	const served = true
	for i, step := range []struct {
		ran    time.Duration
		served bool
		want   time.Duration
	}{
		{0, false, 0}, {0, false, 10 * ms}, {0, false, 20 * ms}, {0, false, 40 * ms}, {healthy - 1, false, 80 * ms}, {0, false, 160 * ms},
		{0, false, 320 * ms}, {0, false, 640 * ms}, {0, false, 1280 * ms}, {0, false, longestPause}, {0, false, longestPause},
		{0, served, servedPause}, {0, served, servedPause}, {0, false, 2 * servedPause},
		{healthy, served, 0}, {0, served, 10 * ms}, {time.Hour, served, 0}, {time.Hour, served, 0},
	} {
		if got := b.next(step.ran, step.served); got != step.want {
			t.Errorf("run %d, of %v: %v, want %v", i, step.ran, got, step.want)
		}
	}
}

func TestLimited(t *testing.T) {
	failure := errors.New("failure")
	if err := limited(time.Minute, func() error { return failure }); err != failure {
		t.Error(err)
	}
	block := make(chan struct{})
	defer close(block)
	if err := limited(time.Millisecond, func() error { <-block; return nil }); err == nil || !strings.Contains(err.Error(), "hangs") {
		t.Error(err)
	}
}

// Under another number than 1 init does nothing.
func TestNotPID1(t *testing.T) {
	if os.Getpid() == 1 {
		t.Skip("this is process 1")
	}
	for _, test := range []struct {
		args        []string
		status      int
		stdout, err string
	}{
		{[]string{"init"}, 1, "", "init: must be run as PID 1\n"},
		{[]string{"/sbin/init", "6"}, 1, "", "init: must be run as PID 1\n"},
		{[]string{"init", "--version"}, 0, "init ", ""},
		{[]string{"init", "--help"}, 0, "usage: init=/init -- ", ""},
		{[]string{"init", "-h"}, 0, "usage: init=/init -- ", ""},
	} {
		var stdout, stderr strings.Builder
		status := Run(test.args, nil, &stdout, &stderr)
		if status != test.status || !strings.HasPrefix(stdout.String(), test.stdout) || (test.stdout == "") != (stdout.String() == "") || stderr.String() != test.err {
			t.Errorf("%q: %d, %q, %q", test.args, status, stdout.String(), stderr.String())
		}
	}
}
