// Package tarhead encodes the headers of tar archives. (archive/tar's Writer can't
// write sparse files, and this is less of the binary.)
package tarhead

import (
	"fmt"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Block is the unit of a tar archive, in bytes.
const Block = 512

// The types of entries, see POSIX pax(1), ustar interchange format.
const (
	File      = '0'
	HardLink  = '1'
	Symlink   = '2'
	Character = '3'
	BlockDev  = '4'
	Directory = '5'
	FIFO      = '6'
	extended  = 'x'
)

// AttributePrefix precedes the name of an extended attribute among the records.
const AttributePrefix = "SCHILY.xattr."

// A Header is what precedes an entry's content.
type Header struct {
	Kind         byte
	Name, Link   string
	Uname, Gname string
	Size         int64
	Mode         uint32 // its lowest 12 bits count
	UID, GID     uint32
	Sec, Nsec    int64 // of the last change, since 1970
	Major, Minor uint32
	Records      map[string]string // of an extended header
}

// Record adds a record.
func (h *Header) Record(key, value string) {
	if h.Records == nil {
		h.Records = map[string]string{}
	}
	h.Records[key] = value
}

// Append encodes the header behind b: a ustar block and, before it, an extended one
// with what has no room in that.
func (h *Header) Append(b []byte) []byte {
	records := h.Records
	if records == nil {
		records = map[string]string{}
	}
	text := func(key, value string, room int) {
		if len(value) > room || strings.ContainsFunc(value, func(c rune) bool { return c >= 0x80 }) {
			records[key] = value
		}
	}
	number := func(key string, value int64, digits int) {
		if value < 0 || value >= 1<<(3*digits) {
			records[key] = strconv.FormatInt(value, 10)
		}
	}
	// Extended headers win, so GNU.sparse.name stands for the path.
	if _, sparse := records["GNU.sparse.name"]; !sparse {
		text("path", h.Name, 100)
	}
	text("linkpath", h.Link, 100)
	text("uname", h.Uname, 32)
	text("gname", h.Gname, 32)
	number("size", h.Size, 11)
	number("uid", int64(h.UID), 7)
	number("gid", int64(h.GID), 7)
	if h.Nsec != 0 || h.Sec < 0 || h.Sec >= 1<<33 {
		records["mtime"] = paxTime(h.Sec, h.Nsec)
	}
	if len(records) > 0 {
		x := Header{Kind: extended, Name: "PaxHeaders/" + h.Name, Mode: 0o644}
		at := len(b)
		b = paxRecords(slices.Grow(b, 3*Block)[:at+Block], records)
		x.Size = int64(len(b) - at - Block)
		x.block(b[at:])
		b = append(b, make([]byte, Padding(x.Size))...)
	}
	at := len(b)
	b = slices.Grow(b, Block)[:at+Block]
	h.block(b[at:])
	return b
}

// Padding is what fills the last block of n bytes.
func Padding(n int64) int { return int(-n & (Block - 1)) }

// block encodes the part that every tar understands. What does not fit is cut.
func (h *Header) block(b []byte) {
	b = b[:Block]
	clear(b)
	octal := func(at, digits int, value int64) {
		if value < 0 || value >= 1<<(3*digits) {
			value = 0
		}
		for i := digits - 1; i >= 0; i-- {
			b[at+i] = byte('0' + value&7)
			value >>= 3
		}
	}
	copy(b[:100], h.Name)
	octal(100, 7, int64(h.Mode&0o7777))
	octal(108, 7, int64(h.UID))
	octal(116, 7, int64(h.GID))
	octal(124, 11, h.Size)
	octal(136, 11, h.Sec)
	b[156] = h.Kind
	copy(b[157:257], h.Link)
	copy(b[257:], "ustar\x0000")
	copy(b[265:296], h.Uname)
	copy(b[297:328], h.Gname)
	if h.Kind == Character || h.Kind == BlockDev {
		octal(329, 7, int64(h.Major))
		octal(337, 7, int64(h.Minor))
	}
	copy(b[148:], "        ") // the sum is made as if it were blank
	sum := int64(0)
	for _, c := range b {
		sum += int64(c)
	}
	octal(148, 6, sum)
	b[154] = 0
}

// paxRecords encodes the content of an extended header: each record begins with
// its own length.
func paxRecords(all []byte, records map[string]string) []byte {
	keys := make([]string, 0, len(records))
	for key := range records {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		rest := len(key) + len(records[key]) + 3
		n := rest + len(strconv.Itoa(rest))
		if len(strconv.Itoa(n)) != len(strconv.Itoa(rest)) {
			n++
		}
		all = fmt.Appendf(all, "%d %s=%s\n", n, key, records[key])
	}
	return all
}

// paxTime formats a time in seconds, exactly; those before 1970 are negative.
func paxTime(sec, nsec int64) string {
	sign := ""
	if sec < 0 && sec > math.MinInt64 {
		sign = "-"
		sec = -sec
		if nsec > 0 {
			sec, nsec = sec-1, int64(time.Second)-nsec
		}
	}
	if nsec == 0 {
		return fmt.Sprintf("%s%d", sign, sec)
	}
	return strings.TrimRight(fmt.Sprintf("%s%d.%09d", sign, sec, nsec), "0")
}

// An Extent is a part of a file that holds data, in bytes.
type Extent struct{ Offset, Size int64 }

// Sparse makes h the header of a sparse file, and returns the table that precedes
// its content: GNU tar's PAX format 1.0.
func (h *Header) Sparse(parts []Extent) string {
	if n := len(parts); n == 0 || parts[n-1].Offset+parts[n-1].Size < h.Size {
		parts = append(parts, Extent{h.Size, 0}) // its end is a hole
	}
	var table strings.Builder
	fmt.Fprintln(&table, len(parts))
	size := int64(0)
	for _, e := range parts {
		fmt.Fprintf(&table, "%d\n%d\n", e.Offset, e.Size)
		size += e.Size
	}
	table.Write(make([]byte, Padding(int64(table.Len()))))
	h.Record("GNU.sparse.major", "1")
	h.Record("GNU.sparse.minor", "0")
	h.Record("GNU.sparse.name", h.Name)
	h.Record("GNU.sparse.realsize", strconv.FormatInt(h.Size, 10))
	h.Name = "GNUSparseFile.0/" + path.Base(h.Name) // what a reader sees that does not know it
	h.Size = size + int64(table.Len())
	return table.String()
}
