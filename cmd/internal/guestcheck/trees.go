//go:build linux

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	api "github.com/hyperfleet/init/applets/client"
	"golang.org/x/sys/unix"
)

// patience is for what only a fault keeps from coming.
const patience = 30 * time.Second

// treeChecks are about archives, what changes in a tree, and the guest's ports.
func treeChecks() []check {
	return []check{
		{"trees, modes, owners, links, xattrs and holes go there and back", func() (string, error) { return withClient(treeThereAndBack) }},
		{"trees, CopyFrom and CopyTo copy all but a FIFO, and tell of that", func() (string, error) { return withClient(copyTree) }},
		{"trees, entries that would escape are refused", func() (string, error) { return withClient(treeEscapes) }},
		{"trees, file_watch tells what happens below", func() (string, error) { return withClient(watchTree) }},
		{"ports, forward to TCP", func() (string, error) { return forwardTo("tcp", "127.0.0.1:0") }},
		{"ports, forward to a Unix socket", func() (string, error) { return forwardTo("unix", "/run/echo.sock") }},
		{"ports, nobody listens", func() (string, error) { return withClient(nobodyListens) }},
		{"ports, proxy through hf-vsock-client", proxied},
	}
}

// An entry is one of an archive.
type entry struct {
	name, link string
	kind       byte // 0 is a file
	content    []byte
}

func archive(entries ...entry) io.Reader {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Linkname: e.link, Typeflag: e.kind, Mode: 0o644, Size: int64(len(e.content))}
		if e.kind == 0 {
			h.Typeflag = tar.TypeReg
		}
		w.WriteHeader(h)
		w.Write(e.content)
	}
	w.Close()
	return &b
}

// treeThereAndBack archives a tree with one of everything in each way, unpacks it
// beside, and compares.
func treeThereAndBack(ctx context.Context, c *api.Client) (string, error) {
	dir, err := scratch("tree")
	if err != nil {
		return "", err
	}
	if err := plant(dir + "/from"); err != nil {
		return "", err
	}
	var told []string
	for _, how := range []string{"none", "gzip", "zstd"} {
		note, err := passTree(ctx, c, dir+"/from", dir+"/to-"+how, how)
		if err != nil {
			return "", fmt.Errorf("%s: %w", how, err)
		}
		told = append(told, how+": "+note)
	}
	return strings.Join(told, "; "), nil
}

// passTree archives one tree, compressed or not, and unpacks it as another.
func passTree(ctx context.Context, c *api.Client, from, to, compress string) (string, error) {
	var packed bytes.Buffer
	got, err := c.TarGet(ctx, from, &packed, api.TarGetOptions{Sparse: true, Compress: compress})
	if err != nil || got.Warned > 0 {
		return "", fmt.Errorf("tar_get: %+v, %w", got, err)
	}
	if packed.Len() > 1<<20 {
		return "", fmt.Errorf("the archive has %d bytes: holes were sent", packed.Len())
	}
	size := packed.Len()
	if put, err := c.TarPut(ctx, to, &packed, api.TarPutOptions{Make: true, Owners: true}); err != nil || put.Warned > 0 || put.Entries != got.Entries {
		return "", fmt.Errorf("tar_put: %+v, %w", put, err)
	}
	for _, name := range []string{"", "/file", "/hard", "/link", "/sparse", "/fifo", "/dir"} {
		a, errA := describe(from + name)
		b, errB := describe(to + name)
		if err := errors.Join(errA, errB); err != nil || a != b {
			return "", fmt.Errorf("%s: there is %s, not %s, %w", name, b, a, err)
		}
	}
	return fmt.Sprintf("%d entries, %d bytes", got.Entries, size), nil
}

// copyTree copies a tree out of the guest and back into it, which are one here.
func copyTree(ctx context.Context, c *api.Client) (string, error) {
	dir, err := scratch("copy")
	if err != nil {
		return "", err
	}
	from, out, back := dir+"/from", dir+"/out", dir+"/back"
	if err := plant(from); err != nil {
		return "", err
	}
	o := api.CopyOptions{Owners: true, Hash: true}
	got, err := c.CopyFrom(ctx, from, out, o)
	if err != nil || got.SHA256 == "" || len(got.Skipped) != 1 || !strings.HasPrefix(got.Skipped[0], "fifo: ") {
		return "", fmt.Errorf("CopyFrom: %+v, %w", got, err)
	}
	put, err := c.CopyTo(ctx, out, back, o)
	if err != nil || put.SHA256 == "" || len(put.Skipped) > 0 {
		return "", fmt.Errorf("CopyTo: %+v, %w", put, err)
	}
	if to, err := os.Readlink(back + "/link"); to != "../leads/nowhere" { // without its time
		return "", fmt.Errorf("a link to %q, %w", to, err)
	}
	for _, name := range []string{"", "/file", "/hard", "/sparse", "/dir"} {
		a, errA := describe(from + name)
		b, errB := describe(back + name)
		if err := errors.Join(errA, errB); err != nil || a != b {
			return "", fmt.Errorf("%s: there is %s, not %s, %w", name, b, a, err)
		}
	}
	return fmt.Sprintf("%d entries", put.Entries), nil
}

// plant makes a tree with one of everything.
func plant(dir string) error {
	err := errors.Join(
		os.MkdirAll(dir+"/dir", 0o755),
		os.WriteFile(dir+"/file", noise(11, 5000), 0o600),
		os.Lchown(dir+"/file", 55, 66),
		os.Chmod(dir+"/file", fs.ModeSetuid|0o751), // behind the owner, whose change takes it away
		os.Link(dir+"/file", dir+"/hard"),
		os.Symlink("../leads/nowhere", dir+"/link"),
		os.WriteFile(dir+"/sparse", []byte("begins"), 0o644),
		os.Truncate(dir+"/sparse", 40<<20),
		syscall.Mkfifo(dir+"/fifo", 0o640),
		os.Chmod(dir+"/dir", fs.ModeSticky|0o777))
	// Not every filesystem keeps user attributes; root's own every one here does.
	return errors.Join(err, unix.Setxattr(dir+"/file", "trusted.check", []byte("kept\x00all"), 0))
}

