package vsockclient

import (
	"context"
	"io"
	"os"

	"github.com/hyperfleet/init/applets/client"
)

const readHelp = `FILE is replaced when all has arrived; if that fails it stays as it was.
Without FILE, or with -, the content goes to stdout.
`

const writeHelp = `PATH is replaced when all has arrived; if that fails it stays as it was.
Without FILE, or with -, the content is that of stdin.
`

func read(ctx context.Context, c *call) (int, error) {
	path := c.args[0]
	switch {
	case c.json:
		_, err := c.client.ReadFile(ctx, path, io.Discard)
		return 0, err
	case len(c.args) == 1 || c.args[1] == "-":
		_, err := c.client.ReadFile(ctx, path, c.stdout)
		return 0, err
	}
	f, err := replace(c.args[1], 0o666)
	if err != nil {
		return 0, err
	}
	_, err = c.client.ReadFile(ctx, path, f)
	return 0, f.finish(err)
}

func write(ctx context.Context, c *call) (int, error) {
	var opts []client.WriteOption
	if c.mode != nil {
		opts = append(opts, client.WithMode(*c.mode))
	}
	if c.append {
		opts = append(opts, client.Append())
	}
	src := c.stdin
	if len(c.args) == 2 && c.args[1] != "-" {
		f, err := os.Open(c.args[1])
		if err != nil {
			return 0, err
		}
		defer f.Close()
		src = f
	}
	_, err := c.client.WriteFile(ctx, c.args[0], src, opts...)
	return 0, err
}
