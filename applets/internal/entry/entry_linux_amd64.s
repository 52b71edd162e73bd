#include "textflag.h"

#define SYS_getpid 39
#define SYS_fcntl 72
#define SYS_openat 257

#define F_GETFD 1
#define EBADF 9
#define AT_FDCWD -100
#define O_PATH 0x200000

DATA root<>+0(SB)/8, $0x2f // "/" and its end
GLOBL root<>(SB), RODATA|NOPTR, $8

// The kernel jumps here with the arguments on the stack, which stays as it is.
TEXT _rt0_hyperfleet(SB),NOSPLIT|NOFRAME,$0
	MOVL	$SYS_getpid, AX
	SYSCALL
	CMPQ	AX, $1
	JNE	runtime

	MOVL	$0, BX
descriptor:
	MOVL	$SYS_fcntl, AX
	MOVL	BX, DI
	MOVL	$F_GETFD, SI
	SYSCALL
	CMPQ	AX, $-EBADF
	JNE	next
	MOVL	$SYS_openat, AX // takes the lowest number that is free: this one
	MOVQ	$AT_FDCWD, DI
	LEAQ	root<>(SB), SI
	MOVL	$O_PATH, DX
	SYSCALL
next:
	INCL	BX
	CMPL	BX, $3
	JLT	descriptor

runtime:
	JMP	_rt0_amd64_linux(SB)
