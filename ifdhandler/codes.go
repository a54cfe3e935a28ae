package ifdhandler

import (
	"errors"
	"fmt"

	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/usbtransport"
)

// Code is a response code (RESPONSECODE) of the API.
type Code int32

// The response codes. The comment is the API's name.
const (
	Success              Code = 0   // IFD_SUCCESS
	ErrorTag             Code = 600 // IFD_ERROR_TAG: unknown tag
	ErrorSetFailure      Code = 601 // IFD_ERROR_SET_FAILURE
	ErrorValueReadOnly   Code = 602 // IFD_ERROR_VALUE_READ_ONLY
	ErrorPTSFailure      Code = 605 // IFD_ERROR_PTS_FAILURE
	ErrorNotSupported    Code = 606 // IFD_ERROR_NOT_SUPPORTED
	ProtocolNotSupported Code = 607 // IFD_PROTOCOL_NOT_SUPPORTED
	ErrorPowerAction     Code = 608 // IFD_ERROR_POWER_ACTION
	CommunicationError   Code = 612 // IFD_COMMUNICATION_ERROR
	ResponseTimeout      Code = 613 // IFD_RESPONSE_TIMEOUT
	NotSupported         Code = 614 // IFD_NOT_SUPPORTED
	ICCPresent           Code = 615 // IFD_ICC_PRESENT
	ICCNotPresent        Code = 616 // IFD_ICC_NOT_PRESENT
	NoSuchDevice         Code = 617 // IFD_NO_SUCH_DEVICE
	InsufficientBuffer   Code = 618 // IFD_ERROR_INSUFFICIENT_BUFFER
)

var codeNames = map[Code]string{
	Success: "IFD_SUCCESS", ErrorTag: "IFD_ERROR_TAG", ErrorSetFailure: "IFD_ERROR_SET_FAILURE",
	ErrorValueReadOnly: "IFD_ERROR_VALUE_READ_ONLY", ErrorPTSFailure: "IFD_ERROR_PTS_FAILURE",
	ErrorNotSupported: "IFD_ERROR_NOT_SUPPORTED", ProtocolNotSupported: "IFD_PROTOCOL_NOT_SUPPORTED",
	ErrorPowerAction: "IFD_ERROR_POWER_ACTION", CommunicationError: "IFD_COMMUNICATION_ERROR",
	ResponseTimeout: "IFD_RESPONSE_TIMEOUT", NotSupported: "IFD_NOT_SUPPORTED", ICCPresent: "IFD_ICC_PRESENT",
	ICCNotPresent: "IFD_ICC_NOT_PRESENT", NoSuchDevice: "IFD_NO_SUCH_DEVICE", InsufficientBuffer: "IFD_ERROR_INSUFFICIENT_BUFFER",
}

// String returns the API's name, "IFD_NO_SUCH_DEVICE".
func (c Code) String() string {
	if name, ok := codeNames[c]; ok {
		return name
	}
	return fmt.Sprintf("response code %d", int32(c))
}

// Error makes a Code usable as a target of errors.Is.
func (c Code) Error() string { return c.String() }

// Error is a failed function of the API.
type Error struct {
	// Function is the function's name without its prefix: "PowerICC", "TransmitToICC" …
	Function string
	// Lun is the logical unit.
	Lun Lun
	// Code is the response code.
	Code Code
	// Err is why, nil where the code says it all.
	Err error
}

// Error returns "TransmitToICC of 00010000: IFD_NO_SUCH_DEVICE: …".
func (e *Error) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("%s of %v: %v", e.Function, e.Lun, e.Code)
	}
	return fmt.Sprintf("%s of %v: %v: %v", e.Function, e.Lun, e.Code, e.Err)
}

// Unwrap gives errors.Is and errors.As both the code and the cause.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Code}
	}
	return []error{e.Code, e.Err}
}

// ErrCardReset is in the error of TransmitToICC, Control and SetProtocolParameters where a card has lost its power since PowerICC without anybody's asking: its
// reader was reset, the machine has slept, or the driver ended a session that it could not go on with. It is still there, and needs
// PowerICC. The API has no code for it.
var ErrCardReset = host.ErrNotPowered

// causes maps the driver's errors to codes. The first that matches counts: a reader that is gone is told before anything
// that follows from it.
var causes = []struct {
	err  error
	code Code
}{
	{usbtransport.ErrRemoved, NoSuchDevice},
	{usbtransport.ErrClosed, NoSuchDevice},
	{host.ErrNoCard, ICCNotPresent},
	{host.ErrProtocol, ProtocolNotSupported},
	{host.ErrBadATR, ProtocolNotSupported},
	{host.ErrParameters, ErrorPTSFailure},
	{host.ErrExtendedAPDU, NotSupported},
	{usbtransport.ErrTimedOut, ResponseTimeout},
	{usbtransport.ErrNotSupported, NotSupported},
}

// CodeOf returns the response code of an error: Success for nil, CommunicationError for one that no rule is for.
func CodeOf(err error) Code {
	if err == nil {
		return Success
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	for _, c := range causes {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	return CommunicationError
}
