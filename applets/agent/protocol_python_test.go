//go:build linux

package agent

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// TestProtocolPython runs the client that PROTOCOL.md shows, in another language
// than this program's: input and output pass, and the status is the command's.
func TestProtocolPython(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("there is no python3")
	}
	page, err := os.ReadFile("../../PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	program := regexp.MustCompile("(?s)\n```python\n(.*?)```").FindSubmatch(page)
	if program == nil {
		t.Fatal("PROTOCOL.md has no client in Python")
	}
	script := filepath.Join(t.TempDir(), "client.py")
	if err := os.WriteFile(script, program[1], 0o600); err != nil {
		t.Fatal(err)
	}
	l := serve(t, testLimits())
	in, err := io.ReadAll(noise(3, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), python, script, l.socket, "sh", "-c", "cat; echo err >&2; exit 7")
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("%v, want status 7", err)
	}
	if !bytes.Equal(out.Bytes(), in) || errs.String() != "err\n" {
		t.Errorf("%d bytes of %d came back, and %q", out.Len(), len(in), errs.String())
	}
	refused, _ := exec.CommandContext(t.Context(), python, script, l.socket).CombinedOutput()
	if want := "cmd: must name a command\n"; string(refused) != want {
		t.Errorf("without a command it says %q, want %q", refused, want)
	}
}
