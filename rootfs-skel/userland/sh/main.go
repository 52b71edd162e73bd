// Command sh is the shell of the userland: mvdan.cc/sh, the interpreter of u-root's
// gosh, with the command line of a POSIX shell. gosh drops the arguments of a script
// and of -c, knows no -e, and does not answer to the name sh, under which others call
// it without a path.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"golang.org/x/term"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// invocation is the command line: sh [-options] [-c COMMAND [NAME] | FILE] [ARGS…].
type invocation struct {
	params      []string // options, then "--", then $1, $2, …
	command     *string
	file        string // $0, and what is read unless there is a command
	interactive bool
}

func parse(args []string) (invocation, error) {
	var inv invocation
	isCommand, fromStdin := false, false
	for len(args) > 0 && len(args[0]) > 1 && strings.ContainsRune("-+", rune(args[0][0])) {
		word := args[0]
		args = args[1:]
		if word == "--" {
			break
		}
		for _, letter := range word[1:] {
			switch letter {
			case 'c':
				isCommand = true
			case 's':
				fromStdin = true
			case 'i':
				inv.interactive = true
			case 'l', 'm', 'h', 'b', 'v': // login and job control: nothing to do
			case 'o':
				if len(args) == 0 {
					return inv, errors.New("-o: an option's name is missing")
				}
				inv.params = append(inv.params, word[:1]+"o", args[0])
				args = args[1:]
			default:
				inv.params = append(inv.params, word[:1]+string(letter))
			}
		}
	}
	if isCommand {
		if len(args) == 0 {
			return inv, errors.New("-c: the command is missing")
		}
		inv.command, args = &args[0], args[1:]
	}
	if len(args) > 0 && !fromStdin {
		inv.file, args = args[0], args[1:]
	}
	inv.params = append(append(inv.params, "--"), args...)
	return inv, nil
}

func run(args []string, stdin *os.File, stdout, stderr io.Writer) int {
	inv, err := parse(args)
	if err != nil {
		fmt.Fprintf(stderr, "sh: %v\n", err)
		return 2
	}
	// As every shell does: the kernel's and a bare environment have none.
	if _, ok := os.LookupEnv("PATH"); !ok {
		os.Setenv("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin")
	}
	runner, err := interp.New(interp.StdIO(stdin, stdout, stderr), interp.Params(inv.params...))
	if err != nil {
		fmt.Fprintf(stderr, "sh: %v\n", err)
		return 2
	}
	switch {
	case inv.command != nil:
		return program(runner, strings.NewReader(*inv.command), inv.file, stderr)
	case inv.file != "":
		f, err := os.Open(inv.file)
		if err != nil {
			fmt.Fprintf(stderr, "sh: %v\n", err)
			return 127
		}
		defer f.Close()
		return program(runner, f, inv.file, stderr)
	case inv.interactive || term.IsTerminal(int(stdin.Fd())):
		return interact(runner, stdin, stderr, prompt())
	}
	return interact(runner, stdin, stderr, "")
}

// program runs a whole text.
func program(runner *interp.Runner, text io.Reader, name string, stderr io.Writer) int {
	prog, err := syntax.NewParser().Parse(text, name)
	if err != nil {
		fmt.Fprintf(stderr, "sh: %v\n", err)
		return 2
	}
	return status(runner.Run(context.Background(), prog), stderr)
}

func prompt() string {
	if os.Geteuid() == 0 {
		return "# "
	}
	return "$ "
}

// interact runs statement by statement, as they come; with a prompt it survives an
// interrupt and a wrong line.
func interact(runner *interp.Runner, stdin io.Reader, stderr io.Writer, prompt string) int {
	if prompt != "" {
		// To be caught, not ignored: children would inherit that.
		interrupts := make(chan os.Signal, 1)
		signal.Notify(interrupts, os.Interrupt)
		defer signal.Stop(interrupts)
	}
	last := 0
	for {
		parser := syntax.NewParser()
		fmt.Fprint(stderr, prompt)
		err := parser.Interactive(stdin, func(stmts []*syntax.Stmt) bool {
			if parser.Incomplete() {
				if prompt != "" {
					fmt.Fprint(stderr, "> ")
				}
				return true
			}
			for _, stmt := range stmts {
				last = status(runner.Run(context.Background(), stmt), stderr)
				if runner.Exited() {
					return false
				}
			}
			fmt.Fprint(stderr, prompt)
			return true
		})
		switch {
		case err == nil || runner.Exited():
			return last
		case prompt == "":
			fmt.Fprintf(stderr, "sh: %v\n", err)
			return 2
		}
		fmt.Fprintf(stderr, "sh: %v\n", err)
		last = 2
	}
}

// status is the exit status of what ran.
func status(err error, stderr io.Writer) int {
	if err == nil {
		return 0
	}
	if code, ok := interp.IsExitStatus(err); ok {
		return int(code)
	}
	fmt.Fprintf(stderr, "sh: %v\n", err)
	return 1
}
