//go:build linux

// Package entry is where the binary starts, before the Go runtime: where a
// standard descriptor is closed, the runtime opens /dev/null for it, and dies if
// there is none. The kernel starts init without descriptors where it has no
// console, and the /dev of a root filesystem may be empty; the end of PID 1 is a
// panic of the kernel.
//
// So as PID 1 those that are closed become / opened with O_PATH, which works
// everywhere; to read and to write them fails with EBADF. Boot replaces them when
// it has devices. It is assembly alone, and the linker is told to start there by
// the -E of cmd/hf/ldflags. A binary that was built without starts as any Go
// program does.
package entry
