package ccid

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// HeaderLength is the length in bytes of the header of every bulk message (§6.1, §6.2).
const HeaderLength = 10

// MaxMessageLength is the largest bulk message that goccid sends or takes: an extended APDU of 65,544 bytes with its
// header. dwMaxCCIDMessageLength may claim up to 4 GiB; nothing is ever allocated by that claim.
const MaxMessageLength = HeaderLength + 65544

// MessageType is bMessageType.
type MessageType uint8

// Bulk OUT messages (§6.1).
const (
	TypeSetParameters                MessageType = 0x61
	TypeIccPowerOn                   MessageType = 0x62
	TypeIccPowerOff                  MessageType = 0x63
	TypeGetSlotStatus                MessageType = 0x65
	TypeSecure                       MessageType = 0x69
	TypeT0APDU                       MessageType = 0x6A
	TypeEscape                       MessageType = 0x6B
	TypeGetParameters                MessageType = 0x6C
	TypeResetParameters              MessageType = 0x6D
	TypeIccClock                     MessageType = 0x6E
	TypeXfrBlock                     MessageType = 0x6F
	TypeMechanical                   MessageType = 0x71
	TypeAbort                        MessageType = 0x72
	TypeSetDataRateAndClockFrequency MessageType = 0x73
)

// Bulk IN messages (§6.2).
const (
	TypeDataBlock                 MessageType = 0x80
	TypeSlotStatus                MessageType = 0x81
	TypeParameters                MessageType = 0x82
	TypeEscapeResponse            MessageType = 0x83
	TypeDataRateAndClockFrequency MessageType = 0x84
)

// Interrupt IN messages (§6.3).
const (
	TypeNotifySlotChange MessageType = 0x50
	TypeHardwareError    MessageType = 0x51
)

// messageNames has the specification's names, with their prefixes.
var messageNames = map[MessageType]string{
	TypeSetParameters: "PC_to_RDR_SetParameters", TypeIccPowerOn: "PC_to_RDR_IccPowerOn", TypeIccPowerOff: "PC_to_RDR_IccPowerOff",
	TypeGetSlotStatus: "PC_to_RDR_GetSlotStatus", TypeSecure: "PC_to_RDR_Secure", TypeT0APDU: "PC_to_RDR_T0APDU",
	TypeEscape: "PC_to_RDR_Escape", TypeGetParameters: "PC_to_RDR_GetParameters", TypeResetParameters: "PC_to_RDR_ResetParameters",
	TypeIccClock: "PC_to_RDR_IccClock", TypeXfrBlock: "PC_to_RDR_XfrBlock", TypeMechanical: "PC_to_RDR_Mechanical",
	TypeAbort: "PC_to_RDR_Abort", TypeSetDataRateAndClockFrequency: "PC_to_RDR_SetDataRateAndClockFrequency",
	TypeDataBlock: "RDR_to_PC_DataBlock", TypeSlotStatus: "RDR_to_PC_SlotStatus", TypeParameters: "RDR_to_PC_Parameters",
	TypeEscapeResponse: "RDR_to_PC_Escape", TypeDataRateAndClockFrequency: "RDR_to_PC_DataRateAndClockFrequency",
	TypeNotifySlotChange: "RDR_to_PC_NotifySlotChange", TypeHardwareError: "RDR_to_PC_HardwareError",
}

// String returns the specification's name, "PC_to_RDR_XfrBlock"; "message 0x55" for an unknown type.
func (t MessageType) String() string {
	if name, ok := messageNames[t]; ok {
		return name
	}
	return fmt.Sprintf("message 0x%02X", uint8(t))
}

// ResponseType returns the type of the bulk IN message that answers the bulk OUT message t (table 6.1-2), and false if
// t is not a bulk OUT message.
func (t MessageType) ResponseType() (MessageType, bool) {
	switch t {
	case TypeIccPowerOn, TypeXfrBlock, TypeSecure:
		return TypeDataBlock, true
	case TypeIccPowerOff, TypeGetSlotStatus, TypeIccClock, TypeT0APDU, TypeMechanical, TypeAbort:
		return TypeSlotStatus, true
	case TypeGetParameters, TypeResetParameters, TypeSetParameters:
		return TypeParameters, true
	case TypeEscape:
		return TypeEscapeResponse, true
	case TypeSetDataRateAndClockFrequency:
		return TypeDataRateAndClockFrequency, true
	}
	return 0, false
}

// ErrMessage is what every error about a message's form is, to errors.Is.
var ErrMessage = errors.New("ccid: malformed message")

// LengthError says that a message is shorter than its header or its dwLength demands. It is an ErrMessage.
type LengthError struct {
	Type     MessageType
	Received int // bytes that came
	Needed   int // bytes that header and dwLength demand; more than an int can hold is clipped
}

// Error returns "ccid: malformed message: RDR_to_PC_DataBlock: 12 bytes, needs 40".
func (e *LengthError) Error() string {
	return fmt.Sprintf("%v: %v: %d bytes, needs %d", ErrMessage, e.Type, e.Received, e.Needed)
}

// Unwrap returns ErrMessage.
func (e *LengthError) Unwrap() error { return ErrMessage }

