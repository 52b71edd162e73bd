// Package rootfsskel is the skeleton of a root filesystem for a Hyperfleet guest:
// the directories, files, links and device nodes that PID 1 expects, as a tree in
// memory, and the writers that turn such a tree into a directory, a cpio archive
// or an ext4 image.
//
// What varies comes in from above: the mount points and the applets' links are the
// program's own tables, passed in by cmd/hf-rootfs. A [Tree] is filled in layers.
// The user's overlays come first and win; the skeleton, the userland and the
// kernel modules fill the gaps. The binary itself, /init, is always ours.
//
// The same input gives the same output to the byte, whoever runs it and wherever:
// entries are sorted, inode numbers are positions, and owner, mode and times come
// from the entry. Times are those of the overlay's files, but not later than
// SOURCE_DATE_EPOCH where that is set; everything else has SOURCE_DATE_EPOCH, or
// 1980-01-01 without it.
package rootfsskel
