#include "textflag.h"

// Both ways are those of Wojciech Muła and Daniel Lemire, "Faster Base64 Encoding and
// Decoding Using AVX2 Instructions" (2018). What they need to know is the same for both
// halves of a register.

// func hasAVX2() bool
TEXT ·hasAVX2(SB),NOSPLIT,$0-1
	MOVB	$0, ret+0(FP)
	XORL	AX, AX
	CPUID
	CMPL	AX, $7
	JLT	no
	MOVL	$1, AX
	XORL	CX, CX
	CPUID
	ANDL	$(1<<27 | 1<<28), CX // XGETBV is there, and AVX
	CMPL	CX, $(1<<27 | 1<<28)
	JNE	no
	XORL	CX, CX
	XGETBV
	ANDL	$6, AX // the kernel keeps the registers
	CMPL	AX, $6
	JNE	no
	MOVL	$7, AX
	XORL	CX, CX
	CPUID
	SHRL	$5, BX
	ANDL	$1, BX
	MOVB	BX, ret+0(FP)
no:
	RET

// A character is legal if the bits for its low and its high nibble have none in common.
DATA low<>+0(SB)/8, $0x1111111111111115
DATA low<>+8(SB)/8, $0x1A1B1B1B1A131111
GLOBL low<>(SB),RODATA|NOPTR,$16
DATA high<>+0(SB)/8, $0x0804080402011010
DATA high<>+8(SB)/8, $0x1010101010101010
GLOBL high<>(SB),RODATA|NOPTR,$16

// What is to be added to a character, by its high nibble, which is one less for '/'.
DATA roll<>+0(SB)/8, $0xB9B9BFBF04131000
DATA roll<>+8(SB)/8, $0
GLOBL roll<>(SB),RODATA|NOPTR,$16

DATA slash<>+0(SB)/8, $0x2F2F2F2F2F2F2F2F // '/', and a mask of a nibble: PSHUFB ignores the other bit
DATA slash<>+8(SB)/8, $0x2F2F2F2F2F2F2F2F
GLOBL slash<>(SB),RODATA|NOPTR,$16
DATA pairs<>+0(SB)/8, $0x0140014001400140 // 6 and 6 bits to 12
DATA pairs<>+8(SB)/8, $0x0140014001400140
GLOBL pairs<>(SB),RODATA|NOPTR,$16
DATA fours<>+0(SB)/8, $0x0001100000011000 // 12 and 12 to 24
DATA fours<>+8(SB)/8, $0x0001100000011000
GLOBL fours<>(SB),RODATA|NOPTR,$16
DATA pack<>+0(SB)/8, $0x090A040506000102 // 4 times 24, big endian, to 12 bytes
DATA pack<>+8(SB)/8, $0xFFFFFFFF0C0D0E08
GLOBL pack<>(SB),RODATA|NOPTR,$16

// func decodeAVX2(p []byte) int
TEXT ·decodeAVX2(SB),NOSPLIT,$0-32
	MOVQ	p_base+0(FP), SI
	MOVQ	p_len+8(FP), CX
	MOVQ	SI, DI
	MOVQ	SI, BX
	VBROADCASTI128	low<>(SB), Y8
	VBROADCASTI128	high<>(SB), Y9
	VBROADCASTI128	roll<>(SB), Y10
	VBROADCASTI128	slash<>(SB), Y11
	VBROADCASTI128	pairs<>(SB), Y12
	VBROADCASTI128	fours<>(SB), Y13
	VBROADCASTI128	pack<>(SB), Y14
loop:
	SUBQ	$32, CX
	JLT	done
	VMOVDQU	(SI), Y0
	VPSRLD	$4, Y0, Y1
	VPAND	Y11, Y1, Y1 // high nibbles
	VPAND	Y11, Y0, Y2 // low ones
	VPSHUFB	Y2, Y8, Y3
	VPSHUFB	Y1, Y9, Y4
	VPTEST	Y3, Y4
	JNE	done
	VPCMPEQB	Y11, Y0, Y2
	VPADDB	Y1, Y2, Y2
	VPSHUFB	Y2, Y10, Y3
	VPADDB	Y3, Y0, Y0
	VPMADDUBSW	Y12, Y0, Y0
	VPMADDWD	Y13, Y0, Y0
	VPSHUFB	Y14, Y0, Y0
	// Each half with 4 bytes more than there are; SI has passed what they overwrite.
	VMOVDQU	X0, (DI)
	VEXTRACTI128	$1, Y0, 12(DI)
	ADDQ	$32, SI
	ADDQ	$24, DI
	JMP	loop
