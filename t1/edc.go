package t1

import "fmt"

// EDC is the error detection code in the epilogue of each block
// (ISO/IEC 7816-3:2006 §11.3.4); which one a card uses is coded in the first TC
// for T=1 of its ATR (§11.4.4).
type EDC byte

const (
	// LRC is one byte: the exclusive-or of all bytes of the block is 0.
	LRC EDC = iota
	// CRC is two bytes: the 16-bit frame checking sequence of ISO/IEC 13239.
	//
	// ISO/IEC 7816-3 defines no code of its own, it refers to ISO/IEC 13239.
	// That standard fixes what is open otherwise: generator x^16+x^12+x^5+1, the
	// register preset to ones, the ones' complement of the remainder sent,
	// coefficient of the highest term first, in step with octets whose least
	// significant bit goes first. Written as bytes this is the reflected
	// register, complemented, low byte first: the form that
	// ISO/IEC 14443-3 Annex B, built on the same reference, prints in its
	// examples (0A 12 34 56 is followed by 2C F6).
	CRC
	// CRCPlain is CRC without the complement and with the bytes exchanged. No
	// standard asks for it, but the widespread free T=1 code sends it, and the
	// only T=1 exchange with a CRC whose bytes are published (the OsEID card's
	// notes: 00 C1 01 FE is followed by 54 4E) uses it. It is for a second
	// attempt, after a reset, with a card that announces CRC and understands no
	// block protected by the standard's one.
	CRCPlain
)

// String names the code.
func (e EDC) String() string {
	switch e {
	case LRC:
		return "LRC"
	case CRC:
		return "CRC"
	case CRCPlain:
		return "CRC (plain)"
	}

	return fmt.Sprintf("EDC(%d)", byte(e))
}

// Len is the number of bytes of the code in a block: 1 or 2.
func (e EDC) Len() int {
	if e == LRC {
		return 1
	}

	return 2
}

func (e EDC) valid() bool { return e <= CRCPlain }

// compute returns the code over b as it goes over the line. An LRC is in the
// first byte.
func (e EDC) compute(b []byte) [2]byte {
	if e == LRC {
		return [2]byte{lrc(b)}
	}
	sum := crc(b)
	if e == CRCPlain {
		return [2]byte{byte(sum >> 8), byte(sum)}
	}
	sum = ^sum

	return [2]byte{byte(sum), byte(sum >> 8)}
}

func lrc(b []byte) byte {
	var sum byte
	for _, c := range b {
		sum ^= c
	}

	return sum
}

// crc returns the reflected register after b. Eight steps of the division by
// x^16+x^12+x^5+1 are folded into three shifts, which needs no table.
func crc(b []byte) uint16 {
	sum := uint16(0xFFFF)
	for _, c := range b {
		c ^= byte(sum)
		c ^= c << 4
		sum = sum>>8 ^ uint16(c)<<8 ^ uint16(c)<<3 ^ uint16(c)>>4
	}

	return sum
}
