package rootfsskel

import (
	"compress/gzip"
	"fmt"
	"io"
	"math"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"
	"golang.org/x/sys/unix"
)

// Compressions are the names that WriteCPIO knows.
func Compressions() []string { return []string{"gzip", "zstd", "none"} }

// compressor wraps w. Each of them gives the same bytes for the same input: gzip
// without a name and a time in its header, zstd on one goroutine.
func compressor(w io.Writer, name string) (io.WriteCloser, error) {
	switch name {
	case "gzip":
		return gzip.NewWriter(w), nil
	case "zstd":
		return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
	case "none":
		return nopCloser{w}, nil
	}
	return nil, fmt.Errorf("compression %q: not one of gzip, zstd, none", name)
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// WriteCPIO writes the tree as a newc archive, the format of an initramfs. Hard
// links are hard links, with the content at the last of them, where GNU cpio has
// it. Extended attributes have no place in it: note is told.
func (t *Tree) WriteCPIO(w io.Writer, compress string, note func(string)) error {
	zw, err := compressor(w, compress)
	if err != nil {
		return err
	}
	list := t.Entries()
	shared := links(list)
	ino := make(map[*Inode]uint64)
	lost := 0
	rw := cpio.Newc.Writer(zw)
	for i, e := range list {
		if _, ok := ino[e.Inode]; !ok {
			ino[e.Inode] = uint64(i + 1)
			lost += len(e.Xattrs)
		}
		rec := record(e, ino[e.Inode])
		paths := shared[e.Inode]
		if paths != nil {
			rec.NLink = uint64(len(paths))
		}
		if paths != nil && paths[len(paths)-1] != e.Path {
			rec.FileSize = 0
		} else if err := setContent(&rec, e); err != nil {
			return err
		}
		// The writer closes the content.
		if err := rw.WriteRecord(rec); err != nil {
			return fmt.Errorf("%s: %w", e.Path, err)
		}
	}
	if lost > 0 && note != nil {
		note(fmt.Sprintf("%d extended attributes left out: a cpio archive can't hold them", lost))
	}
	if err := cpio.WriteTrailer(rw); err != nil {
		return err
	}
	return zw.Close()
}

// record is the header of an entry. The name is relative: the kernel unpacks it in
// the root, and whoever looks at it elsewhere does not overwrite his own.
func record(e Entry, ino uint64) cpio.Record {
	name := e.Path[1:]
	if name == "" {
		name = "."
	}
	rec := cpio.Record{Info: cpio.Info{
		Name: name, Ino: ino, Mode: uint64(e.Mode), NLink: 1,
		UID: uint64(e.UID), GID: uint64(e.GID), MTime: uint64(e.MTime),
	}}
	if e.isDir() {
		rec.NLink = 2
	}
	if e.isDevice() {
		rec.Rmajor, rec.Rminor = uint64(e.Major), uint64(e.Minor)
	}
	return rec
}

// setContent opens what the record holds: a file's bytes or a link's target.
func setContent(rec *cpio.Record, e Entry) error {
	switch e.kind() {
	case unix.S_IFREG:
		if e.Size > math.MaxUint32 {
			return fmt.Errorf("%s: %d bytes: a cpio archive holds files below 4 GiB", e.Path, e.Size)
		}
		if e.Size == 0 {
			return nil
		}
		f, err := e.open()
		if err != nil {
			return fmt.Errorf("%s: %w", e.Path, err)
		}
		rec.ReaderAt, rec.FileSize = f, uint64(e.Size)
	case unix.S_IFLNK:
		*rec = cpio.StaticRecord([]byte(e.Target), rec.Info)
	}
	return nil
}
