package applets

import (
	"github.com/hyperfleet/init/applets/agent"
	"github.com/hyperfleet/init/applets/initd"
	"github.com/hyperfleet/init/applets/internal/mounts"
	"github.com/hyperfleet/init/applets/power"
)

// table lists the applets. A function, not a variable: nothing can change it.
func table() []applet {
	return []applet{
		{"init", "PID 1: boot, supervise, reap, shut down", initd.Run, "/sbin/init"},
		{"hf-agent", "serve file operations and commands over vsock", agent.Run, "/usr/sbin/hf-agent"},
		{"hf-poweroff", "shut this machine down and power it off", power.Off, "/usr/sbin/hf-poweroff"},
		{"hf-reboot", "shut this machine down and restart it", power.Reboot, "/usr/sbin/hf-reboot"},
		{"poweroff", "the same as hf-poweroff", power.Off, "/usr/sbin/poweroff"},
		{"reboot", "the same as hf-reboot", power.Reboot, "/usr/sbin/reboot"},
		{agent.ShimName, "internal: what hf-agent starts a command with limits by", agent.Shim, ""},
		client(),
	}
}

// Binary is where a root filesystem keeps the binary itself: the path that the
// kernel starts in an initramfs.
const Binary = "/init"

// Links returns the absolute paths that a root filesystem links to Binary.
func Links() []string {
	var links []string
	for _, a := range table() {
		if a.link != "" {
			links = append(links, a.link)
		}
	}
	return links
}

// MountPoints returns what PID 1 mounts, in order: the directories that a root
// filesystem must hold.
func MountPoints() []mounts.Mount { return mounts.Table() }

// Nodes returns the device nodes that PID 1 makes where they are missing; a root
// filesystem must hold the early ones.
func Nodes() []mounts.Node { return mounts.Nodes() }
