//go:build linux

package vsockclient

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/hyperfleet/init/applets/internal/agenttest"
)

// A program that reads stdout learns of a failure there, in one line, and never of
// a success that was none.
func TestJSONTellsOfFailures(t *testing.T) {
	liveAgent(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	cut := agenttest.Listen(t, func(c net.Conn) {
		_, _ = agenttest.ReadLine(c)
		_, _ = io.WriteString(c, `{"success":true,"data":{"content":"QUJD`)
	})
	silent := agenttest.Listen(t, agenttest.Linger)
	failure := func(message, code string) string {
		return `{"success":false,"error":"` + message + `","code":"` + code + `"}` + "\n"
	}
	for _, test := range []struct {
		args   string // split at spaces
		status int
		stdout string
	}{
		{"tee $/no/f", 1, failure("file_put: $/no/f: no such file or directory", "ENOENT")},
		{"tee $/f", 0, `{"success":true,"data":{"size":5}}` + "\n"},
		{"tee -a $/f", 0, `{"success":true,"data":{"bytes_written":5}}` + "\n"},
		{"ls $/f", 1, failure("file_list: $/f: not a directory", "ENOTDIR")},
		{"ls $/none $/none", 1, strings.Repeat(failure("file_list: $/none: no such file or directory", "ENOENT"), 2)},
		{"cp vm:$/none $/x", 1, failure("file_stat: $/none: no such file or directory", "ENOENT")},
		{"cp vm:$/none -", 1, ""}, // where its content would be
		{"cp $/none vm:$/x", 1, failure("stat $/none: no such file or directory", "ENOENT")},
		{"exec -d $/none", 127, failure("exec: $/none: no such file or directory", "ENOENT")},
		{"attach none", 125, failure(`session_attach: there is no session \"none\" (sessions lists them)`, "ESRCH")},
		{"watch $/none", 1, failure("file_watch: $/none: no such file or directory", "ENOENT")},
		{"ping --unix $/none", 1, failure("ping: $/none: no such file or directory: is the agent running, and this the path of its socket?", "ENOENT")},
		{"stat --timeout 30ms --unix " + silent + " $/f", 1, failure("file_stat: no answer within 30ms (--timeout)", "ETIMEDOUT")},
		{"read --unix " + cut + " $/f", 1, `{"success":true,"data":{"content":"QUJD` + "\n" + failure("file_read: the reply is cut short: unexpected EOF", "")},
		{"ls --nope", 2, ""},
	} {
		args := strings.Fields("--json " + strings.ReplaceAll(test.args, "$/", dir+"/"))
		status, stdout, stderr := invoke("hello", args...)
		if want := strings.ReplaceAll(test.stdout, "$/", dir+"/"); status != test.status || stdout != want || (stderr == "") != (status == 0) {
			t.Errorf("%s:\n got %d, %s%s\nwant %d, %s", test.args, status, stdout, stderr, test.status, want)
		}
	}
	if b, err := os.ReadFile(file); string(b) != "hellohello" {
		t.Errorf("tee wrote %q, %v", b, err)
	}
}

// attach --json tells of pieces, gaps and the end, a line each.
func TestAttachJSON(t *testing.T) {
	liveAgent(t)
	for _, test := range []struct{ flags, script, want string }{
		{"", "printf 'a\\377'; exit 3", `^{"stdout":"a\\ufffd","stdout_base64":"Yf8="}\n{"exit_code":3,.*}\n$`},
		{"", "echo err >&2", `^{"stderr":"err\\n","stderr_base64":"ZXJyCg=="}\n{"exit_code":0,.*}\n$`},
		{"-t", "echo $(tty) | cut -c1-4", `^{"stdout":"/dev\\r\\n","stdout_base64":".*"}\n{"exit_code":0,.*}\n$`},
		{"", "head -c 3000000 /dev/zero", `^{"gap":{"from":0,"to":[0-9]*}}\n{"stdout":`},
	} {
		id := detached(t, append(strings.Fields(test.flags), "--", "sh", "-c", test.script)...)
		want, _, _ := invoke("", "session", "wait", id)
		status, stdout, stderr := invoke("", "attach", "--json", id)
		if !regexp.MustCompile(test.want).MatchString(stdout) || status != want || stderr != "" {
			t.Errorf("%s: %d, %.300s, %q", test.script, status, stdout, stderr)
		}
	}
}