done:
	VZEROUPPER
	SUBQ	BX, SI
	MOVQ	SI, ret+24(FP)
	RET

DATA spread<>+0(SB)/8, $0x0405030401020001 // 12 bytes to 4 times 3 of them, each twice in part
DATA spread<>+8(SB)/8, $0x0A0B090A07080607
GLOBL spread<>(SB),RODATA|NOPTR,$16
DATA odd<>+0(SB)/8, $0x0FC0FC000FC0FC00 // the first and third 6 bits of 24
DATA odd<>+8(SB)/8, $0x0FC0FC000FC0FC00
GLOBL odd<>(SB),RODATA|NOPTR,$16
DATA right<>+0(SB)/8, $0x0400004004000040 // by 10 and by 6 bits, as a product's high half
DATA right<>+8(SB)/8, $0x0400004004000040
GLOBL right<>(SB),RODATA|NOPTR,$16
DATA even<>+0(SB)/8, $0x003F03F0003F03F0 // the second and fourth
DATA even<>+8(SB)/8, $0x003F03F0003F03F0
GLOBL even<>(SB),RODATA|NOPTR,$16
DATA left<>+0(SB)/8, $0x0100001001000010 // by 4 and by 8 bits
DATA left<>+8(SB)/8, $0x0100001001000010
GLOBL left<>(SB),RODATA|NOPTR,$16
DATA n51<>+0(SB)/8, $0x3333333333333333
DATA n51<>+8(SB)/8, $0x3333333333333333
GLOBL n51<>(SB),RODATA|NOPTR,$16
DATA n25<>+0(SB)/8, $0x1919191919191919
DATA n25<>+8(SB)/8, $0x1919191919191919
GLOBL n25<>(SB),RODATA|NOPTR,$16

// What is to be added to A-Z, to a-z, to each digit, to + and to /.
DATA shift<>+0(SB)/8, $0xFCFCFCFCFCFC4741
DATA shift<>+8(SB)/8, $0x0000F0EDFCFCFCFC
GLOBL shift<>(SB),RODATA|NOPTR,$16

// func encodeAVX2(dst, src []byte) int
TEXT ·encodeAVX2(SB),NOSPLIT,$0-56
	MOVQ	dst_base+0(FP), DI
	MOVQ	src_base+24(FP), SI
	MOVQ	src_len+32(FP), CX
	MOVQ	SI, BX
	VBROADCASTI128	spread<>(SB), Y8
	VBROADCASTI128	odd<>(SB), Y9
	VBROADCASTI128	right<>(SB), Y10
	VBROADCASTI128	even<>(SB), Y11
	VBROADCASTI128	left<>(SB), Y12
	VBROADCASTI128	n51<>(SB), Y13
	VBROADCASTI128	n25<>(SB), Y14
	VBROADCASTI128	shift<>(SB), Y7
loop:
	CMPQ	CX, $28 // 24 are used, and 4 more read
	JLT	done
	VMOVDQU	(SI), X0
	VINSERTI128	$1, 12(SI), Y0, Y0
	VPSHUFB	Y8, Y0, Y0
	VPAND	Y9, Y0, Y1
	VPMULHUW	Y10, Y1, Y1
	VPAND	Y11, Y0, Y0
	VPMULLW	Y12, Y0, Y0
	VPOR	Y1, Y0, Y0 // 32 times 6 bits
	VPSUBUSB	Y13, Y0, Y1
	VPCMPGTB	Y14, Y0, Y2
	VPSUBB	Y2, Y1, Y1 // which range: 0, 1, 2 to 11, 12, 13
	VPSHUFB	Y1, Y7, Y2
	VPADDB	Y2, Y0, Y0
	VMOVDQU	Y0, (DI)
	ADDQ	$24, SI
	ADDQ	$32, DI
	SUBQ	$24, CX
	JMP	loop
done:
	VZEROUPPER
	SUBQ	BX, SI
	MOVQ	SI, ret+48(FP)
	RET
