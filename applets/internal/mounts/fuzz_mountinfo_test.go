package mounts

import (
	"fmt"
	"strings"
	"testing"
)

// FuzzMountinfo: whatever a mount point is called, it is found under that name
// again; and what is no mountinfo is an error, with what was read before it.
func FuzzMountinfo(f *testing.F) {
	f.Fuzz(func(t *testing.T, text, target string) {
		list, err := parse(strings.NewReader(text))
		if lines := strings.Count(text, "\n") + 1; len(list) > lines || err == nil && len(list) < lines-1 {
			t.Fatalf("%q: %d mounts, %v", text, len(list), err)
		}
		target = "/" + target
		line := fmt.Sprintf("36 35 98:0 / %s rw,noatime master:1 - tmpfs  ro,size=1k\n", escape(target))
		list, err = parse(strings.NewReader(line))
		if err != nil || len(list) != 1 || list[0] != (Mounted{target, "tmpfs", true}) {
			t.Fatalf("%q: %v, %v", line, list, err)
		}
	})
}

// escape is what the kernel does with a path (mangle_path in fs/seq_file.c, for
// " \t\n\\"), and with all else that a line of fields can't hold.
func escape(path string) string {
	var b strings.Builder
	for i := range len(path) {
		if c := path[i]; c > ' ' && c < 0x7F && c != '\\' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, `\%03o`, c)
		}
	}
	return b.String()
}
