package agenttest

import (
	"debug/elf"
	"io"
	"os"
)

// Libraries returns what a dynamically linked program loads: a test binary may be
// one, and a root filesystem that a test makes has none of its libraries.
func Libraries(program string) []string {
	f, err := elf.Open(program)
	if err != nil {
		return nil
	}
	defer f.Close()
	names, _ := f.ImportedLibraries()
	var found []string
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			interp, _ := io.ReadAll(p.Open())
			found = append(found, string(interp[:len(interp)-1]))
		}
	}
	for _, name := range names {
		for _, dir := range []string{"/lib64/", "/lib/x86_64-linux-gnu/", "/lib/aarch64-linux-gnu/", "/usr/lib64/", "/usr/lib/"} {
			if _, err := os.Stat(dir + name); err == nil {
				found = append(found, dir+name)
				break
			}
		}
	}
	return found
}
