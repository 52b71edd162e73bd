package mounts

import "golang.org/x/sys/unix"

const (
	nosuid = unix.MS_NOSUID
	nodev  = unix.MS_NODEV
	noexec = unix.MS_NOEXEC
)

// Table returns the mounts in the order in which they are made; parents come
// before children. The options are the ones that systemd and Debian use, but
// for /tmp and /run, which stay executable: build jobs run what they put there.
func Table() []Mount {
	return []Mount{
		{"proc", "/proc", "proc", nosuid | nodev | noexec, "", 0o555},
		{"tmpfs", "/run", "tmpfs", nosuid | nodev, "mode=0755", 0o755}, // early: the local socket is in it
		{"sysfs", "/sys", "sysfs", nosuid | nodev | noexec, "", 0o555},
		{"devtmpfs", "/dev", "devtmpfs", nosuid | noexec, "mode=0755", 0o755},
		// gid 5 is tty; ptmxmode lets users other than root open a terminal.
		{"devpts", "/dev/pts", "devpts", nosuid | noexec, "gid=5,mode=0620,ptmxmode=0666", 0o755},
		{"tmpfs", "/dev/shm", "tmpfs", nosuid | nodev | noexec, "mode=1777", 0o1777},
		{"tmpfs", "/tmp", "tmpfs", nosuid | nodev, "mode=1777", 0o1777},
		{"cgroup2", "/sys/fs/cgroup", "cgroup2", nosuid | nodev | noexec, "nsdelegate", 0o555},
	}
}
