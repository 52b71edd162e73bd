package applets

import (
	"io"
	"path"
	"slices"
	"strings"
	"testing"
)

func TestChoose(t *testing.T) {
	for _, test := range []struct {
		pid  int
		args []string
		want string   // the applet's name; empty for none
		rest []string // its arguments
	}{
		{1, []string{"/init", "-d"}, "init", []string{"/init", "-d"}},
		{1, []string{"hf-agent"}, "init", []string{"hf-agent"}},
		{1, []string{"anything", "hf-poweroff"}, "init", []string{"anything", "hf-poweroff"}},
		{1, nil, "init", nil},
		{7, []string{"init"}, "init", []string{"init"}},
		{7, []string{"/sbin/init", "6"}, "init", []string{"/sbin/init", "6"}},
		{7, []string{"/usr/sbin/hf-agent", "-d"}, "hf-agent", []string{"/usr/sbin/hf-agent", "-d"}},
		{7, []string{"poweroff", "hf-reboot"}, "poweroff", []string{"poweroff", "hf-reboot"}},
		{7, []string{"./hf", "hf-reboot", "-f"}, "hf-reboot", []string{"hf-reboot", "-f"}},
		{7, []string{"hf", "hf-vsock-client", "ping"}, "hf-vsock-client", []string{"hf-vsock-client", "ping"}},
		{7, []string{"hf", "/usr/sbin/hf-reboot"}, "", []string{"hf", "/usr/sbin/hf-reboot"}},
		{7, []string{"hf"}, "", []string{"hf"}},
		{7, []string{"hf", "--help", "init"}, "", []string{"hf", "--help", "init"}},
		{7, []string{""}, "", []string{""}},
		{7, nil, "", nil},
	} {
		a, rest, ok := choose(test.pid, test.args)
		if a.name != test.want || ok != (test.want != "") || !slices.Equal(rest, test.rest) {
			t.Errorf("%d, %q: %q, %q, %v", test.pid, test.args, a.name, rest, ok)
		}
	}
}

func TestRun(t *testing.T) {
	type result struct {
		status         int
		stdout, stderr string // how they begin
	}
	tests := map[string]result{
		"hf":             {0, "hf ", ""},
		"hf --help":      {0, "hf ", ""},
		"hf -h":          {0, "hf ", ""},
		"hf --version":   {0, "hf ", ""},
		"hf no-such":     {2, "", "hf: no-such: no such applet"},
		"hf --wrong":     {2, "", "hf: --wrong: no such applet"},
		"init":           {1, "", "init: must be run as PID 1\n"},
		"hf init":        {1, "", "init: must be run as PID 1\n"},
		"init --help":    {0, "usage: ", ""},
		"hf init --help": {0, "usage: ", ""},
	}
	for _, a := range table() {
		tests[a.name+" --version"] = result{0, a.name + " ", ""}
		tests["hf "+a.name+" --version"] = result{0, a.name + " ", ""}
		tests[a.name+" --help"] = result{0, "usage: ", ""}
		tests[a.name+" -h"] = result{0, "usage: ", ""}
		if a.name != "init" {
			tests[a.name+" --wrong"] = result{2, "", a.name + ": "}
			tests["hf "+a.name+" --wrong"] = result{2, "", a.name + ": "}
		}
	}
	for line, want := range tests {
		var stdout, stderr strings.Builder
		status := run(7, strings.Fields(line), strings.NewReader(""), &stdout, &stderr)
		got := result{status, stdout.String(), stderr.String()}
		if got.status != want.status || !begins(got.stdout, want.stdout) || !begins(got.stderr, want.stderr) {
			t.Errorf("%s: %+v, want %+v", line, got, want)
		}
		if status != 0 && strings.Count(got.stderr, "\n") != 1 {
			t.Errorf("%s: more than a line: %q", line, got.stderr)
		}
	}
}

// begins tells whether s begins with prefix, and is empty where that is.
func begins(s, prefix string) bool {
	return strings.HasPrefix(s, prefix) && (s == "") == (prefix == "")
}

func TestUsageListsAll(t *testing.T) {
	var out strings.Builder
	run(7, []string{"hf"}, nil, &out, io.Discard)
	for _, a := range table() {
		if !strings.Contains(out.String(), "  "+a.name+" ") || !strings.Contains(out.String(), a.synopsis+"\n") {
			t.Errorf("%s is not listed", a.name)
		}
	}
}

func TestLinks(t *testing.T) {
	want := []string{"/sbin/init", "/usr/sbin/hf-agent", "/usr/sbin/hf-poweroff", "/usr/sbin/hf-reboot", "/usr/sbin/poweroff", "/usr/sbin/reboot", "/usr/bin/hf-vsock-client"}
	if got := Links(); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	// A link leads to the applet that it is named after.
	for _, link := range Links() {
		if a, _, _ := choose(7, []string{link}); a.name != path.Base(link) {
			t.Errorf("%s starts %q", link, a.name)
		}
	}
}
