package ccid

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// PINOperation is bPINOperation, the first byte of a Secure message's data (§6.1.11).
type PINOperation uint8

// The values of bPINOperation. Those from 2 on belong to readers that keep the PIN between messages; goccid sends none of
// them.
const (
	PINVerify       PINOperation = 0
	PINModify       PINOperation = 1
	PINTransfer     PINOperation = 2
	PINWaitICC      PINOperation = 3
	PINCancel       PINOperation = 4
	PINResendIBlock PINOperation = 5
	PINNextPart     PINOperation = 6
)

// Offsets in a Secure message, for bError of readers that refuse a field and for what parses both structures (§6.1.11).
const (
	OffsetPINOperation     = 10
	OffsetPINTimeOut       = 11
	OffsetPINFormatString  = 12
	OffsetPINBlockString   = 13
	OffsetPINLengthFormat  = 14
	verificationHeader     = 14 // bytes of the verification structure before abPINApdu
	modificationHeader     = 14 // bytes of the modification structure up to bMsgIndex1, which is always there
	prologueLength         = 3
	minPINAPDU             = 4 // CLA INS P1 P2
	defaultMessage         = 0xFF
	maxModificationMessage = 3
)

// PINFormat is the type of a PIN's digits: bits 0..1 of bmFormatString.
type PINFormat uint8

// The types of digits.
const (
	PINBinary PINFormat = 0 // one byte a digit, 00..09
	PINBCD    PINFormat = 1 // half a byte a digit
	PINASCII  PINFormat = 2 // one byte a digit, 30..39
)

// DigitBits is the size of one digit in bits: 8 or, for BCD, 4.
func (f PINFormat) DigitBits() int {
	if f == PINBCD {
		return 4
	}
	return 8
}

// PINFormatString is bmFormatString: how digits are written, and where (§6.1.11).
type PINFormatString uint8

// NewPINFormatString puts bmFormatString together. position is 0..15, in bytes or bits behind Lc; right has the PIN
// justified to the right of its block.
func NewPINFormatString(f PINFormat, position uint8, bytes, right bool) PINFormatString {
	s := uint8(f)&3 | position&15<<3
	if right {
		s |= 1 << 2
	}
	if bytes {
		s |= 1 << 7
	}
	return PINFormatString(s)
}

// Format is the type of the digits; 3 is reserved.
func (s PINFormatString) Format() PINFormat { return PINFormat(s & 3) }

// Right reports whether the PIN is justified to the right of its block.
func (s PINFormatString) Right() bool { return s&(1<<2) != 0 }

// PositionBits is where the PIN block begins, in bits behind Lc.
func (s PINFormatString) PositionBits() int { return position(uint8(s>>3), s&(1<<7) != 0) }

// PINBlockString is bmPINBlockString: the sizes of the PIN block and of the PIN length (§6.1.11).
type PINBlockString uint8

// LengthBits is the size of the PIN length in bits, 0..15; 0 says that it is not inserted.
func (s PINBlockString) LengthBits() int { return int(s >> 4) }

// Size is the size of the PIN block in bytes, 0..15; 0 is as many as the PIN takes.
func (s PINBlockString) Size() int { return int(s & 15) }

// PINLengthFormat is bmPINLengthFormat: where the PIN length goes (§6.1.11). Bits 5..7 are reserved.
type PINLengthFormat uint8

// PositionBits is where the PIN length begins, in bits behind Lc.
func (s PINLengthFormat) PositionBits() int { return position(uint8(s), s&(1<<4) != 0) }

func position(nibble uint8, bytes bool) int {
	if bytes {
		return 8 * int(nibble&15)
	}
	return int(nibble & 15)
}

// PINSize is wPINMaxExtraDigit: the least number of digits in the high byte, the greatest in the low byte.
type PINSize uint16

// Min is the least number of digits.
func (s PINSize) Min() int { return int(s >> 8) }

