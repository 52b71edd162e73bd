package wire

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"sync"
)

// strict is base64 as RFC 4648 section 4 has it, padding bits zero.
var strict = base64.StdEncoding.Strict()

// errBase64 is for what is none; the Reader turns it into a *FieldError.
var errBase64 = errors.New("must be base64 (RFC 4648 section 4, padded, no line breaks)")

// maxBlock is the largest that a block of decodeBlocks is, in bytes.
const maxBlock = 64

// A decoder writes to w what the base64 written to it holds. Unlike the decoder
// of encoding/base64 it refuses line breaks, and padding anywhere but at the end.
// It decodes in place: what is written to it is lost.
type decoder struct {
	w     io.Writer
	rest  [4]byte // an incomplete group of four
	nrest int
	ended bool // padding was seen
}

func (d *decoder) write(p []byte) error {
	if d.nrest > 0 {
		n := copy(d.rest[d.nrest:], p)
		d.nrest += n
		p = p[n:]
		if d.nrest < 4 {
			return nil
		}
		d.nrest = 0
		if err := d.groups(d.rest[:]); err != nil {
			return err
		}
	}
	n := len(p) &^ 3
	d.nrest = copy(d.rest[:], p[n:])
	if n == 0 {
		return nil
	}
	return d.groups(p[:n])
}

// groups decodes whole groups of four: in place, as each group's three bytes end
// no further than it does.
func (d *decoder) groups(p []byte) error {
	// Decode passes over line breaks.
	if d.ended || bytes.IndexByte(p, '\n') >= 0 || bytes.IndexByte(p, '\r') >= 0 {
		return errBase64
	}
	d.ended = p[len(p)-1] == '='
	n, err := strict.Decode(p, p)
	if err != nil {
		return errBase64
	}
	_, err = d.w.Write(p[:n])
	return err
}

func (d *decoder) close() error {
	if d.nrest > 0 {
		return errBase64
	}
	return nil
}

// An unescaper undoes the escapes that JSON encoders put into base64: \/ and
// \u002B (and, as every other, they are legal anywhere). It keeps an escape that
// is split between two writes.
type unescaper struct {
	esc  [6]byte
	nesc int
}

func (u *unescaper) write(p []byte, f func([]byte) error) error {
	for len(p) > 0 {
		if u.nesc == 0 {
			i := bytes.IndexByte(p, '\\')
			if i < 0 {
				return f(p)
			}
			if i > 0 {
				if err := f(p[:i]); err != nil {
					return err
				}
			}
			p = p[i:]
		}
		u.esc[u.nesc] = p[0]
		u.nesc++
		p = p[1:]
		if u.nesc < 2 || u.esc[1] == 'u' && u.nesc < 6 {
			continue
		}
		c := rune(u.esc[1])
		if c == 'u' {
			c = rune(hex4(u.esc[2:6]))
		}
		// None of the other escapes (\n, \" …) stands for a base64 character.
		if u.nesc == 2 && c != '/' || c < 0 || c > 0x7F {
			return errBase64
		}
		u.nesc = 0
		if err := f([]byte{byte(c)}); err != nil {
			return err
		}
	}
	return nil
}

// WriteBase64 writes what src holds to w, as base64 without line breaks: the
// inside of a request's content or stdin.
func WriteBase64(w io.Writer, src io.Reader) error { return writeBase64(w, src, nil) }

func writeBase64(w io.Writer, src io.Reader, m Memory) error {
	return pieces(src, m, func(piece, scratch []byte) error {
		n := encodeBlocks(scratch, piece)
		strict.Encode(scratch[n/3*4:], piece[n:])
		_, err := w.Write(scratch[:strict.EncodedLen(len(piece))])
		return err
	})
}

// A transfer is what content passes through on its way out: pieces as they are,
// and what base64 makes of them.
type transfer struct{ in, out []byte }

func newTransfer(size int) *transfer { return &transfer{make([]byte, size/4*3), make([]byte, size)} }

func (t *transfer) size() int { return len(t.in) + len(t.out) }

var (
	smallTransfers = sync.Pool{New: func() any { return newTransfer(smallBuffer) }}
	largeTransfers = sync.Pool{New: func() any { return newTransfer(largeBuffer) }}
)

// pieces calls f with what src holds. All pieces but the last are multiples of three
// bytes, and large if there is much and m has room for it; scratch has room for a
// piece's base64.
func pieces(src io.Reader, m Memory, f func(piece, scratch []byte) error) error {
	t := smallTransfers.Get().(*transfer)
	small := t
	defer smallTransfers.Put(small)
	for {
		n, err := readFull(src, t.in)
		if n > 0 {
			if err := f(t.in[:n], t.out); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		case t == small && take(m, largeBuffer/4*7):
			t = largeTransfers.Get().(*transfer)
			defer give(m, t.size())
			defer largeTransfers.Put(t)
		}
	}
}

// readFull reads until p is full or src ends, which is io.EOF whatever was read.
// io.ReadFull says io.ErrUnexpectedEOF there, which is also what a source that
// broke off says: a truncated file would pass for a whole one.
func readFull(src io.Reader, p []byte) (n int, err error) {
	for idle := 0; n < len(p) && err == nil; {
		var m int
		m, err = src.Read(p[n:])
		if n += m; m > 0 {
			idle = 0
		} else if idle++; idle == maxIdle && err == nil {
			err = io.ErrNoProgress
		}
	}
	return n, err
}
