package mounts

// A Node is a character device that a program may count on; see null(4) and the
// kernel's Documentation/admin-guide/devices.txt.
type Node struct {
	Path         string
	Perm         uint32
	Major, Minor uint32
	// Early is for one that a root filesystem holds: it has to be there before
	// anything is mounted on /dev.
	Early bool
}

// Nodes returns the device nodes: PID 1 makes those that are missing, and the
// skeleton holds the early ones.
func Nodes() []Node {
	return []Node{
		{"/dev/console", 0o600, 5, 1, true},
		{"/dev/null", 0o666, 1, 3, true},
		{"/dev/zero", 0o666, 1, 5, true},
		{"/dev/full", 0o666, 1, 7, true},
		{"/dev/random", 0o666, 1, 8, true},
		{"/dev/urandom", 0o666, 1, 9, true},
		{"/dev/kmsg", 0o644, 1, 11, false},
		{"/dev/tty", 0o666, 5, 0, true},
		{"/dev/ptmx", 0o666, 5, 2, false},
	}
}
