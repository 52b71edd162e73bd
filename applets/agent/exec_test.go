//go:build linux

package agent

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// TestStatuses: every exit status and every signal that ends a process.
func TestStatuses(t *testing.T) {
	l := serve(t, testLimits())
	s := keep(t, l.socket)
	ask := func(script string) reply {
		request := sh(script)
		request["keep_alive"] = true
		s.send(request.line())
		return parseReply(t, s.receive())
	}
	for status := range 256 {
		if r := ask(fmt.Sprintf("exit %d", status)); r.Data.ExitCode != status || r.Data.Signal != 0 || !r.Success {
			t.Errorf("exit %d: %+v", status, r)
		}
	}
	for signal := 1; signal <= 64; signal++ {
		switch unix.Signal(signal) {
		case unix.SIGCHLD, unix.SIGCONT, unix.SIGURG, unix.SIGWINCH, unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU:
			continue // do not end a process
		}
		if signal == 32 || signal == 33 {
			continue // belong to the C library
		}
		if r := ask(fmt.Sprintf("ulimit -c 0; kill -%d $$; sleep 1", signal)); r.Data.ExitCode != 128+signal || r.Data.Signal != signal || r.Data.TimedOut {
			t.Errorf("signal %d: %+v", signal, r)
		}
	}
}

// TestFailingCommands: no status is ever another's, or success. (FAULTS.md 1.6)
func TestFailingCommands(t *testing.T) {
	n := 2000
	if raceEnabled() {
		n = 400
	}
	l := serve(t, testLimits())
	var wg sync.WaitGroup
	for worker := range 16 {
		wg.Go(func() {
			s := keep(t, l.socket)
			for i := range n / 16 {
				want := 1 + (worker*31+i)%255
				s.send(fmt.Sprintf(`{"operation":"exec","cmd":["sh","-c","echo %[1]d; exit %[1]d"],"keep_alive":true}`+"\n", want))
				if r := parseReply(t, s.receive()); r.Data.ExitCode != want || r.Data.Stdout != strconv.Itoa(want)+"\n" {
					t.Errorf("status %d: %+v", want, r)
				}
			}
		})
	}
	wg.Wait()
}

// TestCannotRun: what can't be run looks as it would in a shell.
func TestCannotRun(t *testing.T) {
	l := serve(t, testLimits())
	dir := t.TempDir()
	file := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	loop := filepath.Join(dir, "loop")
	if err := os.Symlink("loop", loop); err != nil {
		t.Fatal(err)
	}
	plain := file("plain", "echo plain\n", 0o644)
	for _, row := range []struct {
		name     string
		cmd      string
		exitCode int
		says     string
	}{
		{"not in PATH", "no-such-command", 127, "no-such-command: command not found"},
		{"no such file", dir + "/nosuch", 127, "no such file"},
		{"below a file", plain + "/x", 127, "not a directory"},
		{"a directory", dir, 126, "is a directory"},
		{"not executable", plain, 126, "permission denied"},
		{"a script without #!", file("bare", "echo bare\n", 0o755), 126, "#!"},
		{"an empty file", file("empty", "", 0o755), 126, "exec format error"},
		{"a missing interpreter", file("orphan", "#!/no/such/interpreter\n", 0o755), 127, "interpreter"},
		{"a loop of links", loop, 126, "too many levels"},
		{"a device", "/dev/null", 126, "permission denied"},
		{"words that a shell would split", "echo hello", 127, "echo hello: command not found"},
	} {
		r := run(t, l.socket, object{"cmd": []string{row.cmd}})
		if r.Data.ExitCode != row.exitCode || r.Data.Stdout != "" || !strings.Contains(r.Data.Stderr, row.says) || !strings.HasSuffix(r.Data.Stderr, "\n") {
			t.Errorf("%s: %+v, want %d and %q", row.name, r.Data, row.exitCode, row.says)
		}
	}
	for _, row := range []struct {
		name    string
		request object
		code    string
	}{
		{"too long", object{"cmd": []string{"true", strings.Repeat("x", 200<<10)}}, "E2BIG"},
		{"too many", object{"cmd": append([]string{"true"}, make([]string, 237_000)...)}, "E2BIG"},
		{"no such directory", object{"cmd": []string{"true"}, "cwd": dir + "/nosuch"}, "ENOENT"},
		{"a file as directory", object{"cmd": []string{"true"}, "cwd": plain}, "ENOTDIR"},
	} {
		row.request["operation"] = "exec"
		if r := call(t, l.socket, row.request); r.Success || r.Code != row.code {
			t.Errorf("%s: %+v, want %s", row.name, r, row.code)
		}
	}
}

