//go:build linux && !hfdebug

package agent

// debugOperations are those of test builds: none here.
func debugOperations() map[string]operation { return nil }
