package applets

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/hyperfleet/init/"

// layers are the packages of this module from the top down: one may import only
// those of lower layers. A pattern that ends in /… is for all packages below that
// no longer pattern names.
var layers = [][]string{
	{"cmd/…", "cmd/internal/guestcheck"}, // programs
	{"cmd/internal/…"},
	{"applets", "rootfs-skel"},
	{"applets/initd", "applets/agent", "applets/power", "applets/vsockclient"},
	{"applets/client", "applets/wire", "applets/nsguest", "applets/internal/…"},
}

func matches(pattern, pkg string) bool {
	below, ok := strings.CutSuffix(pattern, "…")
	return pkg == pattern || ok && strings.HasPrefix(pkg, below)
}

func layerOf(pkg string) int {
	layer, longest := -1, ""
	for i, patterns := range layers {
		for _, p := range patterns {
			if matches(p, pkg) && len(p) > len(longest) {
				layer, longest = i, p
			}
		}
	}
	return layer
}

// complaint tells what is wrong with a package's import, if anything is. Both are
// paths; those of this module are without its name.
func complaint(pkg, imported string) string {
	own, ok := strings.CutPrefix(imported, module)
	if !ok {
		switch {
		case imported == "github.com/mdlayher/vsock" && pkg != "applets/internal/transport":
			return "only applets/internal/transport may"
		case pkg == "applets/wire" && (imported == "os" || strings.HasPrefix(imported, "os/") || imported == "net" || strings.HasPrefix(imported, "net/") || imported == "syscall"):
			return "wire knows no files and no network"
		}
		return ""
	}
	from, to := layerOf(pkg), layerOf(own)
	switch {
	case from < 0:
		return pkg + " is in no layer"
	case to < 0:
		return own + " is in no layer"
	case pkg == "rootfs-skel" && own == "applets":
		return "the skeleton gets its tables from cmd/hf-rootfs"
	case pkg == "applets/wire":
		return "wire imports nothing of this module"
	case from > to, from == to && from < len(layers)-1:
		return "imports run downwards only"
	}
	return ""
}

func TestImports(t *testing.T) {
	packages := map[string]bool{}
	err := filepath.WalkDir("..", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			if name != ".." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "build" || d.Name() == "assets") {
				return fs.SkipDir
			}
			return nil
		case !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		rel, _ := filepath.Rel("..", name)
		pkg := path.Dir(filepath.ToSlash(rel))
		packages[pkg] = true
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range file.Imports {
			imported, _ := strconv.Unquote(spec.Path.Value)
			if wrong := complaint(pkg, imported); wrong != "" {
				t.Errorf("%s imports %s: %s", rel, imported, wrong)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, pkg := range []string{"cmd/hf", "applets", "applets/initd", "applets/wire", "applets/internal/transport", "rootfs-skel"} {
		if !packages[pkg] {
			t.Errorf("%s was not looked at", pkg)
		}
	}
}

// The rules themselves: each is broken here.
func TestImportRules(t *testing.T) {
	for _, test := range []struct {
		pkg, imported string
		wrong         bool
	}{
		{"cmd/hf", module + "applets", false},
		{"cmd/hf-rootfs", module + "rootfs-skel", false},
		{"cmd/hf-vm", module + "cmd/internal/vm", false},
		{"cmd/internal/vm", module + "applets/client", false},
		{"cmd/internal/vm", module + "cmd/hf-vm", true},
		{"applets", module + "cmd/internal/vm", true},
		{"applets", module + "cmd/hf", true},
		{"applets", module + "applets/initd", false},
		{"applets/initd", module + "applets", true},
		{"applets/initd", module + "applets/agent", true},
		{"applets/initd", module + "applets/internal/mounts", false},
		{"applets/vsockclient", module + "applets/client", false},
		{"applets/client", module + "applets/wire", false},
		{"applets/client", module + "applets/agent", true},
		{"applets/internal/mounts", module + "applets/initd", true},
		{"applets/wire", module + "applets/internal/version", true},
		{"applets/wire", "os", true},
		{"applets/wire", "net", true},
		{"applets/wire", "net/netip", true},
		{"applets/wire", "io", false},
		{"applets/agent", "github.com/mdlayher/vsock", true},
		{"applets/internal/transport", "github.com/mdlayher/vsock", false},
		{"rootfs-skel", module + "applets", true},
		{"rootfs-skel", module + "applets/internal/mounts", false},
		{"tools", module + "applets/wire", true},
		{"applets/new", module + "applets/wire", true},
	} {
		if wrong := complaint(test.pkg, test.imported); (wrong != "") != test.wrong {
			t.Errorf("%s imports %s: %q", test.pkg, test.imported, wrong)
		}
	}
	if _, err := os.Stat("../go.mod"); err != nil {
		t.Error("this is not below the module's root:", err)
	}
}
