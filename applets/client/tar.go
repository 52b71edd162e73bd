package client

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"

	"github.com/hyperfleet/init/applets/wire"
)

// A TarResult is what became of an archive.
type TarResult = wire.TarResult

// TarGetOptions change what [Client.TarGet] does.
type TarGetOptions struct {
	// Top puts the last component of the path before all names. Without it they
	// are relative to the directory, which itself is "./".
	Top           bool
	Compress      string   // the archive: "gzip" or "zstd", which is faster and smaller
	Sparse        bool     // say where files have holes, in GNU tar's format, instead of sending zeros
	OneFilesystem bool     // leave out what is mounted below
	Exclude       []string // patterns of path.Match: of the last component or, with a slash, of the path
	Hash          bool     // make both sides sum the archive up, and fail if they disagree
}

// TarGet writes a file or a tree of the guest to w, as a tar archive.
func (c *Client) TarGet(ctx context.Context, path string, w io.Writer, o TarGetOptions) (TarResult, error) {
	req := newRequest(wire.OpTarGet)
	req.string("path", path)
	req.flag("top", o.Top)
	req.flag("sparse", o.Sparse)
	req.flag("one_filesystem", o.OneFilesystem)
	req.flag("hash", o.Hash)
	if o.Compress != "" {
		req.string("compress", o.Compress)
	}
	if len(o.Exclude) > 0 {
		req.list("exclude", o.Exclude)
	}
	var result TarResult
	s, err := c.stream(ctx, req, nil)
	if err != nil {
		return result, err
	}
	defer s.close()
	got := summer{w: w}
	if o.Hash {
		got.hash = sha256.New()
		w = &got
	}
	if err := s.receive(w); err != nil {
		return result, err
	}
	return result, s.agreeTar(&result, &got)
}

// agreeTar decodes how an archive's stream ended, and compares its sum with the one
// here, if the agent is not too old to have one.
func (s *stream) agreeTar(there *TarResult, here *summer) error {
	if err := s.Decode(there); err != nil {
		return s.wrap(err)
	}
	if got := here.sum().SHA256; there.SHA256 != "" && got != there.SHA256 {
		return s.wrap(replyError("the archive has SHA-256 %q here, %q in the guest", got, there.SHA256))
	}
	return nil
}

// TarPutOptions change what [Client.TarPut] does.
type TarPutOptions struct {
	Make   bool // the directory, if it is missing
	Owners bool // keep owners, by number, setuid and setgid, and all extended attributes
	Strip  int  // components that names lose at their beginning
	Hash   bool // make both sides sum the archive up, and fail if they disagree: all is there then
}

// TarPut unpacks a tar archive, which may be compressed with gzip or zstd, into a
// directory of the guest. No entry of it can lead out of there. After an error the
// entries before it are there, each one whole.
//
// If the agent refuses the archive midway or ctx ends, TarPut returns without
// waiting for a call of r.Read that is still under way.
func (c *Client) TarPut(ctx context.Context, path string, r io.Reader, o TarPutOptions) (TarResult, error) {
	req := newRequest(wire.OpTarPut)
	req.string("path", path)
	req.flag("make", o.Make)
	req.flag("owners", o.Owners)
	if o.Strip != 0 {
		req.value("strip", o.Strip)
	}
	req.flag("hash", o.Hash)
	var result TarResult
	s, err := c.stream(ctx, req, nil)
	if err != nil {
		return result, err
	}
	defer s.close()
	sent := summer{w: io.Discard}
	if o.Hash {
		sent.hash = sha256.New()
	}
	if err := s.upload(&sent, r); err != nil {
		return result, err
	}
	return result, s.agreeTar(&result, &sent)
}

// errStopped is for an archive that nobody wants any more.
var errStopped = errors.New("stopped")
