package vsockclient

import (
	"flag"
	"fmt"
	"io"
	"strings"
)

const targetHelp = `Without --cid, --uds and --unix the environment variable HF_VSOCK says where:
vsock:CID[:PORT], uds:PATH or unix:PATH. Without it, inside a guest, it is the
guest's own agent.
`

const statusHelp = `Exit status: 0 done, 1 failed, 2 wrong usage, 128+N ended by signal N. exec,
shell, attach and session wait have that of the command in the guest: its own,
or 128+N if signal N ended it; 126 if it can't be executed, 127 if it is not
found; and 125 in place of 1. session wait has 124 if its --timeout is over.
`

func usage() string {
	var b strings.Builder
	fmt.Fprintf(&b, "usage: %s [FLAGS] COMMAND [FLAGS] [OPERANDS]\nTalk to the agent of a microVM, from the host or inside it.\n\n", program)
	for _, c := range commands() {
		entry(&b, strings.TrimSpace(c.name+" "+c.operands), c.synopsis, 28)
	}
	b.WriteString("\n")
	flagHelp(&b, flagsOf(nil), 20)
	fmt.Fprintf(&b, "\n%s\n%s\n%s COMMAND --help tells more. Flags of a letter can be joined: -it.\n", targetHelp, statusHelp, program)
	return b.String()
}

func (cmd *command) help() string {
	var b strings.Builder
	operands := ""
	if cmd.operands != "" {
		operands = " " + cmd.operands
	}
	fmt.Fprintf(&b, "usage: %s %s [FLAGS]%s\n%s%s.\n\n", program, cmd.name, operands,
		strings.ToUpper(cmd.synopsis[:1]), cmd.synopsis[1:])
	general := flagsOf(nil)
	own := flagsOf(cmd)
	flagHelp(&b, without(own, general), 20)
	if cmd.details != "" {
		b.WriteString("\n" + cmd.details)
	}
	b.WriteString("\n")
	flagHelp(&b, general, 20)
	b.WriteString("\n" + targetHelp)
	return b.String()
}

// flagsOf returns the flags that go before a command (cmd is nil), or after it.
func flagsOf(cmd *command) []*flag.Flag {
	var o options
	if cmd != nil {
		o.timeout = cmd.limit
	}
	var all []*flag.Flag
	o.flags(cmd).VisitAll(func(f *flag.Flag) { all = append(all, f) })
	return all
}

// without returns the flags of which others has none of that name.
func without(flags, others []*flag.Flag) []*flag.Flag {
	names := map[string]bool{}
	for _, f := range others {
		names[f.Name] = true
	}
	var rest []*flag.Flag
	for _, f := range flags {
		if !names[f.Name] {
			rest = append(rest, f)
		}
	}
	return rest
}

// dashed is a flag's name as the help has it.
func dashed(f *flag.Flag) string {
	if len(f.Name) == 1 {
		return "-" + f.Name
	}
	return "--" + f.Name
}

// takesValue tells whether a flag needs a word behind it.
func takesValue(f *flag.Flag) bool {
	b, ok := f.Value.(interface{ IsBoolFlag() bool })
	return !ok || !b.IsBoolFlag()
}

// describe splits a flag's usage into the name of its value, which stands in
// backquotes, and the text.
func describe(f *flag.Flag) (value, text string) {
	value, text = flag.UnquoteUsage(f)
	if !takesValue(f) {
		value = ""
	}
	return value, text
}

func flagHelp(w io.Writer, flags []*flag.Flag, indent int) {
	for _, f := range flags {
		value, text := describe(f)
		entry(w, strings.TrimSpace(dashed(f)+" "+value), text, indent)
	}
}

const helpColumns = 80

// entry writes a name and its text, in lines of up to 80 columns.
func entry(w io.Writer, name, text string, indent int) {
	line := fmt.Sprintf("  %-*s", indent-2, name)
	if len([]rune(name)) > indent-4 {
		fmt.Fprintln(w, line)
		line = strings.Repeat(" ", indent)
	}
	for _, word := range strings.Fields(text) {
		if len([]rune(line))+1+len([]rune(word)) > helpColumns {
			fmt.Fprintln(w, strings.TrimRight(line, " "))
			line = strings.Repeat(" ", indent)
		}
		if !strings.HasSuffix(line, " ") {
			line += " "
		}
		line += word
	}
	fmt.Fprintln(w, strings.TrimRight(line, " "))
}
