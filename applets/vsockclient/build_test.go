package vsockclient

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// patience is how long a test waits for what only a fault keeps from happening.
const patience = time.Minute

// buildAgent builds the agent once: this package may not import it.
var buildAgent = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "hf")
	if err != nil {
		return "", err
	}
	builtIn = dir
	binary := filepath.Join(dir, "hf-agent")
	out, err := exec.Command("go", "build", "-o", binary, "../../cmd/hf").CombinedOutput()
	if err != nil {
		os.Stderr.Write(out)
	}
	return binary, err
})

var builtIn string

// cleanUp deletes what buildAgent made.
func cleanUp() {
	if builtIn != "" {
		_ = os.RemoveAll(builtIn)
	}
}