// Command is a bulk OUT message (§6.1): what the host sends.
type Command struct {
	Type MessageType
	// Slot is bSlot, Seq is bSeq.
	Slot, Seq uint8
	// Specific holds the three message-specific bytes at offsets 7..9.
	Specific [3]byte
	// Data is abData.
	Data []byte
}

// AppendBinary appends the message's bytes to dst. It never fails; the error is there for encoding.BinaryAppender.
func (c Command) AppendBinary(dst []byte) ([]byte, error) {
	dst = append(dst, uint8(c.Type))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(c.Data)))
	dst = append(dst, c.Slot, c.Seq, c.Specific[0], c.Specific[1], c.Specific[2])
	return append(dst, c.Data...), nil
}

// ParseCommand decodes a bulk OUT message as a device receives it: dwLength must equal the bytes that follow. Data
// aliases b. The type is not judged.
func ParseCommand(b []byte) (Command, error) {
	if err := checkLength(b); err != nil {
		return Command{}, err
	}
	if extra := len(b) - HeaderLength - int(binary.LittleEndian.Uint32(b[1:])); extra > 0 {
		return Command{}, fmt.Errorf("%w: %v: %d bytes more than dwLength says", ErrMessage, MessageType(b[0]), extra)
	}
	return Command{Type: MessageType(b[0]), Slot: b[5], Seq: b[6], Specific: [3]byte(b[7:10]), Data: b[HeaderLength:]}, nil
}

// Response is a bulk IN message (§6.2): what the reader sends.
type Response struct {
	Type MessageType
	// Slot is bSlot, Seq is bSeq.
	Slot, Seq uint8
	// Status is bStatus, Error is bError; Error counts only where Status says failed or time extension.
	Status Status
	Error  ErrorCode
	// Specific is offset 9: bChainParameter of a DataBlock, bClockStatus of a SlotStatus, bProtocolNum of Parameters.
	Specific uint8
	// Data is abData.
	Data []byte
	// Trailing counts bytes that came after those which dwLength announces. They are not part of Data.
	Trailing int
}

// AppendBinary appends the message's bytes to dst, without trailing bytes. It never fails; the error is there for
// encoding.BinaryAppender.
func (r Response) AppendBinary(dst []byte) ([]byte, error) {
	dst = append(dst, uint8(r.Type))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(r.Data)))
	dst = append(dst, r.Slot, r.Seq, uint8(r.Status), uint8(r.Error), r.Specific)
	return append(dst, r.Data...), nil
}

// ParseResponse decodes a bulk IN message. Fewer bytes than the header and dwLength demand give a *LengthError; more
// are counted in Trailing and left out of Data. Data aliases b. Type, slot, sequence and status are for the caller to
// judge, who knows what it sent.
func ParseResponse(b []byte) (Response, error) {
	if err := checkLength(b); err != nil {
		return Response{}, err
	}
	end := HeaderLength + int(binary.LittleEndian.Uint32(b[1:]))
	return Response{
		Type: MessageType(b[0]), Slot: b[5], Seq: b[6], Status: Status(b[7]), Error: ErrorCode(b[8]), Specific: b[9],
		Data: b[HeaderLength:end:end], Trailing: len(b) - end,
	}, nil
}

func checkLength(b []byte) error {
	if len(b) < HeaderLength {
		e := &LengthError{Received: len(b), Needed: HeaderLength}
		if len(b) > 0 {
			e.Type = MessageType(b[0])
		}
		return e
	}
	// In 64 bits, so that a hostile dwLength can't wrap around on a 32-bit machine.
	if needed := HeaderLength + int64(binary.LittleEndian.Uint32(b[1:])); needed > int64(len(b)) {
		return &LengthError{Type: MessageType(b[0]), Received: len(b), Needed: int(min(needed, 1<<31-1))}
	}
	return nil
}

// Check compares a response with the command that it should answer: type, slot and sequence number (§6.2). It returns
// nil or a *MismatchError. A RDR_to_PC_SlotStatus that says that the command has failed answers every command: so readers refuse
// what they don't know (QEMU's an Escape).
func (r Response) Check(c Command) error {
	want, _ := c.Type.ResponseType()
	refusal := r.Type == TypeSlotStatus && r.Status.Command() == CommandFailed
	if (r.Type == want || refusal) && r.Slot == c.Slot && r.Seq == c.Seq {
		return nil
	}
	return &MismatchError{Command: c.Type, Want: want, Slot: c.Slot, Seq: c.Seq, GotType: r.Type, GotSlot: r.Slot, GotSeq: r.Seq}
}

// MismatchError says that a response is not the answer to the command that was sent. It is an ErrMessage.
type MismatchError struct {
	Command       MessageType // what was sent
	Want, GotType MessageType
	Slot, GotSlot uint8
	Seq, GotSeq   uint8
}

// Error names expected and received type, slot and sequence number.
func (e *MismatchError) Error() string {
	return fmt.Sprintf("%v: answer to %v: expected %v slot %d seq %d, got %v slot %d seq %d",
		ErrMessage, e.Command, e.Want, e.Slot, e.Seq, e.GotType, e.GotSlot, e.GotSeq)
}

// Unwrap returns ErrMessage.
func (e *MismatchError) Unwrap() error { return ErrMessage }
