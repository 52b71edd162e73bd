package main

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	"github.com/hyperfleet/init/cmd/internal/vm"
)

// A step is one call of hf-vsock-client and what must come back.
type step struct {
	says   string   // what it shows
	args   []string // of hf-vsock-client
	stdin  string
	status int
	check  func(out string) error
}

const demoFile, demoText = "/tmp/greeting", "hello from outside\n"

const demoDir, demoSum = "/tmp/demo", "95997ba35cec0d39645fd0b25c66a63a74c9f3b45516beeccc603685af6e9dfe"

// steps calls the operations of the protocol that one client alone can show, in an order
// in which each depends on the one before.
func steps() []step {
	return []step{
		{says: "ping", args: []string{"--json", "ping"}, check: data("pong", true)},
		{says: "info", args: []string{"info"}, check: match(`(?m)^agent .*\n^protocol +1:`)},
		{says: "write a file", args: []string{"write", demoFile}, stdin: demoText},
		{says: "stat it", args: []string{"--json", "stat", demoFile}, check: data("size", float64(len(demoText)))},
		{says: "read it", args: []string{"read", demoFile}, check: equal(demoText)},
		{says: "run a command", args: []string{"exec", "--", "uname", "-s", "-r", "-m"}, check: match(`^Linux \S+ \S+\n$`)},
		{says: "its status is kept", args: []string{"exec", "--", "sh", "-c", "echo out; exit 3"}, status: 3, check: equal("out\n")},
		{says: "its whole answer", args: []string{"--json", "exec", "--", "echo", "hello", "$HOME;"}, check: data("stdout", "hello $HOME;\n")},
		{says: "stream through a command", args: []string{"exec", "-i", "--", "cat"}, stdin: "as it comes\n", check: equal("as it comes\n")},
		{says: "start a session", args: []string{"exec", "-d", "--", "sh", "-c", "echo working; exit 4"}, check: equal("1\n")},
		{says: "come back to it", args: []string{"attach", "1"}, status: 4, check: equal("working\n")},
		{says: "copy a file out", args: []string{"cp", "vm:" + demoFile, "-"}, check: match("^" + demoText + "[0-9a-f]{64}  ")},
		{says: "make a directory", args: []string{"mkdir", demoDir}},
		{says: "copy a file in", args: []string{"cp", "-", "vm:" + demoDir + "/in"}, stdin: demoText},
		{says: "copy it inside", args: []string{"cp", "vm:" + demoDir + "/in", "vm:" + demoDir + "/copy"}},
		{says: "move it", args: []string{"mv", demoDir + "/copy", demoDir + "/moved"}},
		{says: "list them", args: []string{"ls", demoDir}, check: equal("in\nmoved\n")},
		{says: "their sums", args: []string{"hash", demoDir + "/in", demoDir + "/moved"}, check: match("^" + demoSum + "  .*/in\n" + demoSum + "  .*/moved\n$")},
		{says: "remove all of it", args: []string{"rm", "-r", demoDir}},
		{says: "its sessions", args: []string{"sessions"}, check: match(`echo working`)},
		{says: "its log", args: []string{"logs", "--source", "init", "-n", "1"}, check: match(`(?m)^\[ *[0-9.]+\] init: `)},
		{says: "its figures", args: []string{"stats"}, check: match(`(?m)^memory`)},
		{says: "remove the file", args: []string{"rm", demoFile}},
		{says: "it is gone", args: []string{"stat", demoFile}, status: 1, check: match(`(?i)ENOENT|no such file`)},
	}
}

// verify holds an answer against what the step wants.
func (s step) verify(status int, out string) error {
	if status != s.status {
		return fmt.Errorf("status %d, want %d", status, s.status)
	}
	if s.check == nil {
		return nil
	}
	return s.check(out)
}

// typed is the step as it is typed in a shell.
func (s step) typed() string {
	line := vm.CommandLine(append([]string{"hf-vsock-client"}, s.args...))
	if s.stdin != "" {
		line = "printf " + vm.CommandLine([]string{strings.ReplaceAll(s.stdin, "\n", `\n`)}) + " | " + line
	}
	return line
}

func equal(want string) func(string) error {
	return func(out string) error {
		if out != want {
			return fmt.Errorf("answer %.200q, want %q", out, want)
		}
		return nil
	}
}

func match(re string) func(string) error {
	r := regexp.MustCompile(re)
	return func(out string) error {
		if !r.MatchString(out) {
			return fmt.Errorf("answer %.200q does not match %s", out, re)
		}
		return nil
	}
}

// data checks one field of a reply's data.
func data(field string, want any) func(string) error {
	return func(out string) error {
		var reply struct {
			Success bool           `json:"success"`
			Data    map[string]any `json:"data"`
		}
		if err := json.Unmarshal([]byte(out), &reply); err != nil {
			return fmt.Errorf("reply %q: %w", out, err)
		}
		if !reply.Success || reply.Data[field] != want {
			return fmt.Errorf("reply %.200q: want success and data.%s = %v", out, field, want)
		}
		return nil
	}
}
