package kmodule

import (
	"slices"
	"strings"
	"testing"
)

// FuzzParseDep: a module is loaded last, after each thing that it depends on, and
// a list that makes no sense is an error.
func FuzzParseDep(f *testing.F) {
	f.Fuzz(func(t *testing.T, dep string) {
		files, err := parseDep(strings.NewReader(dep))
		if err != nil {
			return
		}
		want := map[string][]string{}
		for line := range strings.SplitSeq(dep, "\n") {
			if file, deps, ok := strings.Cut(strings.TrimSuffix(line, "\r"), ":"); ok {
				list := strings.Fields(deps)
				slices.Reverse(list)
				want[name(file)] = append(list, file)
			} else if line != "" {
				t.Fatalf("%q: is no list and no error", line)
			}
		}
		if len(files) != len(want) {
			t.Fatalf("%q: %q, want %q", dep, files, want)
		}
		for module, list := range files {
			if !slices.Equal(list, want[module]) || strings.ContainsAny(module, "-.") {
				t.Fatalf("%q: %s: %q, want %q", dep, module, list, want[module])
			}
		}
	})
}
