package vsockclient

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/wire"
)

func teeFlags(f *flag.FlagSet, o *options) {
	f.BoolVar(&o.append, "a", false, "add to the file instead of replacing it")
}

func lsFlags(f *flag.FlagSet, o *options) {
	f.BoolVar(&o.long, "l", false, "tell mode, owner, size and time too")
	f.BoolVar(&o.recursive, "R", false, "list what is in directories too")
}

func mkdirFlags(f *flag.FlagSet, o *options) {
	f.BoolVar(&o.parents, "p", false, "make those above it too, and do not mind if it is there")
	modeFlag(f, o, "m", "755")
}

func mvFlags(f *flag.FlagSet, o *options) {
	f.BoolVar(&o.noReplace, "n", false, "fail if there is something of that name")
}

func rmFlags(f *flag.FlagSet, o *options) {
	f.BoolVar(&o.recursive, "r", false, "delete directories with all that is in them")
	f.BoolVar(&o.force, "f", false, "do not mind what does not exist")
}

func cat(ctx context.Context, c *call) (int, error) {
	return c.each(func(path string) error {
		if c.json {
			_, err := c.client.ReadFile(ctx, path, io.Discard)
			return err
		}
		_, err := c.client.Get(ctx, path, c.stdout, client.GetOptions{})
		return err
	})
}

func tee(ctx context.Context, c *call) (int, error) {
	src := c.stdin
	if !c.json {
		src = io.TeeReader(src, c.stdout)
	}
	if c.append {
		_, err := c.client.WriteFile(ctx, c.args[0], src, client.Append())
		return 0, err
	}
	// The reply of a stream comes before its end, which is what counts.
	sum, err := c.quiet.Put(ctx, c.args[0], src, client.PutOptions{})
	if err == nil && c.json {
		err = wire.WriteData(c.stdout, wire.FileSum{Size: sum.Size})
	}
	return 0, err
}

func ls(ctx context.Context, c *call) (int, error) {
	if len(c.args) == 0 {
		c.args = []string{"/"}
	}
	several := len(c.args) > 1
	return c.each(func(dir string) error {
		if several {
			if err := c.print("%s:\n", printable(dir)); err != nil {
				return err
			}
		}
		err := c.list(ctx, dir)
		var refused *client.Error
		if !c.json && errors.As(err, &refused) && errors.Is(err, syscall.ENOTDIR) {
			st, statErr := c.client.Stat(ctx, dir)
			if statErr != nil {
				return statErr
			}
			return c.show(client.Entry{Name: dir, Attr: client.Attr{Size: st.Size, Mode: st.Mode, ModTime: st.ModTime, UID: -1, GID: -1}})
		}
		return err
	})
}

func (c *call) list(ctx context.Context, dir string) error {
	for e, err := range c.client.List(ctx, dir, client.ListOptions{Recursive: c.recursive}) {
		if err != nil {
			return err
		}
		if err := c.show(e); err != nil {
			return err
		}
		if e.Unlisted != "" {
			c.complain(fmt.Errorf("ls: %s: %s", path.Join(dir, e.Name), e.Unlisted))
		}
	}
	return nil
}

// show prints one name. It comes page by page, so there are no widths to be known.
func (c *call) show(e client.Entry) error {
	name := printable(e.Name)
	if e.Mode.IsDir() {
		name += "/"
	}
	if !c.long {
		return c.print("%s\n", name)
	}
	if e.Target != "" {
		name += " -> " + printable(e.Target)
	}
	owner := "-"
	if e.UID >= 0 {
		owner = strconv.Itoa(e.UID) + ":" + strconv.Itoa(e.GID)
	}
	return c.print("%s  %-11s %12d  %s  %s\n", lsMode(e.Mode), owner, e.Size, e.ModTime.Local().Format(time.DateTime), name)
}

// lsMode writes a file's mode as ls has it.
func lsMode(mode fs.FileMode) string {
	b := []byte(mode.Perm().String())
	for _, kind := range []struct {
		mode   fs.FileMode
		letter byte
	}{
		{fs.ModeDir, 'd'}, {fs.ModeSymlink, 'l'}, {fs.ModeNamedPipe, 'p'}, {fs.ModeSocket, 's'},
		{fs.ModeDevice, 'b'}, {fs.ModeCharDevice, 'c'},
	} {
		if mode&kind.mode != 0 {
			b[0] = kind.letter
		}
	}
	for _, special := range []struct {
		mode   fs.FileMode
		at     int
		letter byte
	}{{fs.ModeSetuid, 3, 's'}, {fs.ModeSetgid, 6, 's'}, {fs.ModeSticky, 9, 't'}} {
		if mode&special.mode == 0 {
			continue
		}
		if b[special.at] == '-' { // nobody may execute it
			special.letter -= 'a' - 'A'
		}
		b[special.at] = special.letter
	}
	return string(b)
}

func hash(ctx context.Context, c *call) (int, error) {
	return c.each(func(path string) error {
		sum, err := c.client.Hash(ctx, path)
		if err != nil {
			return err
		}
		// sha256sum begins a line so whose name is escaped. The name is the user's.
		if strings.ContainsAny(path, "\\\n\r") {
			sum.SHA256 = `\` + sum.SHA256
			path = strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\r", `\r`).Replace(path)
		}
		return c.print("%s  %s\n", sum.SHA256, path)
	})
}

func mkdir(ctx context.Context, c *call) (int, error) {
	mode := fs.FileMode(0o755)
	if c.mode != nil {
		mode = *c.mode
	}
	create := c.client.Mkdir
	if c.parents {
		create = c.client.MkdirAll
	}
	return c.each(func(path string) error { return create(ctx, path, mode) })
}

func mv(ctx context.Context, c *call) (int, error) {
	from, to := c.args[0], c.args[1]
	if st, err := c.quiet.Stat(ctx, to); err == nil && st.IsDir {
		to = path.Join(to, path.Base(from))
	}
	return 0, c.client.Rename(ctx, from, to, !c.noReplace)
}

func remove(ctx context.Context, c *call) (int, error) {
	return c.each(func(path string) error {
		var err error
		if c.recursive {
			_, err = c.client.RemoveAll(ctx, path)
		} else {
			err = c.client.Remove(ctx, path)
		}
		var refused *client.Error
		if c.force && errors.As(err, &refused) && errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
}
