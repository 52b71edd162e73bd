//go:build linux

// Command hf-rootfs makes a root filesystem for a Hyperfleet guest, as a directory,
// a cpio archive (an initramfs) or an ext4 image, and installs the program into a
// root filesystem that is already there.
package main

import "os"

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }
