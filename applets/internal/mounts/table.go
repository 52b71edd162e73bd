// Package mounts holds the one list of filesystems that PID 1 mounts. Boot walks
// it forwards, shutdown undoes whatever is mounted in reverse, and the root
// filesystem's skeleton makes its mount points.
package mounts

import "io/fs"

// A Mount is one row: a filesystem and where it goes. See mount(2).
type Mount struct {
	Source string      // what mount(8) shows as the device
	Target string      // absolute path of the mount point
	FSType string      // the kernel's name for the filesystem
	Flags  uintptr     // MS_*
	Data   string      // filesystem options
	Mode   fs.FileMode // of the mount point, where it has to be made: bits as of chmod(2)
}