// TestSearchPath: PATH is searched as execvp(3) does, the request's if it has one.
func TestSearchPath(t *testing.T) {
	l := serve(t, testLimits())
	dir := t.TempDir()
	for _, f := range []struct {
		path string
		mode os.FileMode
	}{{"a/tool", 0o644}, {"b/tool", 0o755}, {"c/tool", 0o755}, {"a/only", 0o644}, {"d/tool/x", 0o755}, {"e/deep/in/x", 0o755}, {"e/deep/tool", 0o755}} {
		path := filepath.Join(dir, f.path)
		if err := cmp.Or(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("#!/bin/sh\necho $0 in $PWD\n"), f.mode)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("e/deep/in", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		cmd, path, cwd string
		want           string
		exitCode       int
	}{
		{"tool", dir + "/a:" + dir + "/b:" + dir + "/c", "/", dir + "/b/tool in /\n", 0},
		{"tool", dir + "/d:" + dir + "/c", "/", dir + "/c/tool in /\n", 0},
		{"only", dir + "/a", "/", "", 126},
		{"tool", dir + "/d", "/", "", 127},
		{"tool", "", dir + "/b", "", 127},
		{"tool", ".:/bin", dir + "/b", "./tool in " + dir + "/b\n", 0},
		{"tool", ":/bin", dir + "/b", "./tool in " + dir + "/b\n", 0},
		{"./tool", "/bin", dir + "/b", "./tool in " + dir + "/b\n", 0},
		{"b/tool", "/bin", dir, "b/tool in " + dir + "\n", 0},
		// .. is that of the directory, not of the link to it.
		{"../tool", "/bin", dir + "/link", "../tool in " + dir + "/e/deep/in\n", 0},
		{"../b/tool", "/bin", dir + "/link", "", 127},
		{"tool", "..", dir + "/link", "../tool in " + dir + "/e/deep/in\n", 0},
		{"tool", dir + "/link/..", "/", dir + "/link/../tool in /\n", 0},
	} {
		r := run(t, l.socket, object{"cmd": []string{row.cmd}, "cwd": row.cwd, "env": map[string]string{"PATH": row.path}})
		if r.Data.Stdout != row.want || r.Data.ExitCode != row.exitCode {
			t.Errorf("%s in PATH=%s: %+v", row.cmd, row.path, r.Data)
		}
	}
}

// TestArguments: they arrive as they are. (FAULTS.md 1.4, 1.12)
func TestArguments(t *testing.T) {
	l := serve(t, testLimits())
	if r := run(t, l.socket, object{"cmd": []string{"echo", ";", "id"}}); r.Data.Stdout != "; id\n" {
		t.Errorf("%q", r.Data.Stdout)
	}
	args := []string{"", " ", "$HOME", "*", "'", "\"", "\\", "a\nb", "é😀", "-n", "timeout", "9", "\x7f\x01"}
	for i := range 1000 {
		args = append(args, strconv.Itoa(i))
	}
	r := run(t, l.socket, object{"cmd": append([]string{"printf", `%s\0`}, args...)})
	if want := strings.Join(args, "\x00") + "\x00"; r.Data.Stdout != want {
		t.Errorf("%.200q\nwant %.200q", r.Data.Stdout, want)
	}
}

// TestEnvironment of commands, their user and their directory.
func TestEnvironment(t *testing.T) {
	l := serve(t, testLimits())
	dir := t.TempDir()
	for _, row := range []struct {
		name    string
		request object
		want    string
	}{
		{"added", object{"cmd": []string{"printenv", "A", "HOME"}, "env": map[string]string{"A": "x=\n"}}, "x=\n\n/root\n"},
		{"replaced", object{"cmd": []string{"printenv", "HOME"}, "env": map[string]string{"HOME": "/x"}}, "/x\n"},
		{"cwd", object{"cmd": []string{"pwd"}, "cwd": dir}, dir + "\n"},
	} {
		if r := run(t, l.socket, row.request); r.Data.Stdout != row.want {
			t.Errorf("%s: %q, want %q", row.name, r.Data.Stdout, row.want)
		}
	}
	needRoot(t)
	for _, row := range []struct{ user, want string }{
		{"", "0 0 0 /root "},
		{"root", "0 0 0 /root root"},
		{"0", "0 0 0 /root root"},
		{"12345", "12345 12345 12345 / "},
		{"12345:0", "12345 0 0 / "},
		{"12345:23456", "12345 23456 23456 / "},
		{"nobody", "65534 65534 65534 /nonexistent nobody"},
		{"daemon:root", "1 0 0 /usr/sbin daemon"},
	} {
		request := sh("echo $(id -u) $(id -g) $(id -G) $HOME $USER")
		if row.user != "" {
			request["user"] = row.user
		}
		r := run(t, l.socket, request)
		if strings.TrimSpace(r.Data.Stdout) != strings.TrimSpace(row.want) {
			t.Errorf("user %q: %q %q, want %q", row.user, r.Data.Stdout, r.Data.Stderr, row.want)
		}
	}
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if r := run(t, l.socket, object{"cmd": []string{secret}, "user": "nobody"}); r.Data.ExitCode != 126 {
		t.Errorf("a command that its user may not run: %+v", r.Data)
	}
}

// TestStdin of every size that is held in another way.
func TestStdin(t *testing.T) {
	l := serve(t, testLimits())
	for _, size := range []int{0, 1, 4096, spoolMemory - 1, spoolMemory, spoolMemory + 1, 1 << 20} {
		in, err := io.ReadAll(noise(uint64(size), int64(size)))
		if err != nil {
			t.Fatal(err)
		}
		r := run(t, l.socket, object{"cmd": []string{"cat"}, "stdin": base64Of(in)})
		if !bytes.Equal(r.Data.StdoutBase64, in) {
			t.Errorf("%d bytes: %d came back", size, len(r.Data.StdoutBase64))
		}
		// One that reads nothing is not held up, and holds up nobody.
		if r := run(t, l.socket, object{"cmd": []string{"true"}, "stdin": base64Of(in)}); r.Data.ExitCode != 0 {
			t.Errorf("%d bytes, not read: %+v", size, r.Data)
		}
	}
}

// TestOutput: lossless, whatever it is, and valid JSON. (FAULTS.md 1.1, 1.13, 1.25)
func TestOutput(t *testing.T) {
	l := serve(t, testLimits())
	every := make([]byte, 0, 1<<16)
	for i := range 256 {
		every = append(every, byte(i), byte(255-i), 0xC3, byte(i), 0xF0, 0x9F, 0x98, byte(i))
	}
	random, _ := io.ReadAll(noise(1, 200_000))
	dir := t.TempDir()
	for _, out := range [][]byte{every, random, bytes.Repeat([]byte{0}, 100_000), bytes.Repeat([]byte("é"), 50_000), []byte("\xe2\x82"), []byte("a\xed\xa0\x80b")} {
		path := filepath.Join(dir, "out")
		if err := os.WriteFile(path, out, 0o644); err != nil {
			t.Fatal(err)
		}
		r := run(t, l.socket, sh("cat "+path+"; cat "+path+" >&2"))
		if !bytes.Equal(r.Data.StdoutBase64, out) || !bytes.Equal(r.Data.StderrBase64, out) {
			t.Errorf("%.20q…: %d bytes of %d came back", out, len(r.Data.StdoutBase64), len(out))
		}
		if want := strings.ToValidUTF8(string(bytes.Join(runesOf(out), nil)), "\uFFFD"); r.Data.Stdout != want || r.Data.Stderr != want {
			t.Errorf("%.20q… as text: %.40q", out, r.Data.Stdout)
		}
	}
	size := 30_000_000
	if raceEnabled() {
		size /= 10
	}
	request := sh(fmt.Sprintf("yes 'all of this, é😀' | head -c %d", size))
	request["max_output"] = size
	r := run(t, l.socket, request)
	if len(r.Data.StdoutBase64) != size || len(r.Data.Stdout) < size || r.Data.Truncated {
		t.Errorf("%d bytes, truncated %v", len(r.Data.StdoutBase64), r.Data.Truncated)
	}
}

// runesOf splits text so that each byte that is not of UTF-8 stands alone.
func runesOf(text []byte) [][]byte {
	var runes [][]byte
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		if r == utf8.RuneError && n == 1 {
			runes = append(runes, []byte("\uFFFD"))
		} else {
			runes = append(runes, text[:n])
		}
		text = text[n:]
	}
	return runes
}

