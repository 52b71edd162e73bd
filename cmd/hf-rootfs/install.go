//go:build linux

package main

import (
	"fmt"
	"io"
	"runtime/debug"

	"github.com/hyperfleet/init/applets"
	rootfsskel "github.com/hyperfleet/init/rootfs-skel"
)

// install puts the program into the root filesystem that the command line names. A
// link whose place is taken is told, and is no failure: the program is there and can
// be started under its own name.
func install(o *options, stdout, stderr io.Writer) error {
	dir := o.args[1]
	if rootfsskel.IsRoot(dir) {
		return fmt.Errorf("install %s: this machine's own root: not a root filesystem to prepare", dir)
	}
	in := rootfsskel.Installation{
		Program: rootfsskel.Program{Host: o.init, Path: applets.Binary, Links: applets.Links()},
		Module:  modulePath(),
		Told:    func(line string) { fmt.Fprintln(stdout, line) },
		Refused: func(p string, err error) { fmt.Fprintf(stderr, "hf-rootfs: install: %s: %v\n", p, err) },
	}
	if err := in.Install(dir); err != nil {
		return fmt.Errorf("install %s: %w", dir, err)
	}
	return nil
}

// modulePath is the module of this program, which is that of the binary too.
func modulePath() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Path != "" {
		return info.Main.Path
	}
	return "github.com/hyperfleet/init"
}
