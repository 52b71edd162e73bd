package wire

import (
	"errors"
	"reflect"
	"testing"
)

// TestTreeRequests: the fields of tar_get, tar_put and file_watch, and what is
// refused by its name.
func TestTreeRequests(t *testing.T) {
	get := func(f Fields) (any, error) { return f.TarGet() }
	put := func(f Fields) (any, error) { return f.TarPut() }
	watch := func(f Fields) (any, error) { return f.FileWatch() }
	for _, row := range []struct {
		read func(Fields) (any, error)
		line string
		want any // or the name of the field that is wrong
	}{
		{get, `{"path":"/a"}`, TarGet{Path: "/a"}},
		{get, `{"path":"/a","top":true,"sparse":true,"one_filesystem":true,"compress":"gzip","exclude":["*.o","a/b"]}`,
			TarGet{Path: "/a", Top: true, Sparse: true, OneFilesystem: true, Compress: Gzip, Exclude: []string{"*.o", "a/b"}}},
		{get, `{"path":"/a","compress":"none"}`, TarGet{Path: "/a"}},
		{get, `{"path":"/a","compress":"zstd"}`, TarGet{Path: "/a", Compress: Zstd}},
		{get, `{"path":"/a","compress":"xz"}`, "compress"},
		{get, `{"path":"/a","exclude":["[a"]}`, "exclude"},
		{get, `{"path":"/a","exclude":[""]}`, "exclude"},
		{get, `{"path":"a"}`, "path"},
		{get, `{}`, "path"},
		{put, `{"path":"/a","make":true,"owners":true,"strip":2}`, TarPut{Path: "/a", Make: true, Owners: true, Strip: 2}},
		{put, `{"path":"/a","strip":-1}`, "strip"},
		{put, `{"path":"/a","owners":"root"}`, "owners"},
		{put, `{"make":true}`, "path"},
		{watch, `{"path":"/a"}`, FileWatch{Path: "/a", Events: WatchTypes()}},
		{watch, `{"path":"/a","recursive":true,"events":["create","rename"]}`, FileWatch{Path: "/a", Recursive: true, Events: []string{"create", "rename"}}},
		{watch, `{"path":"/a","events":["open"]}`, "events"},
		{watch, `{"events":["create"]}`, "path"},
	} {
		f, err := ParseFields([]byte(row.line))
		if err != nil {
			t.Fatal(err)
		}
		got, err := row.read(f)
		var wrong *FieldError
		if errors.As(err, &wrong) {
			got = wrong.Field
		}
		if !reflect.DeepEqual(got, row.want) {
			t.Errorf("%s: %+v, %v", row.line, got, err)
		}
	}
}
