package wire

import "bytes"

// pairedSurrogates tells whether every \uD800–\uDBFF in a valid line is followed
// by a \uDC00–\uDFFF and no such stands alone: encoding/json would put U+FFFD
// there, and the agent act on a name nobody sent.
func pairedSurrogates(line []byte) bool {
	high := false
	for {
		i := bytes.IndexByte(line, '\\')
		if high && i != 0 {
			return false
		}
		if i < 0 {
			return true
		}
		line = line[i:]
		if line[1] != 'u' {
			if high {
				return false
			}
			line = line[2:]
			continue
		}
		u := hex4(line[2:6])
		line = line[6:]
		switch {
		case u >= 0xD800 && u < 0xDC00:
			if high {
				return false
			}
			high = true
		case u >= 0xDC00 && u < 0xE000:
			if !high {
				return false
			}
			high = false
		case high:
			return false
		}
	}
}

// hex4 returns the number in four hexadecimal digits, or -1.
func hex4(p []byte) int {
	u := 0
	for _, c := range p[:4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return -1
		}
		u = u<<4 | int(c)
	}
	return u
}
