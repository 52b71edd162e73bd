//go:build linux && !race

package initd_test

// raced tells whether the race detector is on.
const raced = false
