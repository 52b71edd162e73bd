// Package applets is the multicall binary: one program that is PID 1, the agent
// that the host talks to, the in-guest power commands and the client, chosen by
// the name it is started under.
package applets

import (
	"fmt"
	"io"
	"os"
	"path"

	"github.com/hyperfleet/init/applets/internal/version"
	"github.com/hyperfleet/init/applets/vsockclient"
)

// runner is what an applet's package provides. args[0] is the applet's name;
// the result is the exit status.
type runner func(args []string, stdin io.Reader, stdout, stderr io.Writer) int

// An applet is one program of the binary.
type applet struct {
	name     string
	synopsis string
	run      runner
	// link is where a root filesystem links the applet to the binary; empty
	// for one that is not linked.
	link string
}

// client is the applet of every operating system; the Linux table adds the ones
// that need its kernel.
func client() applet {
	return applet{"hf-vsock-client", "talk to the agent of a microVM, from the host or inside it", vsockclient.Run, "/usr/bin/hf-vsock-client"}
}

// find returns the applet of that name.
func find(name string) (applet, bool) {
	for _, a := range table() {
		if a.name == name {
			return a, true
		}
	}
	return applet{}, false
}

// choose is the dispatch decision: PID 1 is init whatever its name; otherwise
// the name it was started under decides, otherwise its first argument.
// ok is false when none names an applet; rest[0] is then the program's name.
func choose(pid int, args []string) (a applet, rest []string, ok bool) {
	if pid == 1 {
		if a, ok = find("init"); ok {
			return a, args, true
		}
	}
	if len(args) > 0 {
		if a, ok = find(path.Base(args[0])); ok {
			return a, args, true
		}
	}
	if len(args) > 1 {
		if a, ok = find(args[1]); ok {
			return a, args[1:], true
		}
	}
	return applet{}, args, false
}

// Main runs the applet that the process was started as and returns its exit
// status.
func Main() int {
	return run(os.Getpid(), os.Args, os.Stdin, os.Stdout, os.Stderr)
}

func run(pid int, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a, rest, ok := choose(pid, args)
	switch {
	case ok && pid != 1 && len(rest) == 2 && rest[1] == "--version":
		fmt.Fprintf(stdout, "%s %s\n", a.name, version.String())
		return 0
	case ok:
		return a.run(rest, stdin, stdout, stderr)
	case len(args) == 2 && args[1] == "--version":
		fmt.Fprintf(stdout, "hf %s\n", version.String())
		return 0
	case len(args) > 1 && args[1] != "-h" && args[1] != "--help":
		fmt.Fprintf(stderr, "hf: %s: no such applet (hf --help lists them)\n", args[1])
		return 2
	}
	usage(stdout)
	return 0
}

func usage(w io.Writer) {
	fmt.Fprintf(w, "hf %s: usage: hf APPLET [ARGS…], or link an applet's name to this binary\n", version.String())
	for _, a := range table() {
		fmt.Fprintf(w, "  %-16s %s\n", a.name, a.synopsis)
	}
}
