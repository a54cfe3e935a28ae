package pcscd

import (
	"crypto/rand"
	"encoding/binary"
)

// newNumber makes a number for a handle or context: positive as an int32, not to be guessed, and none that is taken.
func newNumber(taken func(int32) bool) int32 {
	for {
		var b [4]byte
		// rand.Read does not fail: it ends the program instead.
		_, _ = rand.Read(b[:])
		if n := int32(binary.LittleEndian.Uint32(b[:]) & 0x7FFFFFFF); n != 0 && !taken(n) {
			return n
		}
	}
}
