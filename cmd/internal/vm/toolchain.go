package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Root returns the directory of the module that the program is run in: the
// source tree that everything is built from.
func Root() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w (Go is needed: https://go.dev/dl)", err)
	}
	mod := strings.TrimSpace(string(out))
	if mod == "" || mod == os.DevNull {
		return "", errors.New("not inside the source tree: run it from a clone of the repository")
	}
	return filepath.Dir(mod), nil
}

// GoBuild builds a package of the tree as a static program for arch.
func GoBuild(ctx context.Context, root, pkg, arch, out string, flags ...string) error {
	args := append([]string{"build", "-trimpath", "-o", out}, append(flags, pkg)...)
	return runGo(ctx, root, []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + arch}, args)
}

// BuildInit builds the product's binary for arch.
func BuildInit(ctx context.Context, root, arch, out, version string) error {
	flags, err := os.ReadFile(filepath.Join(root, "cmd/hf/ldflags"))
	if err != nil {
		return err
	}
	return GoBuild(ctx, root, "./cmd/hf", arch, out, "-ldflags",
		strings.TrimSpace(string(flags))+" -X github.com/hyperfleet/init/applets/internal/version.version="+version)
}

// Rootfs runs hf-rootfs, which is built and run in one go, with args.
func Rootfs(ctx context.Context, root string, args ...string) error {
	return runGo(ctx, root, nil, append([]string{"run", "./cmd/hf-rootfs"}, args...))
}

func runGo(ctx context.Context, root string, env, args []string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), env...)
	return quietly(cmd)
}

// quietly runs cmd and returns its output only as part of its error.
func quietly(cmd *exec.Cmd) error {
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", CommandLine(cmd.Args), err, bytes.TrimSpace(out))
	}
	return nil
}
