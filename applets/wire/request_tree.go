package wire

import (
	"path"
	"slices"
)

// TarGet are the fields of tar_get.
type TarGet struct {
	Path string
	// Top puts the last component of Path before all names; otherwise they are
	// relative to the directory.
	Top           bool
	Compress      string   // Gzip, Zstd, or "" for an archive as it is
	Sparse        bool     // say where files have holes, instead of sending zeros
	OneFilesystem bool     // leave out what is mounted below Path
	Exclude       []string // patterns of path.Match
	Hash          bool     // sum up what is sent
}

// The ways to compress an archive.
const (
	Gzip = "gzip"
	Zstd = "zstd"
)

// TarGet reads the fields of tar_get.
func (f Fields) TarGet() (TarGet, error) {
	r := fieldReader{f: f}
	g := TarGet{
		Path:          r.path("path", true),
		Top:           r.bool("top"),
		Sparse:        r.bool("sparse"),
		OneFilesystem: r.bool("one_filesystem"),
		Exclude:       r.list("exclude"),
		Hash:          r.bool("hash"),
	}
	switch how := r.string("compress"); how {
	case "", "none":
	case Gzip, Zstd:
		g.Compress = how
	default:
		r.fail("compress", "must be none, gzip or zstd")
	}
	for _, pattern := range g.Exclude {
		if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
			r.fail("exclude", "%.100q is not a pattern", pattern)
		}
	}
	return g, r.err
}

// TarPut are the fields of tar_put.
type TarPut struct {
	Path   string // a directory
	Make   bool   // it, if it is missing
	Owners bool   // give the files the archive's owners, and keep what those give rights by
	Strip  int    // components that names lose at their beginning
	Hash   bool   // sum up what comes
}

// TarPut reads the fields of tar_put.
func (f Fields) TarPut() (TarPut, error) {
	r := fieldReader{f: f}
	p := TarPut{
		Path:   r.path("path", true),
		Make:   r.bool("make"),
		Owners: r.bool("owners"),
		Strip:  int(r.int("strip", 0, 0, 1000)),
		Hash:   r.bool("hash"),
	}
	return p, r.err
}

// The types of a [WatchEvent].
const (
	WatchCreate = "create"
	WatchModify = "modify"
	WatchDelete = "delete"
	WatchRename = "rename"
	WatchAttrib = "attrib"
)

// WatchTypes returns all types of events.
func WatchTypes() []string {
	return []string{WatchCreate, WatchModify, WatchDelete, WatchRename, WatchAttrib}
}

// FileWatch are the fields of file_watch.
type FileWatch struct {
	Path      string
	Recursive bool
	Events    []string // types; all if none is given
}

// FileWatch reads the fields of file_watch.
func (f Fields) FileWatch() (FileWatch, error) {
	r := fieldReader{f: f}
	w := FileWatch{Path: r.path("path", true), Recursive: r.bool("recursive"), Events: r.list("events")}
	for _, e := range w.Events {
		if !slices.Contains(WatchTypes(), e) {
			r.fail("events", "there is none named %.100q", e)
		}
	}
	if len(w.Events) == 0 {
		w.Events = WatchTypes()
	}
	return w, r.err
}
