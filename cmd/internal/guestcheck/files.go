//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	api "github.com/hyperfleet/init/applets/client"
)

// fileChecks are about files in frames, and what is done to names.
func fileChecks() []check {
	return []check{
		{"files, 3 MiB put and got, by SHA-256, with mode and owner", func() (string, error) { return withClient(putAndGet) }},
		{"files, an upload that broke off is resumed, another discarded", func() (string, error) { return withClient(resumed) }},
		{"files, if_match and a wrong sum change nothing", func() (string, error) { return withClient(ifMatch) }},
		{"files, a full disk leaves the old content and nothing else", func() (string, error) { return withClient(diskFull) }},
		{"files, mkdir, rename, copy, chmod, chown, symlink, truncate, list, delete", func() (string, error) { return withClient(names) }},
		{"files, cp, ls, mv, cat, tee, hash, rm -r through hf-vsock-client", filesByHand},
	}
}

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func putAndGet(ctx context.Context, c *api.Client) (string, error) {
	dir, err := scratch("put")
	if err != nil {
		return "", err
	}
	content, path, mode := noise(4, 3<<20), dir+"/file", fs.FileMode(0o4751)&0o777
	sum, err := c.Put(ctx, path, bytes.NewReader(content), api.PutOptions{Mode: &mode, Owner: &api.Owner{UID: 11, GID: 22}, SHA256: hexSum(content), Sync: true})
	if err != nil || sum.SHA256 != hexSum(content) {
		return "", fmt.Errorf("put: %+v, %w", sum, err)
	}
	st, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if owner := st.Sys().(*syscall.Stat_t); owner.Uid != 11 || owner.Gid != 22 || st.Mode() != mode {
		return "", fmt.Errorf("mode %v, owner %d:%d", st.Mode(), owner.Uid, owner.Gid)
	}
	var attr api.Attr
	back := new(bytes.Buffer)
	if _, err := c.Get(ctx, path, back, api.GetOptions{Hash: true, Begin: func(a api.Attr) error { attr = a; return nil }}); err != nil {
		return "", err
	}
	if !bytes.Equal(back.Bytes(), content) || attr.Size != int64(len(content)) || attr.UID != 11 {
		return "", fmt.Errorf("got %d bytes, %+v", back.Len(), attr)
	}
	back.Reset()
	if _, err := c.Get(ctx, path, back, api.GetOptions{Offset: 1 << 20, Length: 1000}); err != nil || !bytes.Equal(back.Bytes(), content[1<<20:][:1000]) {
		return "", fmt.Errorf("a part: %d bytes, %w", back.Len(), err)
	}
	hash, err := c.Hash(ctx, path)
	if err == nil && hash.SHA256 != hexSum(content) {
		err = fmt.Errorf("hash: %+v", hash)
	}
	return "", err
}

// discarded breaks an upload off like another one beside it, and has only its own
// part removed.
func discarded(ctx context.Context, c *api.Client, path string) error {
	dir := filepath.Dir(path)
	before, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	broken := errors.New("broken off")
	if _, err := c.Put(ctx, path, io.MultiReader(strings.NewReader("some"), failing{broken}), api.PutOptions{Partial: "no"}); !errors.Is(err, broken) {
		return fmt.Errorf("an upload that breaks off: %w", err)
	}
	during, err := os.ReadDir(dir)
	if err != nil || len(during) != len(before)+1 {
		return fmt.Errorf("of an upload that broke off there are %d files, not %d, %w", len(during), len(before)+1, err)
	}
	if err := eventually(patience, func() error { return c.Discard(ctx, path, "no") }); err != nil { // as below
		return err
	}
	after, err := os.ReadDir(dir)
	if err != nil || len(after) != len(before) {
		return fmt.Errorf("discard left %d files, not %d, %w", len(after), len(before), err)
	}
	return nil
}

