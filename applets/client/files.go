package client

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/hyperfleet/init/applets/wire"
)

// An Attr describes a file in the guest as [Client.Get] and [Client.List] do.
type Attr struct {
	Size     int64       // bytes
	Mode     fs.FileMode // type, permission bits, setuid, setgid, sticky
	UID, GID int
	ModTime  time.Time // UTC
}

// A Sum is what was sent or received.
type Sum struct {
	Size   int64  // bytes
	SHA256 string // hexadecimal; "" if it was not asked for
}

// GetOptions change what [Client.Get] does.
type GetOptions struct {
	Offset int64 // of the first byte
	Length int64 // bytes at most; 0 is all
	// Hash makes both sides sum the bytes up, and Get fail if they disagree.
	Hash bool
	// Begin, if there is one, is told about the file before its first byte. An
	// error of it ends Get.
	Begin func(Attr) error
}

// Get writes the content of a file in the guest to w, as it comes in: after an
// error w may have some of it. Unlike [Client.ReadFile] it takes files of any
// size, and parts of them.
func (c *Client) Get(ctx context.Context, path string, w io.Writer, o GetOptions) (Sum, error) {
	req := newRequest(wire.OpFileGet)
	req.string("path", path)
	if o.Offset != 0 {
		req.value("offset", o.Offset)
	}
	if o.Length != 0 {
		req.value("length", o.Length)
	}
	req.flag("hash", o.Hash)
	var h wire.FileHeader
	s, err := c.stream(ctx, req, &h)
	if err != nil {
		return Sum{}, err
	}
	defer s.close()
	attr, err := attrOf(h.Mode, h.MTime)
	if err != nil {
		return Sum{}, s.wrap(err)
	}
	attr.Size, attr.UID, attr.GID = h.Size, int(h.UID), int(h.GID)
	if o.Begin != nil {
		if err := o.Begin(attr); err != nil {
			return Sum{}, err
		}
	}
	got := summer{w: w}
	if o.Hash {
		got.hash = sha256.New()
	}
	if err := s.receive(&got); err != nil {
		return got.sum(), err
	}
	return got.sum(), s.agree(&got)
}

// pieceSize is what is read or written at once, in bytes.
const pieceSize = 256 << 10

// receive writes data frames to w, up to the end frame, and comes to the exit
// frame behind it.
func (s *stream) receive(w io.Writer) error {
	buf := make([]byte, pieceSize)
	for {
		k, _, err := s.next()
		switch {
		case err != nil:
			return err
		case k == wire.KindExit:
			return nil
		case k != wire.KindData && k != wire.KindEnd:
			return s.wrap(replyError("a frame of kind %d", k))
		}
		if err := s.splice(w); err != nil {
			return s.wrap(err)
		}
		if _, err := io.CopyBuffer(onlyWriter{w}, onlyReader{s}, buf); err != nil {
			return s.wrap(err)
		}
	}
}

// agree compares what the agent tells at the end with what passed here.
func (s *stream) agree(here *summer) error {
	var there wire.FileSum
	if err := s.Decode(&there); err != nil {
		return s.wrap(err)
	}
	if got := here.sum(); there.Size != got.Size || there.SHA256 != got.SHA256 {
		return s.wrap(replyError("%d bytes, SHA-256 %q, of %d bytes, SHA-256 %q", got.Size, got.SHA256, there.Size, there.SHA256))
	}
	return nil
}

// A summer counts what passes to w, and may sum it up.
type summer struct {
	w    io.Writer
	hash hash.Hash // or nil
	n    int64
}

func (s *summer) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	s.n += int64(n)
	if s.hash != nil {
		_, _ = s.hash.Write(p[:n]) // never fails
	}
	return n, err
}

func (s *summer) sum() Sum {
	sum := Sum{Size: s.n}
	if s.hash != nil {
		sum.SHA256 = hex.EncodeToString(s.hash.Sum(nil))
	}
	return sum
}

// attrOf reads what JSON has as text.
func attrOf(mode, mtime string) (Attr, error) {
	m, err := parseMode(mode)
	if err != nil {
		return Attr{}, replyError("mode: %v", err)
	}
	t, err := parseTime(mtime)
	if err != nil {
		return Attr{}, replyError("mtime: %v", err)
	}
	return Attr{Mode: m, ModTime: t}, nil
}

// An Owner is whom a file is to belong to.
type Owner struct{ UID, GID int }

// PutOptions change what [Client.Put] does.
type PutOptions struct {
	Mode    *fs.FileMode // nil: as it was, or 0644
	Owner   *Owner       // nil: as it was, or root
	ModTime time.Time    // zero: now
	Sync    bool         // return when it is on the disk
	Size    *int64       // bytes that there must be in the end
	SHA256  string       // that it must have in the end, hexadecimal
	// Hash makes both sides sum the bytes up. If they disagree Put fails, but the
	// file has been replaced; to know before, give SHA256.
	Hash bool
	// IfMatch is what must be in the file's place: a file with this SHA-256, or
	// "*" for any. Else Put fails with [syscall.ESTALE] or [fs.ErrNotExist].
	IfMatch string
	// IfAbsent makes Put fail with [fs.ErrExist] if there is a file already.
	IfAbsent bool
	// Partial names an upload: one that was cut off is gone on with by the next
	// Put of the same path and name. It has up to 64 letters, digits, - and _, and
	// is best made of what tells this content from others.
	Partial string
	// Begin, if there is one, is told how many bytes are there already. An error
	// of it ends Put.
	Begin func(offset int64) error
}

