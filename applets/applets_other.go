//go:build !linux

package applets

// table lists the applets that run on any host.
func table() []applet { return []applet{client()} }
