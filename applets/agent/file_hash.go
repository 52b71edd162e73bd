//go:build linux

package agent

import (
	"context"
	"crypto/sha256"
	"io"

	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// fileHash sums up a file.
func (a *Agent) fileHash(r *request) error {
	path, err := r.fields.Path()
	if err != nil {
		return err
	}
	f, limit, err := openToRead(path, anySize)
	if err != nil {
		return failed(r, path, err)
	}
	defer unix.Close(f.fd)
	gone, stop := withGone(r)
	sum := checksum{Hash: sha256.New()}
	buf, release := r.conn.memory.buffer()
	err = copyAll(gone, &sum, io.LimitReader(f, limit), buf)
	release()
	stop()
	if err != nil {
		return failed(r, path, err)
	}
	return replying(wire.WriteData(r.conn, sum.result()))
}

// copyAll copies until the end of src, or until the client is gone.
func copyAll(ctx context.Context, dst io.Writer, src io.Reader, buf []byte) error {
	for ctx.Err() == nil {
		n, err := src.Read(buf)
		if n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
	return errGone
}
