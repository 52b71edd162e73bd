package wire

import (
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
)

// TestFileFields: what a request may say, and which field is to blame if not.
func TestFileFields(t *testing.T) {
	sum := strings.Repeat("aB", 32)
	lower := strings.ToLower(sum)
	none, some := "", "*"
	put := func(change func(*FilePut)) FilePut {
		p := FilePut{Path: "/x", Size: -1, Mode: -1, UID: -1, GID: -1}
		change(&p)
		return p
	}
	for line, want := range map[string]any{
		`get {"path":"/x"}`: FileGet{Path: "/x", Length: math.MaxInt64},
		`get {"path":"/x","offset":5,"length":0,"hash":true}`:                     FileGet{"/x", 5, 0, true},
		`get {"path":"/x","offset":-1}`:                                           "offset",
		`get {"path":"/x","length":"1"}`:                                          "length",
		`get {"path":"/x","hash":1}`:                                              "hash",
		`put {"path":"/x"}`:                                                       put(func(*FilePut) {}),
		`put {"path":"/x","if_match":""}`:                                         put(func(p *FilePut) { p.IfMatch = &none }),
		`put {"path":"/x","if_match":"*"}`:                                        put(func(p *FilePut) { p.IfMatch = &some }),
		`put {"path":"/x","if_match":"` + sum + `"}`:                              put(func(p *FilePut) { p.IfMatch = &lower }),
		`put {"path":"/x","if_match":"**"}`:                                       "if_match",
		`put {"path":"/x","if_match":7}`:                                          "if_match",
		`put {"path":"/x","sha256":"` + sum + `"}`:                                put(func(p *FilePut) { p.SHA256 = lower }),
		`put {"path":"/x","sha256":""}`:                                           "sha256",
		`put {"path":"/x","sha256":"abc"}`:                                        "sha256",
		`put {"path":"/x","sha256":"` + sum + `00"}`:                              "sha256",
		`put {"path":"/x","size":0,"uid":0,"gid":4294967294}`:                     put(func(p *FilePut) { p.Size, p.UID, p.GID = 0, 0, 4294967294 }),
		`put {"path":"/x","uid":4294967295}`:                                      "uid",
		`put {"path":"/x","gid":-1}`:                                              "gid",
		`put {"path":"/x","mtime":"2001-02-03T04:05:06.7Z"}`:                      put(func(p *FilePut) { p.MTime = time.Date(2001, 2, 3, 4, 5, 6, 7e8, time.UTC) }),
		`put {"path":"/x","mtime":"yesterday"}`:                                   "mtime",
		`put {"path":"/x","mtime":5}`:                                             "mtime",
		`put {"path":"/x","partial":"a-B_9"}`:                                     put(func(p *FilePut) { p.Partial = "a-B_9" }),
		`put {"path":"/x","partial":"a/b"}`:                                       "partial",
		`put {"path":"/x","partial":".."}`:                                        "partial",
		`put {"path":"/x","partial":"` + lower + `0"}`:                            "partial",
		`put {"path":"/x","discard":true}`:                                        "partial",
		`list {"path":"/x"}`:                                                      FileList{"/x", false, 1000, ""},
		`list {"path":"/x","after":"L3g="}`:                                       "after", // absolute
		`list {"path":"/x","after":"x"}`:                                          "after",
		`list {"path":"/x","after":"` + Cursor(strings.Repeat("a/", 2049)) + `"}`: "after",
		`list {"path":"/x","after":"` + Cursor("a/\xff") + `","limit":1}`:         FileList{"/x", false, 1, "a/\xff"},
		`list {"path":"/x","limit":0}`:                                            "limit",
		`list {"path":"/x","limit":10001}`:                                        "limit",
		`mkdir {"path":"/x","parents":true}`:                                      FileMkdir{"/x", -1, true},
		`move {"path":"/x"}`:                                                      "to",
		`move {"path":"/x","to":"y"}`:                                             "to",
		`move {"path":"/x","to":"/y","replace":true}`:                             FileMove{"/x", "/y", true},
		`chmod {"path":"/x"}`:                                                     "mode",
		`chmod {"path":"/x","mode":"7"}`:                                          FileChmod{"/x", 7},
		`chown {"path":"/x"}`:                                                     "uid",
		`chown {"path":"/x","uid":1,"user":"a"}`:                                  "user",
		`chown {"path":"/x","gid":1,"group":"a"}`:                                 "group",
		`chown {"path":"/x","user":"a:b"}`:                                        "user",
		`chown {"path":"/x","uid":1,"group":"a"}`:                                 FileChown{"/x", 1, -1, "", "a", true},
		`chown {"path":"/x","gid":0,"follow":false}`:                              FileChown{"/x", -1, 0, "", "", false},
		`chown {"path":"/x","gid":0,"follow":"no"}`:                               "follow",
		`symlink {"path":"/x"}`:                                                   "target",
		`symlink {"path":"/x","target":"../y"}`:                                   FileSymlink{"/x", "../y"},
		`symlink {"path":"/x","target":"a\u0000"}`:                                "target",
		`truncate {"path":"/x"}`:                                                  "size",
		`truncate {"path":"/x","size":-1}`:                                        "size",
		`truncate {"path":"/x","size":9223372036854775807}`:                       FileTruncate{"/x", math.MaxInt64},
		`delete {"path":"/x","recursive":true}`:                                   FileDelete{"/x", true},
		`delete {"recursive":true}`:                                               "path",
	} {
		name, object, _ := strings.Cut(line, " ")
		fields, err := ParseFields([]byte(object))
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		got, err := fileReaders()[name](fields)
		if fieldErr, ok := err.(*FieldError); ok {
			got = fieldErr.Field
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v; want %+v", line, got, err, want)
		}
	}
}

