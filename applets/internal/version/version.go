// Package version holds the version that every applet reports.
package version

// version is set by the Makefile: -ldflags "-X …/version.version=v1.2.3".
var version string

// String returns the version that the linker was told, else "devel". What `go install`
// records would take 16 KB of program to read.
func String() string {
	if version == "" {
		return "devel"
	}
	return version
}
