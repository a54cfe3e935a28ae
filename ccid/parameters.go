package ccid

import "fmt"

// Lengths in bytes of the protocol data structures (§6.1.7).
const (
	ParametersT0Length = 5
	ParametersT1Length = 7
)

// ParametersT0 is abProtocolDataStructure for T=0 (§6.1.7).
type ParametersT0 struct {
	// BmFindexDindex has the index of F in the high and of D in the low half, as TA1 has (ISO/IEC 7816-3 §8.3).
	BmFindexDindex uint8
	// BmTCCKST0 has bit 1 set for inverse convention.
	BmTCCKST0 uint8
	// BGuardTimeT0 is the extra guard time N, 0..254 etu; 255 is 0.
	BGuardTimeT0 uint8
	// BWaitingIntegerT0 is WI.
	BWaitingIntegerT0 uint8
	// BClockStop says in which state the clock may stop: 0 not at all, 1 low, 2 high, 3 either.
	BClockStop uint8
}

// Bytes returns the structure's 5 bytes.
func (p ParametersT0) Bytes() []byte {
	return []byte{p.BmFindexDindex, p.BmTCCKST0, p.BGuardTimeT0, p.BWaitingIntegerT0, p.BClockStop}
}

// ParseParametersT0 decodes exactly 5 bytes; other lengths are an ErrMessage.
func ParseParametersT0(b []byte) (ParametersT0, error) {
	if len(b) != ParametersT0Length {
		return ParametersT0{}, fmt.Errorf("%w: T=0 parameters of %d bytes, need %d", ErrMessage, len(b), ParametersT0Length)
	}
	return ParametersT0{b[0], b[1], b[2], b[3], b[4]}, nil
}

// ParametersT1 is abProtocolDataStructure for T=1 (§6.1.7).
type ParametersT1 struct {
	// BmFindexDindex has the index of F in the high and of D in the low half, as TA1 has (ISO/IEC 7816-3 §8.3).
	BmFindexDindex uint8
	// BmTCCKST1 is 0x10 with bit 0 set for CRC and bit 1 for inverse convention.
	BmTCCKST1 uint8
	// BGuardTimeT1 is the extra guard time N, 0..255; 255 shortens it to 11 etu.
	BGuardTimeT1 uint8
	// BmWaitingIntegersT1 has BWI in the high and CWI in the low half.
	BmWaitingIntegersT1 uint8
	// BClockStop says in which state the clock may stop: 0 not at all, 1 low, 2 high, 3 either.
	BClockStop uint8
	// BIFSC is the card's information field size, 1..254 bytes.
	BIFSC uint8
	// BNadValue is the node address that the reader uses.
	BNadValue uint8
}

// Bytes returns the structure's 7 bytes.
func (p ParametersT1) Bytes() []byte {
	return []byte{p.BmFindexDindex, p.BmTCCKST1, p.BGuardTimeT1, p.BmWaitingIntegersT1, p.BClockStop, p.BIFSC, p.BNadValue}
}

// ParseParametersT1 decodes exactly 7 bytes; other lengths are an ErrMessage.
func ParseParametersT1(b []byte) (ParametersT1, error) {
	if len(b) != ParametersT1Length {
		return ParametersT1{}, fmt.Errorf("%w: T=1 parameters of %d bytes, need %d", ErrMessage, len(b), ParametersT1Length)
	}
	return ParametersT1{b[0], b[1], b[2], b[3], b[4], b[5], b[6]}, nil
}

// Bits of BmTCCKST0 and BmTCCKST1 (§6.1.7).
const (
	TCCKSTCRC               = 0x01 // T=1 only: CRC instead of LRC
	TCCKSTInverseConvention = 0x02
	TCCKST1Fixed            = 0x10 // always set for T=1
)
