package ccid

import "encoding/binary"

// PowerSelect is bPowerSelect of IccPowerOn (§6.1.1).
type PowerSelect uint8

// The values of bPowerSelect.
const (
	PowerAutomatic PowerSelect = 0
	Power5V        PowerSelect = 1
	Power3V        PowerSelect = 2
	Power18V       PowerSelect = 3
)

// String returns "automatic", "5 V", "3 V" or "1.8 V".
func (p PowerSelect) String() string {
	switch p {
	case PowerAutomatic:
		return "automatic"
	case Power5V:
		return "5 V"
	case Power3V:
		return "3 V"
	case Power18V:
		return "1.8 V"
	}
	return "reserved"
}

// IccPowerOn powers the card or, if it has power, resets it warm (§6.1.1). The answer's Data is the ATR.
func IccPowerOn(slot uint8, power PowerSelect) Command {
	return Command{Type: TypeIccPowerOn, Slot: slot, Specific: [3]byte{uint8(power)}}
}

// IccPowerOff takes the card's power away (§6.1.2).
func IccPowerOff(slot uint8) Command { return Command{Type: TypeIccPowerOff, Slot: slot} }

// GetSlotStatus asks for a slot's state (§6.1.3).
func GetSlotStatus(slot uint8) Command { return Command{Type: TypeGetSlotStatus, Slot: slot} }

// The values of wLevelParameter for the extended APDU level (§6.1.4). At the character level it is the number of bytes
// expected; at the TPDU and short APDU levels it is 0.
const (
	ChainSingle   uint16 = 0x0000 // the command begins and ends with this message
	ChainBegin    uint16 = 0x0001 // the command begins and continues
	ChainEnd      uint16 = 0x0002 // this message ends the command
	ChainMiddle   uint16 = 0x0003 // the command continues
	ChainContinue uint16 = 0x0010 // empty message: the host asks for the next part of the response
)

// XfrBlock transfers a block (§6.1.4). bwi is bBWI, the multiplier of the block waiting time, 0 for none.
func XfrBlock(slot, bwi uint8, level uint16, data []byte) Command {
	return Command{Type: TypeXfrBlock, Slot: slot, Specific: [3]byte{bwi, uint8(level), uint8(level >> 8)}, Data: data}
}

// LevelParameter is wLevelParameter of an XfrBlock or Secure message: offsets 8 and 9.
func (c Command) LevelParameter() uint16 { return binary.LittleEndian.Uint16(c.Specific[1:]) }

// GetParameters asks for the slot's parameters (§6.1.5).
func GetParameters(slot uint8) Command { return Command{Type: TypeGetParameters, Slot: slot} }

// ResetParameters sets the slot's parameters to their defaults (§6.1.6).
func ResetParameters(slot uint8) Command { return Command{Type: TypeResetParameters, Slot: slot} }

// SetParametersT0 sets the slot's parameters for T=0 (§6.1.7).
func SetParametersT0(slot uint8, p ParametersT0) Command {
	return Command{Type: TypeSetParameters, Slot: slot, Specific: [3]byte{0}, Data: p.Bytes()}
}

// SetParametersT1 sets the slot's parameters for T=1 (§6.1.7).
func SetParametersT1(slot uint8, p ParametersT1) Command {
	return Command{Type: TypeSetParameters, Slot: slot, Specific: [3]byte{1}, Data: p.Bytes()}
}

// Escape carries bytes that only the reader's vendor defines (§6.1.8).
func Escape(slot uint8, data []byte) Command {
	return Command{Type: TypeEscape, Slot: slot, Data: data}
}

// ClockCommand is bClockCommand of IccClock (§6.1.9).
type ClockCommand uint8

// The values of bClockCommand.
const (
	ClockRestart ClockCommand = 0
	ClockStop    ClockCommand = 1
)

// IccClock stops or restarts the card's clock (§6.1.9).
func IccClock(slot uint8, c ClockCommand) Command {
	return Command{Type: TypeIccClock, Slot: slot, Specific: [3]byte{uint8(c)}}
}

// T0APDU sets the class bytes that the reader uses for GET RESPONSE and ENVELOPE (§6.1.10). Bit 0 of changes makes
// getResponse count, bit 1 envelope.
func T0APDU(slot, changes, getResponse, envelope uint8) Command {
	return Command{Type: TypeT0APDU, Slot: slot, Specific: [3]byte{changes, getResponse, envelope}}
}

// Secure starts a PIN verification or modification on the reader's pad, data being abData from bPINOperation on
// (§6.1.11).
func Secure(slot, bwi uint8, level uint16, data []byte) Command {
	return Command{Type: TypeSecure, Slot: slot, Specific: [3]byte{bwi, uint8(level), uint8(level >> 8)}, Data: data}
}

// MechanicalFunction is bFunction of Mechanical (§6.1.12).
type MechanicalFunction uint8

// The values of bFunction.
const (
	AcceptCard  MechanicalFunction = 1
	EjectCard   MechanicalFunction = 2
	CaptureCard MechanicalFunction = 3
	LockCard    MechanicalFunction = 4
	UnlockCard  MechanicalFunction = 5
)

// MechanicalCommand works a motorised reader (§6.1.12).
func MechanicalCommand(slot uint8, f MechanicalFunction) Command {
	return Command{Type: TypeMechanical, Slot: slot, Specific: [3]byte{uint8(f)}}
}

// AbortCommand is the bulk half of an abort; it carries the sequence number of the control half, AbortRequest (§6.1.13,
// §5.3.1).
func AbortCommand(slot uint8) Command { return Command{Type: TypeAbort, Slot: slot} }

// SetDataRateAndClockFrequency sets the clock in kHz and the data rate in bit/s (§6.1.14). The answer's Data has the
// values that the reader chose, in the same form.
func SetDataRateAndClockFrequency(slot uint8, clockFrequency, dataRate uint32) Command {
	data := binary.LittleEndian.AppendUint32(make([]byte, 0, 8), clockFrequency)
	return Command{Type: TypeSetDataRateAndClockFrequency, Slot: slot, Data: binary.LittleEndian.AppendUint32(data, dataRate)}
}

// Control requests of the class (§5.3), for bRequest; RequestTypeOut and RequestTypeIn are their bmRequestType.
const (
	RequestAbort               = 0x01
	RequestGetClockFrequencies = 0x02
	RequestGetDataRates        = 0x03

	RequestTypeOut = 0x21
	RequestTypeIn  = 0xA1
)

// AbortValue is wValue of the ABORT request: bSeq in the high byte, bSlot in the low byte (§5.3.1).
func AbortValue(slot, seq uint8) uint16 { return uint16(seq)<<8 | uint16(slot) }

// ParseFrequencies decodes the answer to GET_CLOCK_FREQUENCIES (kHz) or GET_DATA_RATES (bit/s): little-endian 32-bit
// numbers (§5.3.2, §5.3.3). Zeros, which readers pad with, and bytes after the last whole number are dropped.
func ParseFrequencies(b []byte) []uint32 {
	var list []uint32
	for ; len(b) >= 4; b = b[4:] {
		if v := binary.LittleEndian.Uint32(b); v != 0 {
			list = append(list, v)
		}
	}
	return list
}
