//go:build linux

package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"runtime"
)

// The two programs that are as small as can be: one ends at once, one never does.
// Neither has an interpreter, a library or a page of data.
var machineCode = map[string]struct {
	machine       elf.Machine
	exit0, asleep []byte
}{
	"amd64": {
		elf.EM_X86_64,
		[]byte{0x31, 0xff, 0xb8, 0xe7, 0, 0, 0, 0x0f, 0x05}, // xor edi,edi; mov eax,exit_group; syscall
		[]byte{0xb8, 0x22, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7}, // mov eax,pause; syscall; jmp back
	},
	"arm64": {
		elf.EM_AARCH64,
		// mov x0,0; mov x8,exit_group; svc 0
		words(0xd2800000, 0xd2800bc8, 0xd4000001),
		// mov x0..x3,0; mov x8,ppoll; svc 0; b back
		words(0xd2800000, 0xd2800001, 0xd2800002, 0xd2800003, 0xd2800928, 0xd4000001, 0x17fffffa),
	},
}

func words(instructions ...uint32) (code []byte) {
	for _, i := range instructions {
		code = binary.LittleEndian.AppendUint32(code, i)
	}
	return code
}

// program is an ELF file of one segment, which is all of the file.
func program(code []byte) []byte {
	const base, headers = 0x400000, 64 + 56
	size := uint64(headers + len(code))
	head := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(machineCode[runtime.GOARCH].machine), Version: uint32(elf.EV_CURRENT),
		Entry: base + headers, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
	}
	segment := elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: base, Paddr: base,
		Filesz: size, Memsz: size, Align: 0x10000,
	}
	var b bytes.Buffer
	_ = binary.Write(&b, binary.LittleEndian, head)
	_ = binary.Write(&b, binary.LittleEndian, segment)
	b.Write(code)
	return b.Bytes()
}

// programs returns both.
func programs() (exit0, asleep []byte, err error) {
	code, ok := machineCode[runtime.GOARCH]
	if !ok {
		return nil, nil, fmt.Errorf("no machine code for %s", runtime.GOARCH)
	}
	return program(code.exit0), program(code.asleep), nil
}
