//go:build linux

// Command guestcheck is the guest's half of the VM test-suite: it is put into
// the machine, runs as the workload of its PID 1, and says on the console which
// checks held. It is also the commands that its checks have run.
package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// self is where the suite puts this program in the guest.
const self = "/usr/bin/guestcheck"

// mark begins the lines that the suite reads.
const mark = "@check@"

// A check is one thing that must hold in the guest. It returns what it
// measured, if anything.
type check struct {
	name string
	run  func() (note string, err error)
}

// sets are the checks by the name that the suite asks for.
func sets() map[string][]check {
	return map[string][]check{
		"boot":   bootChecks(),
		"vsock":  append(vsockChecks(), opChecks()...),
		"local":  append(localChecks(), opChecks()...),
		"init":   initChecks(),
		"disk":   diskChecks(),
		"oom":    oomChecks(),
		"limits": limitChecks(),
		"logs":   logChecks(),
		"stats":  statsChecks(),
		"none":   nil,

		"streams":   streamChecks(),
		"terminals": terminalChecks(),
		"sessions":  sessionChecks(),
		"files":     fileChecks(),
		"trees":     treeChecks(),
		"open":      openChecks(),
		"stubborn":  stubbornChecks(),

		"admission":  admissionChecks(200),
		"strangers":  admissionChecks(10_000),
		"peers-host": peersHostChecks(),
		"peers-any":  peersAnyChecks(),
		"families":   familyChecks(),
		"orphans":    orphanChecks(),
		"traffic":    trafficChecks(),
		"commands":   commandChecks(),
		"clock":      clockChecks(),
		"late":       lateChecks(),
		"stuck":      stuckChecks(),
		"readonly":   readOnlyChecks(),
		"old":        oldChecks(),
		"stack":      stackChecks(),
		"hung":       hungChecks(),
		"writes":     {{"a write load starts", startLoad}},
	}
}

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprintln(stderr, "usage: guestcheck SET[,SET…] ACTION | COMMAND…")
		return 2
	}
	if c, ok := commands()[args[0]]; ok {
		return c(args[1:], stdin, stdout, stderr)
	}
	if args[0] == "port" { // the console is stuck
		port, err := openPort()
		if err != nil {
			fmt.Fprintln(stderr, "guestcheck:", err)
			return 1
		}
		defer port.Close()
		stdout, args = port, args[1:]
	}
	all := sets()
	for _, name := range strings.Split(args[0], ",") {
		set, ok := all[name]
		if !ok {
			fmt.Fprintf(stderr, "guestcheck: no set %q\n", name)
			return 2
		}
		for _, c := range set {
			report(stdout, c)
		}
	}
	fmt.Fprintf(stdout, "%s end\n", mark)
	if len(args) == 1 {
		return 0
	}
	if err := act(stdout, args[1:]); err != nil {
		fmt.Fprintf(stdout, "%s not ok - %s: %v\n", mark, args[1], err)
		return 1
	}
	time.Sleep(time.Hour) // the shutdown ends this
	return 1
}

// report runs a check and says how it went in one line.
func report(w io.Writer, c check) (ok bool) {
	begin := time.Now()
	note, err := c.run()
	took := time.Since(begin).Round(time.Millisecond)
	if note != "" {
		note = " # " + note
	}
	if err != nil {
		text := strings.ReplaceAll(strings.ReplaceAll(err.Error(), "\r", ""), "\n", " | ")
		fmt.Fprintf(w, "%s not ok - %s: %s%s (%v)\n", mark, c.name, text, note, took)
		return false
	}
	fmt.Fprintf(w, "%s ok - %s%s (%v)\n", mark, c.name, note, took)
	return true
}

// A command gets its arguments and returns the exit status.
type command = func(args []string, stdin io.Reader, stdout, stderr io.Writer) int

// commands are what the checks have run, by the agent or as processes to litter with.
func commands() map[string]command {
	all := map[string]command{
		"say": func(a []string, _ io.Reader, out, errs io.Writer) int {
			fmt.Fprint(out, a[0])
			if len(a) > 1 {
				fmt.Fprint(errs, a[1])
			}
			return 0
		},
		"exit": func(a []string, _ io.Reader, _, _ io.Writer) int { return number(a[0]) },
		"cat":  func(_ []string, in io.Reader, out, _ io.Writer) int { io.Copy(out, in); return 0 },
		"args": func(a []string, _ io.Reader, out, _ io.Writer) int { fmt.Fprintf(out, "%q", a); return 0 },
		"env":  func(a []string, _ io.Reader, out, _ io.Writer) int { fmt.Fprint(out, os.Getenv(a[0])); return 0 },
		"pwd":  func(_ []string, _ io.Reader, out, _ io.Writer) int { d, _ := os.Getwd(); fmt.Fprint(out, d); return 0 },
		"bytes": func(a []string, _ io.Reader, out, _ io.Writer) int {
			if len(a) > 1 {
				time.Sleep(time.Duration(number(a[1])) * time.Millisecond)
			}
			out.Write(allBytes(number(a[0])))
			return 0
		},
		"nap": func(a []string, _ io.Reader, _, _ io.Writer) int {
			time.Sleep(time.Duration(number(a[0])) * time.Millisecond)
			return 0
		},
		"litter": litter,
		"load":   load,
		"census": census,
		"host":   host,
		"eat":    eat,
		"bomb":   bomb,
		"die": func([]string, io.Reader, io.Writer, io.Writer) int {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		},
	}
	for _, more := range []map[string]command{strangerCommands(), familyCommands(), shutdownCommands(), streamCommands(), limitCommands()} {
		maps.Copy(all, more)
	}
	return all
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return n
}

// allBytes returns n bytes among which is every value.
func allBytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7)
	}
	return b
}
