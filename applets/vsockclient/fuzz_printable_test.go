package vsockclient

import (
	"strconv"
	"testing"
)

// FuzzPrintable: nothing of what a guest says moves the cursor, ends the line or
// does anything else to the terminal that shows it.
func FuzzPrintable(f *testing.F) {
	f.Fuzz(func(t *testing.T, s string) {
		for _, r := range printable(s) {
			if !strconv.IsPrint(r) {
				t.Fatalf("%q is printed as %q", s, printable(s))
			}
		}
	})
}
