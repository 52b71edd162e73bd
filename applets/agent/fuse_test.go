//go:build linux

package agent

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// What can be wrong with a fuseFS.
const (
	fuseHangs  = "hangs"  // nobody answers
	fuseQuota  = "quota"  // a write beyond 100 KiB is EDQUOT
	fuseCloses = "closes" // what was written is lost, and close(2) says so with EIO
)

// fuseNames is a file that tells which others there are.
const fuseNames = "names"

// A fuseFS is a filesystem of one directory, in memory, with a fault: to see what
// no other filesystem does on demand. See fuse(4) and the kernel's linux/fuse.h.
type fuseFS struct {
	fault string
	files map[string]*fuseFile
	next  uint64
}

type fuseFile struct {
	node uint64
	mode uint32
	data []byte
}

// mountFuse mounts one that this process serves for as long as it lives.
func mountFuse(dir, fault string) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err == nil {
		err = unix.Mount("fuse", dir, "fuse", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "mount fuse:", err)
		os.Exit(1)
	}
	if fault == fuseHangs {
		return
	}
	s := &fuseFS{fault: fault, next: 10, files: map[string]*fuseFile{fuseNames: {node: 2, mode: unix.S_IFREG | 0o444}}}
	go s.serve(fd)
}

func (s *fuseFS) serve(fd int) {
	buf := make([]byte, 256<<10)
	for {
		n, err := unix.Read(fd, buf)
		if err == unix.ENODEV { // unmounted
			return
		}
		if err != nil || n < 40 {
			continue
		}
		in := buf[:n]
		op, unique, node := binary.LittleEndian.Uint32(in[4:]), in[8:16], binary.LittleEndian.Uint64(in[16:])
		body, errno := s.answer(op, node, in[40:])
		if op == 2 || op == 42 { // FORGET and BATCH_FORGET
			continue
		}
		if errno != 0 {
			body = nil
		}
		out := pack(uint32(16+len(body)), -int32(errno))
		_, _ = unix.Write(fd, append(append(out, unique...), body...))
	}
}

// pack is a structure of the protocol.
func pack(fields ...any) []byte {
	var b bytes.Buffer
	for _, f := range fields {
		_ = binary.Write(&b, binary.LittleEndian, f)
	}
	return b.Bytes()
}

func (s *fuseFS) byNode(node uint64) *fuseFile {
	for _, f := range s.files {
		if f.node == node {
			return f
		}
	}
	return &fuseFile{node: node, mode: unix.S_IFDIR | 0o755}
}

func (f *fuseFile) attr() []byte {
	return pack(f.node, uint64(len(f.data)), make([]byte, 8+3*8+3*4), f.mode, uint32(1), make([]byte, 4*3), uint32(4096), uint32(0))
}

func (f *fuseFile) entry() []byte { return append(pack(f.node, make([]byte, 32)), f.attr()...) }

// answer is the reply to one request, less its header.
func (s *fuseFS) answer(op uint32, node uint64, in []byte) ([]byte, unix.Errno) {
	name := func(b []byte) string { s, _, _ := strings.Cut(string(b), "\x00"); return s }
	number := func(at int) int { return int(binary.LittleEndian.Uint32(in[at:])) }
	f := s.byNode(node)
	switch op {
	case 26: // INIT, version 7.22
		return pack(uint32(7), uint32(22), uint32(0), uint32(0), uint16(0), uint16(0), uint32(64<<10)), 0
	case 1: // LOOKUP
		s.files[fuseNames].data = []byte(strings.Join(slices.Sorted(maps.Keys(s.files)), " "))
		if f = s.files[name(in)]; f == nil {
			return nil, unix.ENOENT
		}
		return f.entry(), 0
	case 4: // SETATTR
		if number(0)&1 != 0 {
			f.mode = f.mode&unix.S_IFMT | uint32(number(68))&0o7777
		}
		if size := number(16); number(0)&8 != 0 && size <= len(f.data) {
			f.data = f.data[:size]
		}
		fallthrough
	case 3: // GETATTR
		return append(make([]byte, 16), f.attr()...), 0
	case 10: // UNLINK
		delete(s.files, name(in))
		return nil, 0
	case 12: // RENAME
		from, to, _ := strings.Cut(string(in[8:]), "\x00")
		s.files[name([]byte(to))] = s.files[from]
		delete(s.files, from)
		return nil, 0
	case 35: // CREATE
		s.next++
		f = &fuseFile{node: s.next, mode: unix.S_IFREG | uint32(number(4))&0o7777}
		s.files[name(in[16:])] = f
		return append(f.entry(), make([]byte, 16)...), 0
	case 14, 27: // OPEN, OPENDIR
		return pack(uint64(0), uint32(1), uint32(0)), 0 // not through the page cache
	case 15: // READ
		from := min(number(8), len(f.data))
		return f.data[from:min(from+number(16), len(f.data))], 0
	case 16: // WRITE
		from, data := number(8), in[40:]
		if s.fault == fuseQuota && from+len(data) > 100<<10 {
			return nil, unix.EDQUOT
		}
		f.data = append(f.data[:min(from, len(f.data))], data...)
		return pack(uint32(len(data)), uint32(0)), 0
	case 25: // FLUSH
		if s.fault == fuseCloses && len(f.data) > 10 {
			return nil, unix.EIO
		}
		return nil, 0
	case 17: // STATFS
		return make([]byte, 80), 0
	case 18, 20, 29: // RELEASE, FSYNC, RELEASEDIR
		return nil, 0
	}
	return nil, unix.ENOSYS
}
