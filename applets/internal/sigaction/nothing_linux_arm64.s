#include "textflag.h"

// The kernel calls it, and it returns to the kernel.
TEXT nothing<>(SB),NOSPLIT|NOFRAME,$0
	RET

// func nothing() uintptr
TEXT ·nothing(SB),NOSPLIT,$0-8
	MOVD	$nothing<>(SB), R0
	MOVD	R0, ret+0(FP)
	RET