func (o *PutOptions) request(path string) *request {
	req := newRequest(wire.OpFilePut)
	req.string("path", path)
	if o.Mode != nil {
		req.mode("mode", *o.Mode)
	}
	if o.Owner != nil {
		req.value("uid", o.Owner.UID)
		req.value("gid", o.Owner.GID)
	}
	if !o.ModTime.IsZero() {
		req.string("mtime", o.ModTime.UTC().Format(time.RFC3339Nano))
	}
	if o.Size != nil {
		req.value("size", *o.Size)
	}
	if o.SHA256 != "" {
		req.string("sha256", o.SHA256)
	}
	if o.IfMatch != "" || o.IfAbsent {
		req.string("if_match", o.IfMatch)
	}
	if o.Partial != "" {
		req.string("partial", o.Partial)
	}
	req.flag("sync", o.Sync)
	req.flag("hash", o.Hash)
	return req
}

// Put makes what r holds, up to its end, the content of a file in the guest. The
// file is replaced at once when all of it has arrived and is what o says: after an
// error it is what it was before. Unlike [Client.WriteFile] it takes content of
// any size.
//
// If the agent refuses the content midway or ctx ends, Put returns without
// waiting for a call of r.Read that is still under way.
func (c *Client) Put(ctx context.Context, path string, r io.Reader, o PutOptions) (Sum, error) {
	var h wire.PutHeader
	s, err := c.stream(ctx, o.request(path), &h)
	if err != nil {
		return Sum{}, err
	}
	defer s.close()
	if o.Begin != nil {
		if err := o.Begin(h.Offset); err != nil {
			return Sum{}, err
		}
	}
	sent := summer{w: io.Discard}
	if o.Hash || o.SHA256 != "" {
		sent.hash = sha256.New()
	}
	if err := skip(&sent, r, h.Offset); err != nil {
		return Sum{}, fmt.Errorf("%s: %w", s.op, err)
	}
	if err := s.upload(&sent, r); err != nil {
		return Sum{}, err
	}
	return sent.sum(), s.agree(&sent)
}

// skip passes over the n bytes that are there already.
func skip(sent *summer, r io.Reader, n int64) error {
	if seeker, ok := r.(io.Seeker); ok && sent.hash == nil && n > 0 {
		here, err := seeker.Seek(0, io.SeekCurrent)
		if err == nil { // a pipe only looks as if it could
			end, err := seeker.Seek(0, io.SeekEnd)
			if err == nil && end-here < n {
				err = fmt.Errorf("%w: the guest has %d bytes already, of %d", io.ErrUnexpectedEOF, n, end-here)
			}
			if err == nil {
				_, err = seeker.Seek(here+n, io.SeekStart)
			}
			sent.n = n
			return err
		}
	}
	if m, err := io.CopyN(sent, r, n); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("%w: the guest has %d bytes already, of %d", err, n, m)
	}
	return nil
}

// send sends what r holds. Only an error of r counts: of the connection, the side
// that reads from it knows more.
func (s *stream) send(sent *summer, r io.Reader) error {
	if file, ok := r.(*os.File); ok && sent.hash == nil {
		n, err := s.sendFile(file)
		sent.n += n
		if err != nil {
			return err
		}
	}
	frame := wire.NewFrame(pieceSize)
	for {
		n, err := r.Read(frame.Payload())
		if n > 0 {
			_, _ = sent.Write(frame.Payload()[:n])
			if s.WriteFrame(wire.KindData, frame, n) != nil {
				return nil
			}
		}
		if err == io.EOF {
			_ = s.Empty(wire.KindEnd)
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// upload sends what r holds, up to its end, and waits for the exit frame, which is the
// next to be read. It does not wait for a call of r.Read when the agent refuses.
func (s *stream) upload(sent *summer, r io.Reader) error {
	failed := make(chan error, 1)
	go func() {
		err := s.send(sent, r)
		failed <- err
		if err != nil { // an agent that waits for the rest does not answer
			_ = s.conn.SetReadDeadline(aLongTimeAgo)
		}
	}()
	k, _, err := s.next()
	if err == nil && k != wire.KindExit {
		err = s.wrap(replyError("a frame of kind %d", k))
	}
	if err != nil {
		return s.whyNot(err, failed)
	}
	return allSent(s.op, failed)
}

// whyNot chooses between what the agent says and why it was not sent all.
func (s *stream) whyNot(err error, failed <-chan error) error {
	select {
	case sourceErr := <-failed:
		if sourceErr != nil && s.ctx.Err() == nil {
			return fmt.Errorf("%s: %w", s.op, sourceErr)
		}
	default:
	}
	return err
}

// Discard removes what an upload named partial has left beside path.
func (c *Client) Discard(ctx context.Context, path, partial string) error {
	req := newRequest(wire.OpFilePut)
	req.string("path", path)
	req.string("partial", partial)
	req.flag("discard", true)
	return c.call(ctx, req, nil, nil)
}

// Hash sums a file in the guest up.
func (c *Client) Hash(ctx context.Context, path string) (Sum, error) {
	req := newRequest(wire.OpFileHash)
	req.string("path", path)
	var sum wire.FileSum
	if err := c.call(ctx, req, nil, &sum); err != nil {
		return Sum{}, err
	}
	return Sum{Size: sum.Size, SHA256: strings.ToLower(sum.SHA256)}, nil
}
