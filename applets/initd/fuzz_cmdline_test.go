//go:build linux

package initd

import (
	"slices"
	"strings"
	"testing"
)

// FuzzCmdline: a kernel command line falls into the words that the kernel makes of
// it, and whatever these are, init starts with options that make sense.
func FuzzCmdline(f *testing.F) {
	f.Fuzz(func(t *testing.T, line string) {
		line, _, _ = strings.Cut(line, "\x00") // it ends there for the kernel
		words := splitCmdline(line)
		if want := kernelWords(line); !slices.Equal(words, want) {
			t.Fatalf("%q: %q, the kernel has %q", line, words, want)
		}
		workload := workloadOf(line)
		if !slices.Equal(workload, words[len(words)-len(workload):]) {
			t.Fatalf("%q: %q is not its end", line, workload)
		}
		o := parseOptions(words)
		switch o.onExit {
		case onExitPowerOff, onExitReboot, onExitStay, onExitExit:
		default:
			t.Fatalf("%q: on exit %q", words, o.onExit)
		}
		if len(o.listen) == 0 || o.powerOff == "" || len(o.ignored)+len(o.wrong)+len(o.workload) > len(words) {
			t.Fatalf("%q: %+v", words, o)
		}
	})
}

// kernelWords is next_arg of the kernel's lib/cmdline.c, word for word, and
// repair_env_string of init/main.c, which puts its halves together again. (The
// kernel's isspace takes the byte A0 for a space as well; init does not, as it is
// a part of many letters in UTF-8.)
func kernelWords(line string) (words []string) {
	space := func(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }
	args := strings.TrimLeft(line, spaces)
	for args != "" {
		inQuote, quoted := false, false
		if args[0] == '"' {
			args, inQuote, quoted = args[1:], true, true
		}
		i, equals := 0, 0
		for ; i < len(args); i++ {
			if space(args[i]) && !inQuote {
				break
			}
			if equals == 0 && args[i] == '=' {
				equals = i
			}
			if args[i] == '"' {
				inQuote = !inQuote
			}
		}
		word := args[:i]
		last := func() bool { return strings.HasSuffix(word, `"`) }
		if equals > 0 && strings.HasPrefix(word[equals+1:], `"`) {
			ends := last()
			word = word[:equals+1] + word[equals+2:]
			if ends && last() {
				word = word[:len(word)-1]
			}
			// A NUL stands where the quote was: there is no second one to remove.
			quoted = quoted && !ends
		}
		if quoted && last() {
			word = word[:len(word)-1]
		}
		words = append(words, word)
		args = strings.TrimLeft(args[min(i+1, len(args)):], spaces)
	}
	return words
}
