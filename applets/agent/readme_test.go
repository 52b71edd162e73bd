//go:build linux

package agent

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyperfleet/init/applets/client"
)

// readme is what README.md shows of the client in Go, to the byte.
func readme(ctx context.Context, c *client.Client, dir, url string) (*http.Response, error) {
	// README begins
	copied, err := c.CopyTo(ctx, "./src", dir, client.CopyOptions{})
	if err != nil {
		return nil, err
	}
	p, err := c.Start(ctx, client.Command{Cmd: []string{"ls", "-l"}, Cwd: dir, Stdout: os.Stdout, Stderr: os.Stderr})
	if err != nil {
		return nil, err
	}
	exit, err := p.Wait() // when ctx ends, the command does
	if err != nil {
		return nil, err
	}
	fmt.Println(copied.Entries, "copied, status", exit.ExitCode, "after", exit.DurationMS, "ms")
	web := http.Client{Transport: &http.Transport{DialContext: c.Dial}} // a server in the guest
	return web.Get(url)
	// README ends
}

// TestReadmeShowsThisCode holds README.md's lines in Go to those above.
func TestReadmeShowsThisCode(t *testing.T) {
	source, err := os.ReadFile("readme_test.go")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, code, _ := strings.Cut(string(source), "// README begins\n")
	code, _, _ = strings.Cut(code, "\t// README ends\n")
	var shown strings.Builder
	for line := range strings.Lines(code) {
		shown.WriteString(strings.TrimPrefix(line, "\t"))
	}
	if want := strings.ReplaceAll(shown.String(), "\t", "    "); !strings.Contains(string(page), want) {
		t.Errorf("README.md does not show\n%s", want)
	}
}

// TestReadmeRuns runs them.
func TestReadmeRuns(t *testing.T) {
	l := serve(t, testLimits())
	t.Chdir(t.TempDir())
	if err := os.MkdirAll("src/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "page") }))
	defer server.Close()
	dir := filepath.Join(t.TempDir(), "copy")
	page, err := readme(t.Context(), client.New(client.Unix(l.socket)), dir, server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer page.Body.Close()
	if body, err := io.ReadAll(page.Body); err != nil || string(body) != "page" {
		t.Errorf("%q, %v", body, err)
	}
	if _, err := os.Stat(dir + "/sub"); err != nil {
		t.Error(err)
	}
}
