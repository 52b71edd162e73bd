package rootfsskel

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Modules are a kernel's modules, to be reduced to those that are wanted.
type Modules struct {
	Dir   string   // lib/modules/VERSION, or a tree that holds one
	Extra []string // by name, beside those that vsock needs
}

// vsockModules are what a guest needs for vsock over virtio, on either bus, and for
// loopback.
func vsockModules() []string {
	return []string{
		"virtio", "virtio_ring", "virtio_mmio", "virtio_pci",
		"vsock", "vmw_vsock_virtio_transport_common", "vmw_vsock_virtio_transport", "vsock_loopback",
	}
}

// maxModule bounds what a compressed module may unpack to.
const maxModule = 64 << 20

// fillModules adds the wanted modules with what they depend on, unpacked, so that
// PID 1 needs no decompressor, and a modules.dep of just these.
func (b *builder) fillModules(m *Modules) error {
	dir, err := findModules(m.Dir)
	if err != nil {
		return err
	}
	ix, err := readIndex(dir)
	if err != nil {
		return err
	}
	base := "/lib/modules/" + filepath.Base(dir)
	if _, taken := b.t.Lookup(base + "/modules.dep"); taken {
		b.note("%s: the overlay's modules are kept", base)
		return nil
	}
	chosen, err := b.choose(ix, m.Extra)
	if err != nil {
		return err
	}
	var dep bytes.Buffer
	for _, p := range chosen {
		data, err := ix.read(p)
		if err != nil {
			return err
		}
		if err := b.fill(base+"/"+plain(p), File(0o644, b.t.mtime, data)); err != nil {
			return err
		}
		deps, err := ix.closure(p)
		if err != nil {
			return err
		}
		fmt.Fprintf(&dep, "%s:", plain(p))
		for _, d := range deps {
			fmt.Fprintf(&dep, " %s", plain(d))
		}
		dep.WriteByte('\n')
	}
	if err := b.fill(base+"/modules.dep", File(0o644, b.t.mtime, dep.Bytes())); err != nil {
		return err
	}
	return b.fill(base+"/modules.builtin", File(0o644, b.t.mtime, ix.builtinText))
}

// choose returns the files of the wanted modules and of all they depend on, in
// order. What is built into the kernel is no file.
func (b *builder) choose(ix *moduleIndex, extra []string) ([]string, error) {
	set := make(map[string]bool)
	want := append(vsockModules(), extra...)
	for i, name := range want {
		p, ok := ix.path[moduleName(name)]
		switch {
		case ok:
		case ix.builtin[moduleName(name)]:
			continue
		case i >= len(vsockModules()):
			return nil, fmt.Errorf("%s: no module %s in this kernel", ix.dir, name)
		default:
			b.note("%s: the kernel has no module %s", ix.dir, name)
			continue
		}
		deps, err := ix.closure(p)
		if err != nil {
			return nil, err
		}
		set[p] = true
		for _, d := range deps {
			set[d] = true
		}
	}
	var chosen []string
	for p := range set {
		chosen = append(chosen, p)
	}
	slices.Sort(chosen)
	return chosen, nil
}

