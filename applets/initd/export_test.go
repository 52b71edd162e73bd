//go:build linux

package initd

import (
	"os"
	"time"
)

// RunWithin is Run with limits of a shutdown that a test can wait for.
func RunWithin(args []string, sync, umount, all time.Duration) int {
	return run(args, os.Stdout, os.Stderr, limits{sync: sync, umount: umount, all: all})
}
