//go:build !linux

package client

import (
	"errors"
	"os"

	"github.com/hyperfleet/init/applets/internal/tarhead"
)

func attributes(*os.File, bool) (map[string]string, error) { return nil, nil }

func setAttribute(*os.File, string, string) error { return errors.ErrUnsupported }

func extents(*os.File, int64) []tarhead.Extent { return nil }