// resumed breaks an upload off in the middle and goes on with it.
func resumed(ctx context.Context, c *api.Client) (string, error) {
	dir, err := scratch("resumed")
	if err != nil {
		return "", err
	}
	content, path := noise(5, 2<<20), dir+"/file"
	broken := errors.New("broken off")
	half := io.MultiReader(bytes.NewReader(content[:1<<20]), failing{broken})
	if _, err := c.Put(ctx, path, half, api.PutOptions{Partial: "up"}); !errors.Is(err, broken) {
		return "", fmt.Errorf("the first half: %w", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("half a file is there: %v", err)
	}
	if err := discarded(ctx, c, path); err != nil {
		return "", err
	}
	var offset int64
	options := api.PutOptions{Partial: "up", SHA256: hexSum(content), Begin: func(n int64) error { offset = n; return nil }}
	if err := eventually(patience, func() error { // while the agent still holds it, it is busy
		_, err := c.Put(ctx, path, bytes.NewReader(content), options)
		return err
	}); err != nil {
		return "", err
	}
	if offset == 0 || offset > 1<<20 {
		return "", fmt.Errorf("it went on at %d", offset)
	}
	return fmt.Sprintf("at %d", offset), holds(path, content)
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// holds also looks for what was left beside a file.
func holds(path string, content []byte) error {
	b, err := os.ReadFile(path)
	if err == nil && !bytes.Equal(b, content) {
		err = fmt.Errorf("%s holds %d other bytes", path, len(b))
	}
	return errors.Join(err, alone(path))
}

func alone(path string) error {
	list, err := os.ReadDir(filepath.Dir(path))
	if err == nil && (len(list) != 1 || list[0].Name() != filepath.Base(path)) {
		err = fmt.Errorf("beside %s there is %v", path, list)
	}
	return err
}

func ifMatch(ctx context.Context, c *api.Client) (string, error) {
	dir, err := scratch("match")
	if err != nil {
		return "", err
	}
	path, old := dir+"/file", []byte("old")
	if err := os.WriteFile(path, old, 0o600); err != nil {
		return "", err
	}
	for _, row := range []struct {
		options api.PutOptions
		want    error
	}{
		{api.PutOptions{IfMatch: hexSum([]byte("another"))}, syscall.ESTALE},
		{api.PutOptions{IfAbsent: true}, fs.ErrExist},
		{api.PutOptions{SHA256: hexSum([]byte("another"))}, syscall.EBADMSG},
	} {
		if _, err := c.Put(ctx, path, strings.NewReader("new"), row.options); !errors.Is(err, row.want) {
			return "", fmt.Errorf("%+v: %v, want %v", row.options, err, row.want)
		}
		if err := holds(path, old); err != nil {
			return "", err
		}
	}
	_, err = c.Put(ctx, path, strings.NewReader("new"), api.PutOptions{IfMatch: hexSum(old)})
	return "", errors.Join(err, holds(path, []byte("new")))
}

// diskFull puts more into a filesystem of 1 MiB than fits.
func diskFull(ctx context.Context, c *api.Client) (string, error) {
	dir, err := scratch("full")
	if err != nil {
		return "", err
	}
	if err := mountOn(dir, "full", "tmpfs", 0, "size=1m"); err != nil {
		return "", err
	}
	defer syscall.Unmount(dir, 0)
	path, old := dir+"/file", noise(6, 300<<10)
	if err := os.WriteFile(path, old, 0o600); err != nil {
		return "", err
	}
	_, err = c.Put(ctx, path, bytes.NewReader(noise(7, 2<<20)), api.PutOptions{})
	if !errors.Is(err, syscall.ENOSPC) {
		return "", fmt.Errorf("put: %w", err)
	}
	if _, tarErr := c.TarPut(ctx, dir, archive(entry{name: "big", content: noise(8, 2<<20)}), api.TarPutOptions{}); !errors.Is(tarErr, syscall.ENOSPC) {
		return "", fmt.Errorf("tar_put: %w", tarErr)
	}
	return err.Error(), holds(path, old)
}

// names does to names what there is to do.
func names(ctx context.Context, c *api.Client) (string, error) {
	dir, err := scratch("names")
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(dir+"/one", []byte("content"), 0o640); err != nil {
		return "", err
	}
	size, err := c.Copy(ctx, dir+"/one", dir+"/two", false)
	err = errors.Join(err,
		c.MkdirAll(ctx, dir+"/a/b/c", 0o700),
		c.Rename(ctx, dir+"/two", dir+"/a/b/moved", false),
		c.Chmod(ctx, dir+"/a/b/moved", 0o604),
		c.Chown(ctx, dir+"/a/b/moved", "33", "44"),
		c.Symlink(ctx, "../b/moved", dir+"/a/link"),
		c.Truncate(ctx, dir+"/a/b/moved", 3))
	if err != nil || size != 7 {
		return "", fmt.Errorf("%d bytes were copied, %w", size, err)
	}
	if err := c.Rename(ctx, dir+"/one", dir+"/a/b/moved", false); !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("a rename onto a file: %v", err)
	}
	if to, err := c.Readlink(ctx, dir+"/a/link"); err != nil || to != "../b/moved" {
		return "", fmt.Errorf("readlink: %q, %w", to, err)
	}
	var list []string
	for e, err := range c.List(ctx, dir, api.ListOptions{Recursive: true, Page: 2}) {
		if err != nil {
			return "", err
		}
		list = append(list, e.Name)
		if e.Name == "a/b/moved" && (e.Size != 3 || e.Mode != 0o604 || e.UID != 33 || e.GID != 44) {
			return "", fmt.Errorf("%+v", e)
		}
	}
	if want := []string{"a", "a/b", "a/b/c", "a/b/moved", "a/link", "one"}; !slices.Equal(list, want) {
		return "", fmt.Errorf("the list is %q", list)
	}
	n, err := c.RemoveAll(ctx, dir+"/a")
	if err == nil && n != 5 {
		err = fmt.Errorf("%d names were removed, not 5", n)
	}
	return "", errors.Join(err, alone(dir+"/one"))
}

func filesByHand() (string, error) {
	dir, err := scratch("hand")
	if err != nil {
		return "", err
	}
	content := string(noise(10, 200_000))
	if err := errors.Join(os.MkdirAll(dir+"/tree/sub", 0o755), os.WriteFile(dir+"/tree/sub/file", []byte(content), 0o644)); err != nil {
		return "", err
	}
	sum := hexSum([]byte(content))
	for _, row := range []struct {
		out, stdin string
		args       []string
	}{
		{"", "", []string{"cp", "-r", dir + "/tree", "vm:" + dir + "/copy"}},
		{content, "", []string{"cp", "vm:" + dir + "/copy/sub/file", "-"}},
		{"", "", []string{"mkdir", "-p", dir + "/x/y"}},
		{"", "", []string{"mv", dir + "/copy/sub/file", dir + "/x/y"}},
		{sum + "  " + dir + "/x/y/file\n", "", []string{"hash", dir + "/x/y/file"}},
		{content, "", []string{"cat", dir + "/x/y/file"}},
		{"said", "said", []string{"tee", dir + "/x/said"}},
		{"said\ny/\n", "", []string{"ls", dir + "/x"}},
		{"", "", []string{"cp", "-r", "vm:" + dir + "/x", dir + "/back"}},
		{"", "", []string{"rm", "-r", dir + "/x"}},
	} {
		if err := want(0, row.out, row.stdin, row.args...); err != nil {
			return "", err
		}
	}
	return "", sameText(dir+"/back/y/file", content)
}