// TestMaxOutput: what is beyond it is read and dropped, for each stream.
func TestMaxOutput(t *testing.T) {
	l := serve(t, testLimits())
	for _, row := range []struct {
		max, out, errs int
		truncated      bool
	}{
		{0, 0, 0, false}, {0, 1, 0, true}, {5, 5, 5, false}, {5, 6, 0, true}, {5, 0, 6, true},
		{65536, 65536, 65536, false}, {65536, 65537, 0, true}, {100_000, 99_999, 5_000_000, true},
	} {
		request := sh(fmt.Sprintf("head -c %d /dev/zero; head -c %d /dev/zero >&2; echo $? > /dev/null", row.out, row.errs))
		request["max_output"] = row.max
		r := run(t, l.socket, request)
		if r.Data.Truncated != row.truncated || len(r.Data.StdoutBase64) != min(row.max, row.out) || len(r.Data.StderrBase64) != min(row.max, row.errs) || r.Data.ExitCode != 0 {
			t.Errorf("%+v: %d, %d bytes, truncated %v", row, len(r.Data.StdoutBase64), len(r.Data.StderrBase64), r.Data.Truncated)
		}
	}
}

// TestLastWords: what a command writes just before it ends is never lost.
func TestLastWords(t *testing.T) {
	l := serve(t, testLimits())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			s := keep(t, l.socket)
			for range 125 {
				words := strconv.Itoa(rand.IntN(1 << 30))
				s.send(`{"operation":"exec","cmd":["sh","-c","printf ` + words + `; printf ` + words + ` >&2"],"keep_alive":true}` + "\n")
				if line := s.receive(); !strings.Contains(line, `"stdout_base64":"`+base64.StdEncoding.EncodeToString([]byte(words))+`"`) ||
					!strings.Contains(line, `"stderr":"`+words+`"`) {
					t.Errorf("%s: %s", words, line)
				}
			}
		})
	}
	wg.Wait()
}
