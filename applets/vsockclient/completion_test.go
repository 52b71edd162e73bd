//go:build linux

package vsockclient

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The completions know every command and every flag, and the shells take them.
func TestCompletion(t *testing.T) {
	for shell, check := range map[string][]string{
		"bash": {"bash", "-n"}, "zsh": {"zsh", "-n"}, "fish": {"fish", "--no-execute"},
	} {
		status, script, stderr := invoke("", "completion", shell)
		if status != 0 || stderr != "" {
			t.Fatalf("%s: %d, %q", shell, status, stderr)
		}
		for _, c := range commands() {
			for _, f := range flagsOf(&c) {
				if !strings.Contains(script, f.Name) {
					t.Errorf("%s: %s: no %s", shell, c.name, f.Name)
				}
			}
			for _, word := range strings.Fields(c.name) {
				if !strings.Contains(script, word) {
					t.Errorf("%s: no %s", shell, c.name)
				}
			}
		}
		if _, err := exec.LookPath(check[0]); err != nil {
			t.Logf("%s is not installed: not tried", shell)
			continue
		}
		file := filepath.Join(t.TempDir(), "completion")
		if err := os.WriteFile(file, []byte(script), 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(check[0], append(check[1:], file)...).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", shell, err, out)
		}
	}
	if status, _, _ := invoke("", "completion", "csh"); status != 2 {
		t.Errorf("csh: %d", status)
	}
}

func TestBashCompletes(t *testing.T) {
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip("bash is not installed")
	}
	_, script, _ := invoke("", "completion", "bash")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a-file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ line, want string }{
		{"se", "sessions session"},
		{"--cid 3 for", "forward"},
		{"session ", "wait kill rm"},
		{"session k", "kill"},
		{"session kill -", "--cid --json --port -s --timeout --uds --unix --version --help"},
		{"exec --d", "--detach-keys"},
		{"completion z", "zsh"},
		{"--json cp a-", "a-file"},
		{"--unix a-", "a-file"},
		{"--cid=3 for", "forward"},
		{"--json=true for", "forward"},
		{"--unix=a-", "a-file"},
		{"exec --timeout=3s --de", "--detach-keys"},
		{"exec -it -- ls --", ""},
		{"exec -it ls --", ""},
		{"exec -- ls -u a-", ""},
		{"session kill 1 -", ""},
		{"cp vm:a-", ""},
		{"cp vm:/b a-", "a-file"},
		{"ps x", ""},
	} {
		// bash makes words of these.
		words := strings.NewReplacer("=", " = ", ":", " : ").Replace("hf-vsock-client " + test.line)
		cmd := exec.Command("bash", "-c", script+`
IFS=' ' read -ra COMP_WORDS <<<"$1"; [[ $1 == *' ' ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _hf_vsock_client; echo "${COMPREPLY[*]}"`, "bash", words)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != test.want {
			t.Errorf("%s: %q, %v, want %q", test.line, got, err, test.want)
		}
	}
}

// completionScript writes the script of a shell into a directory with a file in it.
func completionScript(t *testing.T, shell string) (dir, script string) {
	t.Helper()
	if _, err := exec.LookPath(shell); err != nil {
		t.Skipf("%s is not installed", shell)
	}
	_, text, _ := invoke("", "completion", shell)
	dir = t.TempDir()
	script = filepath.Join(dir, "script")
	for name, content := range map[string]string{script: text, filepath.Join(dir, "a-file"): ""} {
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir, script
}

// In the shells themselves, with the Tab key.
func TestTabCompletes(t *testing.T) {
	for _, test := range []struct {
		shell, begin string
		args         []string
	}{
		{"bash", "source ./script; PS1='> '; clear\n", []string{"--norc", "--noprofile", "-i"}},
		{"zsh", "autoload -Uz compinit; compinit -u -D; source ./script; PS1='> '; clear\n", []string{"-f", "-i"}},
	} {
		t.Run(test.shell, func(t *testing.T) {
			dir, _ := completionScript(t, test.shell)
			cmd := exec.Command(test.shell, test.args...)
			cmd.Dir, cmd.Env = dir, append(os.Environ(), "HOME="+dir, "ZDOTDIR="+dir, "PS1=begin ")
			c := inWindow(t, 24, 80, cmd)
			c.awaitText("begin")
			c.keys(test.begin)
			line := func(want string) {
				t.Helper()
				c.await(want, func(s *screen) bool { return s.line(s.row) == want })
			}
			line(">")
			for _, test := range []struct{ typed, completed string }{
				{"forw", "forward"},
				{"--cid 3 wat", "--cid 3 watch"},
				{"session k", "session kill"},
				{"exec --detach-", "exec --detach-keys"},
				{"stats --w", "stats --watch"},
				{"completion f", "completion fish"},
				{"cp a-f", "cp a-file"},
				{"--unix a-f", "--unix a-file"},
				{"--cid=3 forw", "--cid=3 forward"},
				{"exec -it -- ls --detach-\tx", "exec -it -- ls --detach-x"},
				{"cp vm:a-f\tx", "cp vm:a-fx"},
				{"cp vm:/x a-f", "cp vm:/x a-file"},
			} {
				c.keys(program + " " + test.typed + "\t")
				line("> " + program + " " + test.completed)
				c.keys("\x15")
				line(">")
			}
			c.keys("exit\n")
			c.end()
		})
	}
}

func TestFishCompletes(t *testing.T) {
	dir, script := completionScript(t, "fish")
	for _, test := range []struct{ line, want string }{
		{"forw", "forward"},
		{"--cid 3 wat", "watch"},
		{"session k", "kill"},
		{"session ", "kill rm wait"},
		{"exec --detach-", "--detach-keys"},
		{"stats --w", "--watch"},
		{"--json stats --wa", "--watch"},
		{"completion f", "fish"},
		{"cp a-f", "a-file"},
		{"--unix a-f", "a-file"},
		{"ps x", ""},
		{"--cid=3 forw", "forward"},
		{"exec -it -- ls --detach-", ""},
		{"exec -it ls --detach-", ""},
		{"session kill 1 -", ""},
		{"cp vm:a-", ""},
		{"cp vm:/b a-", "a-file"},
		{"cp -", "-p -r -v --cid --json --port --resume --timeout --uds --unix --version"},
	} {
		cmd := exec.Command("fish", "--no-config", "-c", `source $argv[1]; complete -C $argv[2]`, script, program+" "+test.line)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "HOME="+dir)
		out, err := cmd.Output()
		var words []string
		for line := range strings.Lines(string(out)) {
			word, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
			words = append(words, word)
		}
		slices.Sort(words)
		want := strings.Fields(test.want)
		slices.Sort(want)
		if err != nil || !slices.Equal(words, want) {
			t.Errorf("%s: %q, %v, want %q", test.line, words, err, want)
		}
	}
}