// Max is the greatest number of digits.
func (s PINSize) Max() int { return int(s & 0xFF) }

// PINCondition is bEntryValidationCondition: what ends the entry of a PIN (§6.1.11). Bits 3..7 are reserved, and at least
// one of the others has to be set.
type PINCondition uint8

// The bits of bEntryValidationCondition.
const (
	PINMaxSizeReached PINCondition = 1 << 0
	PINKeyPressed     PINCondition = 1 << 1
	PINTimeOccurred   PINCondition = 1 << 2
)

// Valid reports whether the condition is one that the specification has: 1..7.
func (c PINCondition) Valid() bool { return c >= 1 && c <= 7 }

// PINConfirm is bConfirmPIN of a PIN modification (§6.1.11). Bits 2..7 are reserved.
type PINConfirm uint8

// The bits of bConfirmPIN.
const (
	PINConfirmNew PINConfirm = 1 << 0 // the new PIN is entered twice
	PINEnterOld   PINConfirm = 1 << 1 // the current PIN is entered too
)

// Entries is how many PINs the holder enters for it: 1..3.
func (c PINConfirm) Entries() int { return 1 + int(c&PINConfirmNew) + int(c&PINEnterOld>>1) }

// PINVerificationData is the PIN verification data structure (§6.1.11). The reader asks for a PIN, writes it into PINAPDU and
// gives that to the card. The structure has no PIN in it.
type PINVerificationData struct {
	// BTimeOut is how long the entry may take, in seconds; 0 is the reader's default.
	BTimeOut uint8
	// BmFormatString says how digits are written, and where.
	BmFormatString PINFormatString
	// BmPINBlockString has the sizes of the PIN block and of the PIN length.
	BmPINBlockString PINBlockString
	// BmPINLengthFormat says where the PIN length goes.
	BmPINLengthFormat PINLengthFormat
	// WPINMaxExtraDigit has the least and the greatest number of digits.
	WPINMaxExtraDigit PINSize
	// BEntryValidationCondition is what ends the entry.
	BEntryValidationCondition PINCondition
	// BNumberMessage is how many messages are displayed: 0, 1, or 0xFF for the reader's default.
	BNumberMessage uint8
	// WLangID is the language of the messages, as USB numbers them; 0x0409 is English.
	WLangID uint16
	// BMsgIndex is the message's number in the reader.
	BMsgIndex uint8
	// BTeoPrologue is NAD, PCB and LEN of the block to send, for T=1 at TPDU level, and 0 otherwise.
	BTeoPrologue [3]byte
	// PINAPDU is the command with a place for the PIN, or its header alone: 4 bytes at least.
	PINAPDU []byte
}

// AppendBinary appends the data of a Secure message, from bPINOperation on. It is an ErrMessage when PINAPDU is shorter
// than 4 bytes.
func (p PINVerificationData) AppendBinary(dst []byte) ([]byte, error) {
	if len(p.PINAPDU) < minPINAPDU {
		return dst, errPINAPDU(len(p.PINAPDU))
	}
	dst = append(dst, uint8(PINVerify), p.BTimeOut, uint8(p.BmFormatString), uint8(p.BmPINBlockString), uint8(p.BmPINLengthFormat))
	dst = binary.LittleEndian.AppendUint16(dst, uint16(p.WPINMaxExtraDigit))
	dst = append(dst, uint8(p.BEntryValidationCondition), p.BNumberMessage)
	dst = binary.LittleEndian.AppendUint16(dst, p.WLangID)
	dst = append(append(dst, p.BMsgIndex), p.BTeoPrologue[:]...)
	return append(dst, p.PINAPDU...), nil
}

