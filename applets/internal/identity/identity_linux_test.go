package identity

import (
	"errors"
	"os"
	"reflect"
	"syscall"
	"testing"
)

// TestLookup needs no more of /etc/passwd and /etc/group than Debian's base has.
func TestLookup(t *testing.T) {
	for _, row := range []struct {
		spec string
		want Identity
	}{
		{"", Identity{Home: "/root", own: true}},
		{"4000000001", Identity{UID: 4000000001, GID: 4000000001, Home: "/"}},
		{"4000000001:7", Identity{UID: 4000000001, GID: 7, Home: "/"}},
		{"4294967294", Identity{UID: 4294967294, GID: 4294967294, Home: "/"}},
	} {
		if got, err := Lookup(row.spec); err != nil || !reflect.DeepEqual(got, row.want) {
			t.Errorf("%q: %+v %v", row.spec, got, err)
		}
	}
	if _, err := os.Stat("/etc/passwd"); err == nil {
		for _, spec := range []string{"root", "0", "root:0", "0:root"} {
			if got, err := Lookup(spec); err != nil || got.Name != "root" || got.UID != 0 || got.GID != 0 || got.Home != "/root" {
				t.Errorf("%q: %+v %v", spec, got, err)
			}
		}
	}
	for _, spec := range []string{"nosuch-user", ":", ":root", "root:", "root:nosuch-group", "-1", "4294967295", "0:4294967295", "4294967296", "0x0", "root:root:root", " root"} {
		if got, err := Lookup(spec); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("%q: %+v %v", spec, got, err)
		}
	}
}

func TestParse(t *testing.T) {
	dir := t.TempDir()
	passwd := dir + "/passwd"
	content := "# comment\n\nbroken:x:1\nodd:x:one:1:::\nroot:x:0:0:root:/root:/bin/sh\nann:x:1000:100:Ann,,,:/home/ann:/bin/sh\nlast:x:1001:1001::/:" // no newline
	if err := os.WriteFile(passwd, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	var names []string
	if err := each(passwd, 7, func(f []string) error { names = append(names, f[0]); return nil }); err != nil {
		t.Fatal(err)
	}
	if want := []string{"odd", "root", "ann", "last"}; !reflect.DeepEqual(names, want) {
		t.Errorf("%q, want %q", names, want)
	}
	stop := errors.New("stop")
	if err := each(passwd, 7, func([]string) error { return stop }); err != stop {
		t.Error(err)
	}
	if err := each(dir+"/nosuch", 7, func([]string) error { return stop }); err != nil {
		t.Errorf("a file that is not there: %v", err)
	}
	if err := each(dir, 7, func([]string) error { return nil }); err == nil {
		t.Error("a directory has no error")
	}
}

func TestCredential(t *testing.T) {
	if os.Getuid() == 0 {
		if c := (Identity{}).Credential(); c != nil {
			t.Errorf("root has to become root: %+v", c)
		}
	}
	if c := (Identity{own: true}).Credential(); c != nil {
		t.Errorf("a process has to become what it is: %+v", c)
	}
	if c := (Identity{UID: 5, GID: 6, Groups: []uint32{7}}).Credential(); c == nil || c.Uid != 5 || c.Gid != 6 || len(c.Groups) != 1 || c.NoSetGroups {
		t.Errorf("%+v", c)
	}
}
