package rootfsskel

import (
	"embed"
	"io/fs"
	"path"
	"strings"
)

//go:embed all:tree
var treeFS embed.FS

// A Device is a character device that should be there before devtmpfs is: in an
// initramfs the kernel opens /dev/console from the archive, and the Go runtime of a
// binary that was built without the entry point of cmd/hf/ldflags needs /dev/null.
type Device struct {
	Path               string
	Perm, Major, Minor uint32
}

// A MountPoint is a directory that the program mounts something on.
type MountPoint struct {
	Path string
	Perm uint32
}

// A Program is the binary and where it has to be.
type Program struct {
	Host  string   // the built binary, on this machine
	Path  string   // where it goes: /init
	Links []string // what leads to it
}

// dirs are the directories beside the mount points, parents first.
func dirs() []MountPoint {
	return []MountPoint{
		{"/dev", 0o755},
		{"/etc", 0o755},
		{"/home", 0o755},
		{"/lib/modules", 0o755},
		{"/mnt", 0o755},
		{"/opt", 0o755},
		{"/root", 0o700},
		{"/srv", 0o755},
		{"/usr/bin", 0o755},
		{"/usr/lib", 0o755},
		{"/usr/local/bin", 0o755},
		{"/usr/local/sbin", 0o755},
		{"/usr/sbin", 0o755},
		{"/var/cache", 0o755},
		{"/var/lib", 0o755},
		{"/var/log", 0o755},
		{"/var/spool", 0o755},
		{"/var/tmp", 0o1777},
	}
}

// symlinks are those beside the applets'. The first three are the merged /usr of
// today's distributions: a path without /usr leads to the same file.
func symlinks() [][2]string {
	return [][2]string{
		{"/bin", "usr/bin"},
		{"/lib", "usr/lib"},
		{"/sbin", "usr/sbin"},
		{"/etc/mtab", "../proc/self/mounts"},
		{"/etc/os-release", "../usr/lib/os-release"},
		{"/var/run", "../run"},
		{"/var/lock", "../run/lock"},
	}
}

// filePerms are the permissions of embedded files that are not 0644.
func filePerms() map[string]uint32 {
	return map[string]uint32{"/etc/shadow": 0o600}
}

// fillSkeleton adds what the tree lacks of the skeleton.
func (b *builder) fillSkeleton(c Config) error {
	for _, l := range symlinks() {
		if err := b.fill(l[0], Symlink(l[1], b.t.mtime)); err != nil {
			return err
		}
	}
	for _, d := range append(dirs(), c.MountPoints...) {
		if err := b.fill(d.Path, Dir(d.Perm, b.t.mtime)); err != nil {
			return err
		}
	}
	for _, d := range c.Devices {
		if err := b.fill(d.Path, CharDev(d.Perm, d.Major, d.Minor, b.t.mtime)); err != nil {
			return err
		}
	}
	return b.fillFiles()
}

// fillFiles adds the embedded files.
func (b *builder) fillFiles() error {
	perms := filePerms()
	return fs.WalkDir(treeFS, "tree", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := treeFS.ReadFile(name)
		if err != nil {
			return err
		}
		p := strings.TrimPrefix(name, "tree")
		perm, ok := perms[p]
		if !ok {
			perm = 0o644
		}
		return b.fill(p, File(perm, b.t.mtime, data))
	})
}

// putProgram adds the binary and its links. The binary and what is called hf-… are
// ours even where an overlay has them; under a name that others have too (init,
// poweroff) an overlay's file stays.
func (b *builder) putProgram(prog Program) error {
	n, err := HostFile(0o755, b.t.mtime, prog.Host)
	if err != nil {
		return err
	}
	if _, taken := b.t.Lookup(prog.Path); taken {
		b.note("%s: the overlay's is replaced by ours", prog.Path)
	}
	if _, err := b.t.Put(prog.Path, n); err != nil {
		return err
	}
	for _, p := range prog.Links {
		link, err := b.t.LinkTo(p, prog.Path)
		switch {
		case isNotPlace(err):
			b.note("%s: left out: %v", p, err)
			continue
		case err != nil:
			return err
		}
		if strings.HasPrefix(path.Base(p), "hf-") {
			if _, err := b.t.Put(p, link); err != nil {
				return err
			}
			continue
		}
		done, err := b.t.Fill(p, link)
		if err != nil {
			return err
		}
		if !done {
			b.note("%s: the overlay's is kept", p)
		}
	}
	return nil
}
