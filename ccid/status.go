package ccid

import "fmt"

// Status is bStatus of a bulk IN message (§6.2.6): bmICCStatus in bits 0..1, bmCommandStatus in bits 6..7.
type Status uint8

// ICCStatus is bmICCStatus (§6.2.6).
type ICCStatus uint8

// The values of bmICCStatus.
const (
	ICCActive   ICCStatus = 0 // a card is present and active
	ICCInactive ICCStatus = 1 // a card is present and not powered
	ICCAbsent   ICCStatus = 2 // no card is present
	ICCReserved ICCStatus = 3
)

// Present reports whether there is a card, active or not.
func (s ICCStatus) Present() bool { return s == ICCActive || s == ICCInactive }

// String returns "active", "inactive", "absent" or "reserved".
func (s ICCStatus) String() string {
	return [...]string{"active", "inactive", "absent", "reserved"}[s&3]
}

// CommandStatus is bmCommandStatus (§6.2.6).
type CommandStatus uint8

// The values of bmCommandStatus.
const (
	CommandOK            CommandStatus = 0 // processed without error
	CommandFailed        CommandStatus = 1 // bError says why
	CommandTimeExtension CommandStatus = 2 // the answer comes later; bError multiplies the waiting time
	CommandReserved      CommandStatus = 3
)

// String returns "processed", "failed", "time extension" or "reserved".
func (s CommandStatus) String() string {
	return [...]string{"processed", "failed", "time extension", "reserved"}[s&3]
}

// NewStatus puts bStatus together.
func NewStatus(icc ICCStatus, command CommandStatus) Status {
	return Status(uint8(icc)&3 | uint8(command)&3<<6)
}

// ICC is bmICCStatus.
func (s Status) ICC() ICCStatus { return ICCStatus(s & 3) }

// Command is bmCommandStatus.
func (s Status) Command() CommandStatus { return CommandStatus(s >> 6) }

// String returns "card active, processed".
func (s Status) String() string { return "card " + s.ICC().String() + ", " + s.Command().String() }

// ClockStatus is bClockStatus of a SlotStatus message (§6.2.2).
type ClockStatus uint8

// The values of bClockStatus.
const (
	ClockRunning     ClockStatus = 0
	ClockStoppedLow  ClockStatus = 1
	ClockStoppedHigh ClockStatus = 2
	ClockStopped     ClockStatus = 3 // in an unknown state
)

// ErrorCode is bError (§6.2.6, table 6.2-2). 1..127 is the offset of the byte in the command that the reader refuses;
// 0x81..0xC0 are the vendor's.
type ErrorCode uint8

// The slot errors.
const (
	ErrorCommandNotSupported     ErrorCode = 0x00
	ErrorBadLength               ErrorCode = 0x01 // offset of dwLength
	ErrorBadSlot                 ErrorCode = 0x05 // offset of bSlot: the slot does not exist
	ErrorBadPowerSelect          ErrorCode = 0x07 // offset of bPowerSelect and other specific bytes
	ErrorBadLevelParameter       ErrorCode = 0x08 // offset of wLevelParameter
	ErrorSlotBusy                ErrorCode = 0xE0
	ErrorPINCancelled            ErrorCode = 0xEF
	ErrorPINTimeout              ErrorCode = 0xF0
	ErrorBusyWithAutoSequence    ErrorCode = 0xF2
	ErrorDeactivatedProtocol     ErrorCode = 0xF3
	ErrorProcedureByteConflict   ErrorCode = 0xF4
	ErrorICCClassNotSupported    ErrorCode = 0xF5
	ErrorICCProtocolNotSupported ErrorCode = 0xF6
	ErrorBadATRTCK               ErrorCode = 0xF7
	ErrorBadATRTS                ErrorCode = 0xF8
	ErrorHardware                ErrorCode = 0xFB
	ErrorXfrOverrun              ErrorCode = 0xFC
	ErrorXfrParity               ErrorCode = 0xFD
	ErrorICCMute                 ErrorCode = 0xFE
	ErrorCommandAborted          ErrorCode = 0xFF
)

var errorNames = map[ErrorCode]string{
	ErrorCommandNotSupported: "command not supported", ErrorSlotBusy: "slot is busy", ErrorPINCancelled: "PIN entry cancelled",
	ErrorPINTimeout: "PIN entry timed out", ErrorBusyWithAutoSequence: "busy with an automatic sequence",
	ErrorDeactivatedProtocol: "deactivated protocol", ErrorProcedureByteConflict: "procedure byte conflict",
	ErrorICCClassNotSupported: "card class not supported", ErrorICCProtocolNotSupported: "card protocol not supported",
	ErrorBadATRTCK: "ATR has a wrong TCK", ErrorBadATRTS: "ATR has a wrong TS", ErrorHardware: "hardware error",
	ErrorXfrOverrun: "overrun while talking to the card", ErrorXfrParity: "parity error while talking to the card",
	ErrorICCMute: "card is mute", ErrorCommandAborted: "command aborted", ErrorBadSlot: "slot does not exist",
	ErrorBadLength: "wrong dwLength",
}

// Offset returns the offset of the byte that the reader refuses, and whether the code is one of 1..127.
func (e ErrorCode) Offset() (int, bool) { return int(e), e >= 1 && e <= 127 }

// String returns the meaning: "card is mute", "refused the byte at offset 8", "vendor error 0xA2".
func (e ErrorCode) String() string {
	if name, ok := errorNames[e]; ok {
		return name
	}
	if offset, ok := e.Offset(); ok {
		return fmt.Sprintf("refused the byte at offset %d", offset)
	}
	if e >= 0x81 && e <= 0xC0 {
		return fmt.Sprintf("vendor error 0x%02X", uint8(e))
	}
	return fmt.Sprintf("reserved error 0x%02X", uint8(e))
}

// CommandError is a command that the reader reports as failed.
type CommandError struct {
	Command MessageType
	Slot    uint8
	Seq     uint8
	Status  Status
	Code    ErrorCode
}

// Error returns "ccid: PC_to_RDR_XfrBlock failed on slot 0: card is mute (bError 0xFE, card active)".
func (e *CommandError) Error() string {
	return fmt.Sprintf("ccid: %v failed on slot %d: %v (bError 0x%02X, card %v)", e.Command, e.Slot, e.Code, uint8(e.Code), e.Status.ICC())
}

// Is makes errors.Is(err, code) work, with an ErrorCode as target.
func (e *CommandError) Is(target error) bool {
	code, ok := target.(ErrorCode)
	return ok && code == e.Code
}

// Error makes an ErrorCode usable as a target of errors.Is.
func (e ErrorCode) Error() string { return e.String() }
