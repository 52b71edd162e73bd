//go:build linux

package initd

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hyperfleet/init/applets/internal/machine"
	"github.com/hyperfleet/init/applets/internal/transport"
)

// What becomes of the machine when the workload ends.
const (
	onExitPowerOff = "poweroff"
	onExitReboot   = "reboot"
	onExitStay     = "stay"
	onExitExit     = "exit" // PID 1 exits with the workload's status: for containers
)

// options are what the command line says.
type options struct {
	debug     bool
	listen    []transport.Address
	peers     transport.Policy
	onExit    string
	powerOff  machine.Method
	onExitSet bool
	workload  []string // the main workload's argv
	agent     []string // flags for the agent
	ignored   []string // words that are not for init
	wrong     []error  // flags that are, and make no sense
}

// parseOptions reads the words that the kernel passes to init. They come from a
// kernel command line, which holds words for others too, so an unknown one is
// ignored; and since init can't refuse to start, a wrong one is reported and its
// default holds.
func parseOptions(words []string) options {
	o := options{powerOff: machine.Auto}
	for len(words) > 0 {
		word := words[0]
		words = words[1:]
		if word == "--" {
			o.workload = words
			break
		}
		name, value, hasValue := strings.Cut(word, "=")
		switch name {
		case "-d", "--debug":
			o.debug = true
			continue
		case "--listen", "--peers", "--on-exit", "--power-off":
		default:
			o.ignored = append(o.ignored, word)
			continue
		}
		if !hasValue {
			if len(words) == 0 || strings.HasPrefix(words[0], "--") {
				o.wrong = append(o.wrong, fmt.Errorf("%s: needs a value", name))
				continue
			}
			value, words = words[0], words[1:]
		}
		if err := o.set(name, value); err != nil {
			o.wrong = append(o.wrong, fmt.Errorf("%s: %w", name, err))
		}
	}
	o.complete()
	return o
}

func (o *options) set(name, value string) (err error) {
	switch name {
	case "--listen":
		var a transport.Address
		if a, err = transport.ParseAddress(value); err == nil && !slices.Contains(o.listen, a) {
			o.listen = append(o.listen, a)
		}
	case "--peers":
		var p transport.Policy
		if p, err = transport.ParsePolicy(value); err == nil {
			o.peers = p
		}
	case "--on-exit":
		if !slices.Contains([]string{onExitPowerOff, onExitReboot, onExitStay, onExitExit}, value) {
			return fmt.Errorf("%q: want poweroff, reboot, stay or exit", value)
		}
		o.onExit, o.onExitSet = value, true
	case "--power-off":
		var m machine.Method
		if m, err = machine.ParseMethod(value); err == nil {
			o.powerOff = m
		}
	}
	return err
}

// complete fills in what was not said.
func (o *options) complete() {
	if len(o.listen) == 0 {
		o.listen = transport.DefaultAddresses()
	}
	if o.onExit == "" {
		o.onExit = onExitStay
		if len(o.workload) > 0 {
			o.onExit = onExitPowerOff
		}
	}
	if o.debug {
		o.agent = append(o.agent, "-d")
	}
	if o.peers != "" {
		o.agent = append(o.agent, "--peers="+string(o.peers))
	}
}

// workloadOf returns the words behind the second "--" of a kernel command line.
// The kernel passes init the words behind the first, but stops at the second and
// drops the rest (parse_args in kernel/params.c), so the workload has to be read
// from /proc/cmdline.
func workloadOf(cmdline string) []string {
	words := splitCmdline(strings.TrimSuffix(cmdline, "\n")) // which /proc adds
	for range 2 {
		i := slices.Index(words, "--")
		if i < 0 {
			return nil
		}
		words = words[i+1:]
	}
	return words
}

// splitCmdline splits a kernel command line into words as the kernel does
// (next_arg in lib/cmdline.c): a quoted space does not end a word, and quotes
// vanish where they are around a word or around the value behind its "=".
func splitCmdline(cmdline string) []string {
	var words []string
	for {
		cmdline = strings.TrimLeft(cmdline, spaces)
		if cmdline == "" {
			return words
		}
		end, quoted := len(cmdline), false
		for i := range len(cmdline) {
			if !quoted && strings.IndexByte(spaces, cmdline[i]) >= 0 {
				end = i
				break
			}
			quoted = quoted != (cmdline[i] == '"')
		}
		words = append(words, unquote(cmdline[:end]))
		cmdline = cmdline[end:]
	}
}

const spaces = " \t\n\v\f\r"

// unquote takes off the quotes around a word or around its value. A word's first
// byte is no "=" to the kernel, whatever it is.
func unquote(word string) string {
	word, whole := strings.CutPrefix(word, `"`)
	name, value, quoted := strings.Cut(word[min(1, len(word)):], `="`)
	if quoted = quoted && !strings.Contains(name, "="); quoted {
		word = word[:1] + name + "=" + value
	}
	if whole || quoted {
		word = strings.TrimSuffix(word, `"`)
	}
	return word
}