// ParsePINVerificationData decodes the data of a Secure message whose bPINOperation is PINVerify. Another operation and fewer
// bytes than the structure has, with 4 of abPINApdu, are an ErrMessage; the fields are not judged. PINAPDU aliases b.
func ParsePINVerificationData(b []byte) (PINVerificationData, error) {
	fields, err := checkSecure(b, PINVerify, verificationHeader)
	if err != nil {
		return PINVerificationData{}, err
	}
	return PINVerificationData{
		BTimeOut: fields[0], BmFormatString: PINFormatString(fields[1]), BmPINBlockString: PINBlockString(fields[2]),
		BmPINLengthFormat: PINLengthFormat(fields[3]), WPINMaxExtraDigit: PINSize(binary.LittleEndian.Uint16(fields[4:])),
		BEntryValidationCondition: PINCondition(fields[6]), BNumberMessage: fields[7], WLangID: binary.LittleEndian.Uint16(fields[8:]),
		BMsgIndex: fields[10], BTeoPrologue: [3]byte(fields[11:]), PINAPDU: slices.Clip(fields[verificationHeader:]),
	}, nil
}

// PINModificationData is the PIN modification data structure (§6.1.11). The reader asks for the new PIN, and for the current
// one where BConfirmPIN says so, writes them into PINAPDU and gives that to the card.
type PINModificationData struct {
	// BTimeOut is how long each entry may take, in seconds; 0 is the reader's default.
	BTimeOut uint8
	// BmFormatString says how digits are written, and where behind the insertion offset.
	BmFormatString PINFormatString
	// BmPINBlockString has the sizes of the PIN block and of the PIN length.
	BmPINBlockString PINBlockString
	// BmPINLengthFormat says where the PIN length goes, behind the insertion offset.
	BmPINLengthFormat PINLengthFormat
	// BInsertionOffsetOld and BInsertionOffsetNew are where the PINs go, in bytes behind Lc.
	BInsertionOffsetOld, BInsertionOffsetNew uint8
	// WPINMaxExtraDigit has the least and the greatest number of digits.
	WPINMaxExtraDigit PINSize
	// BConfirmPIN says which PINs are entered, and how often.
	BConfirmPIN PINConfirm
	// BEntryValidationCondition is what ends each entry.
	BEntryValidationCondition PINCondition
	// BNumberMessage is how many messages are displayed: 0..3, or 0xFF for the reader's default.
	BNumberMessage uint8
	// WLangID is the language of the messages, as USB numbers them; 0x0409 is English.
	WLangID uint16
	// BMsgIndex has the messages' numbers in the reader: for the current PIN, the new one and its confirmation. How many
	// of them are in the message depends on BNumberMessage; see Indices.
	BMsgIndex [3]uint8
	// BTeoPrologue is NAD, PCB and LEN of the block to send, for T=1 at TPDU level, and 0 otherwise.
	BTeoPrologue [3]byte
	// PINAPDU is the command with places for the PINs, or its header alone: 4 bytes at least.
	PINAPDU []byte
}

// Indices is how many of bMsgIndex1..3 the structure has: one without messages, two for one or two messages, three for
// three and for the reader's default.
func (p PINModificationData) Indices() int {
	switch p.BNumberMessage {
	case 0:
		return 1
	case 1, 2:
		return 2
	}
	return 3
}

// AppendBinary appends the data of a Secure message, from bPINOperation on. It is an ErrMessage when PINAPDU is shorter
// than 4 bytes, or for a BNumberMessage that leaves the length of the structure open.
func (p PINModificationData) AppendBinary(dst []byte) ([]byte, error) {
	if err := p.checkNumberMessage(); err != nil {
		return dst, err
	}
	return p.AppendWithIndices(dst, p.Indices())
}