// findModules returns the one lib/modules/VERSION of a path.
func findModules(dir string) (string, error) {
	top, err := filepath.EvalSymlinks(dir)
	if err == nil {
		top, err = filepath.Abs(top)
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", dir, err)
	}
	var found []string
	for _, pattern := range []string{".", "*", "lib/modules/*", "usr/lib/modules/*"} {
		matches, err := filepath.Glob(filepath.Join(escapeGlob(top), pattern))
		if err != nil {
			return "", err
		}
		for _, p := range matches {
			if st, err := os.Stat(filepath.Join(p, "kernel")); err == nil && st.IsDir() {
				found = append(found, p)
			}
		}
		// lib may be a link to usr/lib: the first pattern that matches is enough.
		if len(found) > 0 {
			break
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", fmt.Errorf("%s: no kernel modules here (a lib/modules/VERSION with a directory kernel)", dir)
	}
	return "", fmt.Errorf("%s: modules of %d kernels: name one of them, as %s", dir, len(found), found[0])
}

func escapeGlob(p string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(p)
}

// A moduleIndex knows the modules of a kernel by name and by path below dir.
type moduleIndex struct {
	dir         string
	path        map[string]string   // name → path
	deps        map[string][]string // path → paths, as modules.dep has them; nil without one
	builtin     map[string]bool
	builtinText []byte
}

// readIndex reads modules.dep. Where there is none (Debian's package leaves it to
// depmod, which the package runs once it is installed) the modules themselves say
// what they depend on.
func readIndex(dir string) (*moduleIndex, error) {
	ix := &moduleIndex{dir: dir, path: make(map[string]string), builtin: make(map[string]bool)}
	var err error
	ix.builtinText, err = os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for p := range strings.FieldsSeq(string(ix.builtinText)) {
		ix.builtin[moduleName(p)] = true
	}
	text, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if errors.Is(err, os.ErrNotExist) {
		return ix, ix.scan()
	}
	if err != nil {
		return nil, err
	}
	ix.deps = make(map[string][]string)
	for line := range strings.Lines(string(text)) {
		p, deps, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		ix.path[moduleName(p)] = p
		ix.deps[p] = strings.Fields(deps)
	}
	return ix, nil
}

// scan finds the modules' files.
func (ix *moduleIndex) scan() error {
	return filepath.WalkDir(ix.dir, func(host string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if strings.HasSuffix(plain(host), ".ko") && !d.IsDir() {
			rel, err := filepath.Rel(ix.dir, host)
			if err != nil {
				return err
			}
			ix.path[moduleName(rel)] = rel
		}
		return nil
	})
}

// closure returns all that the module depends on, in the order of modules.dep: who
// loads from the last to the first has at each what it needs.
func (ix *moduleIndex) closure(p string) ([]string, error) {
	if ix.deps != nil {
		// It may say what is in another line only, so follow.
		return ix.follow(p, func(q string) ([]string, error) { return ix.deps[q], nil })
	}
	return ix.follow(p, ix.direct)
}

// follow walks the dependencies depth first; a module comes after what needs it.
func (ix *moduleIndex) follow(p string, direct func(string) ([]string, error)) ([]string, error) {
	var order []string
	state := make(map[string]int) // 1: being visited, 2: done
	var visit func(string) error
	visit = func(q string) error {
		switch state[q] {
		case 1:
			return fmt.Errorf("%s: depends on itself", q)
		case 2:
			return nil
		}
		state[q] = 1
		deps, err := direct(q)
		if err != nil {
			return err
		}
		for _, d := range deps {
			if err := visit(d); err != nil {
				return err
			}
		}
		state[q] = 2
		order = append(order, q)
		return nil
	}
	if err := visit(p); err != nil {
		return nil, err
	}
	order = order[:len(order)-1]
	slices.Reverse(order)
	return order, nil
}

// direct asks the module itself: modpost writes what it depends on into .modinfo.
func (ix *moduleIndex) direct(p string) ([]string, error) {
	data, err := ix.read(p)
	if err != nil {
		return nil, err
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p, err)
	}
	sec := f.Section(".modinfo")
	if sec == nil {
		return nil, fmt.Errorf("%s: no .modinfo in it", p)
	}
	info, err := sec.Data()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p, err)
	}
	var deps []string
	for field := range strings.SplitSeq(string(info), "\x00") {
		list, ok := strings.CutPrefix(field, "depends=")
		if !ok || list == "" {
			continue
		}
		for name := range strings.SplitSeq(list, ",") {
			switch q, ok := ix.path[moduleName(name)]; {
			case ok:
				deps = append(deps, q)
			case !ix.builtin[moduleName(name)]:
				return nil, fmt.Errorf("%s: needs the module %s, which is not there", p, name)
			}
		}
	}
	return deps, nil
}

// read returns a module, unpacked.
func (ix *moduleIndex) read(p string) ([]byte, error) {
	f, err := os.Open(filepath.Join(ix.dir, p))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var r io.Reader = f
	switch path.Ext(p) {
	case ".gz":
		r, err = gzip.NewReader(f)
	case ".xz":
		r, err = xz.NewReader(f)
	case ".zst":
		var zr *zstd.Decoder
		if zr, err = zstd.NewReader(f, zstd.WithDecoderConcurrency(1)); err == nil {
			defer zr.Close()
			r = zr
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p, err)
	}
	data, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p, err)
	}
	if len(data) > maxModule {
		return nil, fmt.Errorf("%s: more than %d bytes", p, maxModule)
	}
	return data, nil
}

// plain is the path without the suffix of a compression.
func plain(p string) string {
	for _, ext := range []string{".gz", ".xz", ".zst"} {
		if s, ok := strings.CutSuffix(p, ext); ok && strings.HasSuffix(s, ".ko") {
			return s
		}
	}
	return p
}

// moduleName is the name by which the kernel knows a module: of its file or of
// what a user calls it, with "_" for "-".
func moduleName(p string) string {
	return strings.ReplaceAll(strings.TrimSuffix(path.Base(plain(p)), ".ko"), "-", "_")
}
