package cgroup

import (
	"os"
	"path/filepath"
	"testing"
)

// TestProvide: a controller is turned on from where it is down to where it is
// wanted, in PID 1's tree and in nobody else's.
func TestProvide(t *testing.T) {
	for _, row := range []struct {
		name, tree     string
		root, on       string // what the root has, and passes on
		inside         string // what the group has
		ok             bool
		rootWas, wrote string // what was written
	}{
		{"it is on already", Tree, "cpu", "cpu", "cpu", true, "cpu", ""},
		{"the group has it", Tree, "cpu", "cpu", "memory cpu", true, "cpu", "+cpu"},
		{"the root has it", Tree, "memory cpu", "", "memory", true, "+cpu", "+cpu"},
		{"in the tree of somebody else", "system.slice", "memory cpu", "memory", "memory", false, "memory", ""},
		{"nobody has it", Tree, "memory", "memory", "memory", false, "memory", ""},
		{"one of a longer name", Tree, "cpuset", "cpuset", "cpuset", false, "cpuset", ""},
	} {
		root := Group{t.TempDir()}
		g, err := root.Child(row.tree)
		if err != nil {
			t.Fatal(err)
		}
		already := ""
		if row.wrote == "" && row.ok {
			already = "memory cpu\n"
		}
		for path, content := range map[string]string{
			root.dir + "/cgroup.controllers": row.root + "\n", root.dir + "/cgroup.subtree_control": row.on,
			g.dir + "/cgroup.controllers": row.inside + "\n", g.dir + "/cgroup.subtree_control": already,
		} {
			if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		err = g.Provide("cpu")
		above, _ := os.ReadFile(root.dir + "/cgroup.subtree_control")
		here, _ := os.ReadFile(filepath.Join(g.dir, "cgroup.subtree_control"))
		if (err == nil) != row.ok || string(above) != row.rootWas || string(here) != already+row.wrote {
			t.Errorf("%s: %v, %q, %q", row.name, err, above, here)
		}
	}
}
