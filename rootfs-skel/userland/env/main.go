// Command env prints its environment, or runs a command in a changed one; u-root's
// core has printenv only.
package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run is env [-i] [-u NAME]… [NAME=VALUE]… [COMMAND [ARGS…]].
func run(args []string, stdout, stderr io.Writer) int {
options:
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		switch {
		case args[0] == "--":
			args = args[1:]
			break options
		case args[0] == "-i" || args[0] == "-":
			os.Clearenv()
		case args[0] == "-u" && len(args) > 1:
			os.Unsetenv(args[1])
			args = args[1:]
		default:
			fmt.Fprintf(stderr, "env: %s: want -i or -u NAME\n", args[0])
			return 125
		}
		args = args[1:]
	}
	for len(args) > 0 && strings.Contains(args[0], "=") {
		name, value, _ := strings.Cut(args[0], "=")
		if err := os.Setenv(name, value); err != nil {
			fmt.Fprintf(stderr, "env: %s: %v\n", args[0], err)
			return 125
		}
		args = args[1:]
	}
	if len(args) == 0 {
		for _, v := range os.Environ() {
			fmt.Fprintln(stdout, v)
		}
		return 0
	}
	environ := os.Environ()
	if _, ok := os.LookupEnv("PATH"); !ok {
		// As execvp does; the command's environment stays without.
		os.Setenv("PATH", "/bin:/usr/bin")
	}
	p, err := exec.LookPath(args[0])
	if err == nil {
		err = syscall.Exec(p, args, environ)
	}
	fmt.Fprintf(stderr, "env: %s: %v\n", args[0], err)
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return 127
	}
	return 126
}