// fileReaders are the readers of the fields of file operations.
func fileReaders() map[string]func(Fields) (any, error) {
	return map[string]func(Fields) (any, error){
		"get":      func(f Fields) (any, error) { return f.FileGet() },
		"put":      func(f Fields) (any, error) { return f.FilePut() },
		"list":     func(f Fields) (any, error) { return f.FileList() },
		"mkdir":    func(f Fields) (any, error) { return f.FileMkdir() },
		"move":     func(f Fields) (any, error) { return f.FileMove() },
		"chmod":    func(f Fields) (any, error) { return f.FileChmod() },
		"chown":    func(f Fields) (any, error) { return f.FileChown() },
		"symlink":  func(f Fields) (any, error) { return f.FileSymlink() },
		"truncate": func(f Fields) (any, error) { return f.FileTruncate() },
		"delete":   func(f Fields) (any, error) { return f.FileDelete() },
	}
}

// FuzzFileFields: no object makes a reader fail but by blaming a field, and what a
// reader takes is within its bounds.
func FuzzFileFields(f *testing.F) {
	f.Add([]byte(`{"path":"/x","size":1,"mode":"644","uid":0,"mtime":"2001-02-03T04:05:06Z","if_match":"*","partial":"a"}`))
	f.Add([]byte(`{"path":"/x","to":"/y","replace":true,"target":"t","after":"Yg==","limit":7,"follow":false}`))
	f.Add([]byte(`{"path":"/x","offset":1e4,"length":null,"hash":true,"discard":true,"partial":"../x"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		if !json.Valid(line) {
			return
		}
		fields, err := ParseFields(line)
		if err != nil {
			return
		}
		for name, read := range fileReaders() {
			v, err := read(fields)
			if err != nil {
				if _, ok := err.(*FieldError); !ok {
					t.Errorf("%s: %T %v", name, err, err)
				}
				continue
			}
			if path := reflect.ValueOf(v).FieldByName("Path").String(); path == "" || path[0] != '/' || strings.Contains(path, "\x00") {
				t.Errorf("%s: path %q", name, path)
			}
			switch v := v.(type) {
			case FileGet:
				if v.Offset < 0 || v.Length < 0 {
					t.Errorf("%+v", v)
				}
			case FilePut:
				if strings.ContainsAny(v.Partial, "/.\x00") || v.Size < -1 || v.UID < -1 || v.UID > maxID || v.Mode > 0o7777 || v.SHA256 != "" && len(v.SHA256) != 64 {
					t.Errorf("%+v", v)
				}
			case FileList:
				if v.Limit < 1 || v.Limit > MaxList || len(v.After) > maxPath {
					t.Errorf("%+v", v)
				}
			}
		}
	})
}