// describe tells all about a name that an archive keeps.
func describe(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	size := st.Size
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		size = 0 // that of a directory is the filesystem's affair
	}
	const piece = 64 << 10 // of content that is written at once
	link, _ := os.Readlink(path)
	value := make([]byte, 100)
	n, _ := unix.Lgetxattr(path, "trusted.check", value)
	content := ""
	if st.Mode&unix.S_IFMT == unix.S_IFREG {
		b, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		content = hexSum(b)
	}
	return fmt.Sprintf("mode %o, %d:%d, %d names, size %d, sparse %t, changed %d.%d, to %q, attribute %q, sum %s",
		st.Mode, st.Uid, st.Gid, st.Nlink, size, st.Blocks*512+piece < size, st.Mtim.Sec, st.Mtim.Nsec, link, value[:max(n, 0)], content), nil
}

// treeEscapes unpacks what must not get out of its directory.
func treeEscapes(ctx context.Context, c *api.Client) (string, error) {
	dir, err := scratch("escape")
	if err != nil {
		return "", err
	}
	secret := dir + "/secret"
	for _, row := range []struct {
		what    string
		entries []entry
		want    error
	}{
		{"..", []entry{{name: "../secret", content: []byte("x")}}, syscall.EXDEV},
		{"an absolute name", []entry{{name: secret, content: []byte("x")}}, syscall.EXDEV},
		{"a link on the way", []entry{{name: "up", kind: tar.TypeSymlink, link: ".."}, {name: "up/secret", content: []byte("x")}}, syscall.ELOOP},
		{"a hard link", []entry{{name: "hard", kind: tar.TypeLink, link: "../secret"}}, syscall.EXDEV},
	} {
		if err := errors.Join(os.RemoveAll(dir+"/in"), os.Mkdir(dir+"/in", 0o755), os.WriteFile(secret, []byte("safe"), 0o600)); err != nil {
			return "", err
		}
		if _, err := c.TarPut(ctx, dir+"/in", archive(row.entries...), api.TarPutOptions{Owners: true}); !errors.Is(err, row.want) {
			return "", fmt.Errorf("%s: %v, want %v", row.what, err, row.want)
		}
		if err := sameText(secret, "safe"); err != nil {
			return "", fmt.Errorf("%s: %w", row.what, err)
		}
	}
	return "", nil
}

// watchTree sees a file come, change and go in a directory that was made after the
// watch began.
func watchTree(ctx context.Context, c *api.Client) (string, error) {
	dir, err := scratch("watch")
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	steps := []struct {
		do   func() error
		want api.WatchEvent
	}{
		{func() error { return os.Mkdir(dir+"/new", 0o755) }, api.WatchEvent{Type: "create", Name: "new", IsDir: true}},
		{func() error { return os.WriteFile(dir+"/new/file", []byte("x"), 0o644) }, api.WatchEvent{Type: "create", Name: "new/file"}},
		{func() error { return os.Truncate(dir+"/new/file", 100) }, api.WatchEvent{Type: "modify", Name: "new/file"}},
		{func() error { return os.Rename(dir+"/new/file", dir+"/moved") }, api.WatchEvent{Type: "rename", Name: "moved", From: "new/file"}},
		{func() error { return os.Remove(dir + "/moved") }, api.WatchEvent{Type: "delete", Name: "moved"}},
	}
	at := 0
	next := func() { err = errors.Join(err, steps[at].do()) }
	for e, watchErr := range c.Watch(ctx, dir, api.WatchOptions{Recursive: true, Begin: next}) {
		if err := errors.Join(err, watchErr); err != nil {
			return "", fmt.Errorf("waiting for %+v: %w", steps[at].want, err)
		}
		if e != steps[at].want {
			continue
		}
		if at++; at == len(steps) {
			return "", nil
		}
		next()
	}
	return "", errors.New("the watch ended")
}

// echoServer sends back what comes, up to its end.
func echoServer(network, address string) (net.Listener, error) {
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(conn, conn); conn.Close() }()
		}
	}()
	return l, nil
}

func forwardTo(network, address string) (string, error) {
	l, err := echoServer(network, address)
	if err != nil {
		return "", err
	}
	defer l.Close()
	return withClient(func(ctx context.Context, c *api.Client) (string, error) {
		return "", echoThrough(ctx, c, l.Addr())
	})
}

func echoThrough(ctx context.Context, c *api.Client, l net.Addr) error {
	conn, err := c.Dial(ctx, l.Network(), l.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	sent := noise(12, 1<<20)
	go func() { conn.Write(sent); conn.(interface{ CloseWrite() error }).CloseWrite() }()
	back, err := io.ReadAll(conn)
	if err == nil && !bytes.Equal(back, sent) {
		err = fmt.Errorf("%d bytes came back of %d", len(back), len(sent))
	}
	return err
}

func nobodyListens(ctx context.Context, c *api.Client) (string, error) {
	_, err := c.Dial(ctx, "tcp", "127.0.0.1:9")
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return "", fmt.Errorf("it is %v", err)
	}
	return err.Error(), nil
}

func proxied() (string, error) {
	l, err := echoServer("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	said := string(noise(13, 100_000))
	return "", want(0, said, said, "proxy", port)
}