// AppendWithIndices is AppendBinary with this many of bMsgIndex1..3, whatever BNumberMessage says: there are readers that take
// the structure only so. It is an ErrMessage when PINAPDU is shorter than 4 bytes, or for any number but 1..3.
func (p PINModificationData) AppendWithIndices(dst []byte, indices int) ([]byte, error) {
	if len(p.PINAPDU) < minPINAPDU {
		return dst, errPINAPDU(len(p.PINAPDU))
	}
	if indices < 1 || indices > len(p.BMsgIndex) {
		return dst, fmt.Errorf("%w: %d of bMsgIndex1..3", ErrMessage, indices)
	}
	dst = append(dst, uint8(PINModify), p.BTimeOut, uint8(p.BmFormatString), uint8(p.BmPINBlockString), uint8(p.BmPINLengthFormat),
		p.BInsertionOffsetOld, p.BInsertionOffsetNew)
	dst = binary.LittleEndian.AppendUint16(dst, uint16(p.WPINMaxExtraDigit))
	dst = append(dst, uint8(p.BConfirmPIN), uint8(p.BEntryValidationCondition), p.BNumberMessage)
	dst = binary.LittleEndian.AppendUint16(dst, p.WLangID)
	dst = append(dst, p.BMsgIndex[:indices]...)
	dst = append(dst, p.BTeoPrologue[:]...)
	return append(dst, p.PINAPDU...), nil
}

func (p PINModificationData) checkNumberMessage() error {
	if p.BNumberMessage > maxModificationMessage && p.BNumberMessage != defaultMessage {
		return fmt.Errorf("%w: bNumberMessage of a PIN modification is %d, not 0..3 or 255", ErrMessage, p.BNumberMessage)
	}
	return nil
}

// ParsePINModificationData decodes the data of a Secure message whose bPINOperation is PINModify. Another operation, a
// bNumberMessage that leaves the length of the structure open, and fewer bytes than the structure has, with 4 of
// abPINApdu, are an ErrMessage; the other fields are not judged. PINAPDU aliases b.
func ParsePINModificationData(b []byte) (PINModificationData, error) {
	// Without messages one index is there, which is counted in the header.
	fields, err := checkSecure(b, PINModify, modificationHeader+prologueLength)
	if err != nil {
		return PINModificationData{}, err
	}
	p := PINModificationData{
		BTimeOut: fields[0], BmFormatString: PINFormatString(fields[1]), BmPINBlockString: PINBlockString(fields[2]),
		BmPINLengthFormat: PINLengthFormat(fields[3]), BInsertionOffsetOld: fields[4], BInsertionOffsetNew: fields[5],
		WPINMaxExtraDigit: PINSize(binary.LittleEndian.Uint16(fields[6:])), BConfirmPIN: PINConfirm(fields[8]),
		BEntryValidationCondition: PINCondition(fields[9]), BNumberMessage: fields[10], WLangID: binary.LittleEndian.Uint16(fields[11:]),
	}
	if err := p.checkNumberMessage(); err != nil {
		return PINModificationData{}, err
	}
	if _, err := checkSecure(b, PINModify, modificationHeader-1+p.Indices()+prologueLength); err != nil {
		return PINModificationData{}, err
	}
	rest := fields[modificationHeader-1:]
	rest = rest[copy(p.BMsgIndex[:p.Indices()], rest):]
	rest = rest[copy(p.BTeoPrologue[:], rest):]
	p.PINAPDU = slices.Clip(rest)
	return p, nil
}

// checkSecure returns what follows bPINOperation, when that is the one wanted and header bytes and an APDU follow it.
func checkSecure(b []byte, want PINOperation, header int) ([]byte, error) {
	if len(b) == 0 || PINOperation(b[0]) != want {
		return nil, fmt.Errorf("%w: bPINOperation is not %d", ErrMessage, want)
	}
	if needed := 1 + header + minPINAPDU; len(b) < needed {
		return nil, fmt.Errorf("%w: PIN data structure of %d bytes, needs %d", ErrMessage, len(b), needed)
	}
	return b[1:], nil
}

func errPINAPDU(n int) error {
	return fmt.Errorf("%w: abPINApdu of %d bytes, needs %d", ErrMessage, n, minPINAPDU)
}
