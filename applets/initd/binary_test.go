//go:build linux

package initd_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// builtDir holds the binaries that tests build, each once.
var builtDir string

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "hf-initd-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	builtDir = dir
	return m.Run()
}

// The binary as the Makefile builds it, and the one with the operations that kill
// the agent.
var (
	builtHF    = sync.OnceValues(func() (string, error) { return build("hf", ldflags(), "") })
	builtDebug = sync.OnceValues(func() (string, error) { return build("hf-debug", ldflags(), "hfdebug") })
)

func hf(t testing.TB) string      { return built(t, builtHF) }
func hfDebug(t testing.TB) string { return built(t, builtDebug) }

func built(t testing.TB, build func() (string, error)) string {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// ldflags are the linker's flags of every build of the binary.
func ldflags() string {
	b, err := os.ReadFile("../../cmd/hf/ldflags")
	if err != nil {
		panic(err)
	}
	return strings.TrimSpace(string(b))
}

func build(name, ldflags, tags string) (string, error) {
	path := filepath.Join(builtDir, name)
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags="+ldflags, "-tags="+tags, "-o", path, "../../cmd/hf")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("can't build the binary: %w\n%s", err, out)
	}
	return path, nil
}
