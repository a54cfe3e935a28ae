package ccid

import (
	"encoding/binary"
	"fmt"
	"time"
)

// Requests of USB ICCD 1.0 (§6.2), for bRequest; RequestTypeOut and RequestTypeIn are their bmRequestType, and the
// interface is wIndex. A token is reader and card in one, with one slot, and takes them in place of bulk messages.
const (
	// ICCDPowerOn resets the card. In version A it is an IN request, whose data are the answer to reset; in version B
	// an OUT request without data and with ICCDPowerOnValue as wValue, and the ATR comes with ICCDDataBlock.
	ICCDPowerOn = 0x62
	// ICCDPowerOff (OUT, no data) ends the card's session, and whatever it is at.
	ICCDPowerOff = 0x63
	// ICCDXfrBlock (OUT) sends bytes to the card. In version A it is the header of a TPDU, and then its data; in version B
	// an APDU or a part of one, as the high byte of wValue says: see ICCDLevelValue.
	ICCDXfrBlock = 0x65
	// ICCDDataBlock (IN) fetches what the card has to say: in version A bytes without any form, in version B an ICCDBlock.
	ICCDDataBlock = 0x6F
	// ICCDSlotStatus (IN, version B) gets an ICCDBlock that has a status.
	ICCDSlotStatus = 0x81
	// ICCDGetStatus (IN, version A) gets one byte, an ICCDState.
	ICCDGetStatus = 0xA0

	// ICCDPowerOnValue is wValue of ICCDPowerOn in version B.
	ICCDPowerOnValue = 0x0001
	// ICCDMaxData is the most data of one request, in bytes: some systems move no more in a control transfer.
	ICCDMaxData = 4096
)

// ICCDLevelValue is wValue of a version B ICCDXfrBlock: wLevelParameter of XfrBlock, ChainSingle to ChainContinue, in
// the high byte.
func ICCDLevelValue(level uint16) uint16 { return level << 8 }

// ICCDState is what a version A token says of itself (ICCD 1.0 §6.2, version A).
type ICCDState uint8

// The states of a version A token. The low half of the byte may change from one look to the next, as a sign of life.
const (
	ICCDReady ICCDState = 0x00 // for the header of a TPDU
	ICCDData  ICCDState = 0x10 // for data of the TPDU, to be sent or to be fetched
	ICCDSW    ICCDState = 0x20 // SW1 SW2 are to be fetched
	ICCDBusy  ICCDState = 0x40
	ICCDMute  ICCDState = 0x80 // the card does not respond
)

// Phase returns the state without its sign of life: one of those that are named, or a value that the specification does not
// know. A card that is mute is nothing else.
func (s ICCDState) Phase() ICCDState {
	if s&ICCDMute != 0 {
		return ICCDMute
	}
	return s & 0xF0
}

// String returns "ready", "data", "SW1 SW2", "busy", "mute", or the byte in hexadecimal.
func (s ICCDState) String() string {
	switch s.Phase() {
	case ICCDReady:
		return "ready"
	case ICCDData:
		return "data"
	case ICCDSW:
		return "SW1 SW2"
	case ICCDBusy:
		return "busy"
	case ICCDMute:
		return "mute"
	}
	return fmt.Sprintf("state 0x%02X", uint8(s))
}

// ICCDBlockType is bResponseType of a version B token's answer (ICCD 1.0 §6.2, version B).
type ICCDBlockType uint8

// The values of bResponseType. Those below ICCDStatus are bChainParameter of a DataBlock (CCID 1.1 §6.2.1).
const (
	ICCDWhole      ICCDBlockType = 0x00 // the response begins and ends here
	ICCDBegins     ICCDBlockType = 0x01 // it begins, and is continued
	ICCDEnds       ICCDBlockType = 0x02 // it ends
	ICCDContinues  ICCDBlockType = 0x03 // it goes on
	ICCDAwaitsPart ICCDBlockType = 0x10 // no data: the next part of the command is expected
	ICCDStatus     ICCDBlockType = 0x40 // bStatus and bError follow
	ICCDPolling    ICCDBlockType = 0x80 // not yet: wDelay follows
)

// ICCDBlock is a version B token's answer to ICCDDataBlock and ICCDSlotStatus.
type ICCDBlock struct {
	Type ICCDBlockType
	// Data are there with types up to ICCDAwaitsPart.
	Data []byte
	// Status and Error are there with ICCDStatus, as in a bulk message (CCID 1.1 §6.2.6).
	Status Status
	Error  ErrorCode
	// Delay is there with ICCDPolling: how long to wait before the next look, in steps of 10 ms up to 655.35 s; 0 leaves it to
	// the host.
	Delay time.Duration
}

// iccdDelayUnit is the unit of wDelay.
const iccdDelayUnit = 10 * time.Millisecond

// ParseICCDBlock decodes an answer. Data aliases b. Nothing at all, a type that the specification does not know, and a
// status or delay that is cut off are an ErrMessage; bytes after a status or a delay are ignored.
func ParseICCDBlock(b []byte) (ICCDBlock, error) {
	if len(b) == 0 {
		return ICCDBlock{}, fmt.Errorf("%w: ICCD answer of no bytes", ErrMessage)
	}
	block := ICCDBlock{Type: ICCDBlockType(b[0])}
	switch block.Type {
	case ICCDWhole, ICCDBegins, ICCDEnds, ICCDContinues, ICCDAwaitsPart:
		block.Data = b[1:]
		return block, nil
	case ICCDStatus, ICCDPolling:
	default:
		return ICCDBlock{}, fmt.Errorf("%w: ICCD answer with bResponseType 0x%02X", ErrMessage, b[0])
	}
	if len(b) < 3 {
		return ICCDBlock{}, fmt.Errorf("%w: ICCD answer with bResponseType 0x%02X and %d bytes, needs 3", ErrMessage, b[0], len(b))
	}
	if block.Type == ICCDPolling {
		block.Delay = time.Duration(binary.LittleEndian.Uint16(b[1:])) * iccdDelayUnit
	} else {
		block.Status, block.Error = Status(b[1]), ErrorCode(b[2])
	}
	return block, nil
}

// AppendBinary appends the answer's bytes to dst. A delay is rounded down to 10 ms and clipped to 655.35 s. It never
// fails; the error is there for encoding.BinaryAppender.
func (b ICCDBlock) AppendBinary(dst []byte) ([]byte, error) {
	dst = append(dst, uint8(b.Type))
	switch b.Type {
	case ICCDStatus:
		return append(dst, uint8(b.Status), uint8(b.Error)), nil
	case ICCDPolling:
		return binary.LittleEndian.AppendUint16(dst, uint16(min(max(b.Delay/iccdDelayUnit, 0), 0xFFFF))), nil
	}
	return append(dst, b.Data...), nil
}
