package atr

import (
	"errors"
	"fmt"
	"strings"
)

// ErrHex says that text is not hexadecimal bytes.
var ErrHex = errors.New("not hexadecimal bytes")

// ParseHex decodes bytes as people write them: two hexadecimal digits each, upper or lower case, together or separated by
// white space or colons, with or without 0x before a run of digits. "3B7A18", "3b:7a:18" and "0x3B 0x7A 0x18" are the same.
// Empty text is no bytes.
//
// The error wraps ErrHex and names the first offending character and its position, counted in bytes from 1.
func ParseHex(s string) ([]byte, error) {
	out := make([]byte, 0, len(s)/2)
	high, half := byte(0), false
	for i, r := range s {
		digit, isDigit := hexDigit(r)
		switch {
		case isDigit && half:
			out = append(out, high<<4|digit)
			half = false
		case isDigit && r == '0' && startsPrefix(s[:i], s[i:]):
			// The x that follows is skipped below.
		case isDigit:
			high, half = digit, true
		case (r == 'x' || r == 'X') && !half && i > 0 && s[i-1] == '0' && startsPrefix(s[:i-1], s[i-1:]):
		case isSeparator(r) && !half:
		case isSeparator(r):
			return nil, fmt.Errorf("%w: a single digit before position %d", ErrHex, i+1)
		default:
			return nil, fmt.Errorf("%w: %q at position %d", ErrHex, r, i+1)
		}
	}
	if half {
		return nil, fmt.Errorf("%w: a single digit at the end (position %d)", ErrHex, len(s))
	}
	return out, nil
}

// startsPrefix reports whether rest starts with 0x at a place where a run of digits may start. A prefix without digits
// is none, so that it is reported.
func startsPrefix(before, rest string) bool {
	if len(rest) < 3 || rest[0] != '0' || rest[1]|0x20 != 'x' {
		return false
	}
	if _, ok := hexDigit(rune(rest[2])); !ok {
		return false
	}
	return before == "" || isSeparator(rune(before[len(before)-1]))
}

func isSeparator(r rune) bool { return strings.ContainsRune(" \t\r\n:", r) }

func hexDigit(r rune) (byte, bool) {
	switch {
	case '0' <= r && r <= '9':
		return byte(r - '0'), true
	case 'a' <= r && r <= 'f':
		return byte(r-'a') + 10, true
	case 'A' <= r && r <= 'F':
		return byte(r-'A') + 10, true
	}
	return 0, false
}
