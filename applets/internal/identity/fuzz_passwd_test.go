package identity

import (
	"strings"
	"testing"
	"testing/iotest"
)

// FuzzPasswd: of what is in /etc/passwd and /etc/group, lines with another number
// of fields are passed over and the rest is taken as it stands; an id is a number
// that the kernel takes for one.
func FuzzPasswd(f *testing.F) {
	f.Fuzz(func(t *testing.T, file string, n uint8) {
		var got, want []string
		err := eachLine(iotest.OneByteReader(strings.NewReader(file)), int(n), func(fields []string) error {
			got = append(got, strings.Join(fields, ":"))
			for _, field := range fields {
				if id, err := parseID(field); err == nil && (id == 1<<32-1 || strings.Trim(field, "0123456789") != "") {
					t.Fatalf("%q is the id %d", field, id)
				}
			}
			return nil
		})
		for line := range strings.SplitSeq(file, "\n") {
			if strings.Count(line, ":") == int(n)-1 {
				want = append(want, line)
			}
		}
		if n == 1 && (file == "" || strings.HasSuffix(file, "\n")) {
			got, want = nil, nil // whether an empty line follows is nobody's concern
		}
		if err != nil || strings.Join(got, "\n") != strings.Join(want, "\n") || len(got) != len(want) {
			t.Fatalf("%q, %d: %q, %v; want %q", file, n, got, err, want)
		}
	})
}
