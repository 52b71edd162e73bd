#include "textflag.h"

#define SYS_fcntl 25
#define SYS_openat 56
#define SYS_getpid 172

#define F_GETFD 1
#define EBADF 9
#define AT_FDCWD -100
#define O_PATH 0x200000

DATA root<>+0(SB)/8, $0x2f // "/" and its end
GLOBL root<>(SB), RODATA|NOPTR, $8

// The kernel jumps here with the arguments on the stack, which stays as it is.
TEXT _rt0_hyperfleet(SB),NOSPLIT|NOFRAME,$0
	MOVD	$SYS_getpid, R8
	SVC
	CMP	$1, R0
	BNE	runtime

	MOVD	$0, R19
descriptor:
	MOVD	$SYS_fcntl, R8
	MOVD	R19, R0
	MOVD	$F_GETFD, R1
	SVC
	CMN	$EBADF, R0
	BNE	next
	MOVD	$SYS_openat, R8 // takes the lowest number that is free: this one
	MOVD	$AT_FDCWD, R0
	MOVD	$root<>(SB), R1
	MOVD	$O_PATH, R2
	SVC
next:
	ADD	$1, R19
	CMP	$3, R19
	BLT	descriptor

runtime:
	JMP	_rt0_arm64_linux(SB)
