package wire

import "fmt"

// Code is a PC/SC result code as it travels in the rv field of a reply
// (SCARD_* of winscard.h and pcsclite.h). It is an error, so that errors.Is
// finds it; Success is not a failure and is never returned as an error.
type Code uint32

// The result codes that a daemon sends and those that its clients make
// themselves. ErrNoReadersAvailable is made by the client from an empty reader
// table and never travels.
const (
	Success Code = 0

	ErrInternalError      Code = 0x80100001
	ErrCancelled          Code = 0x80100002
	ErrInvalidHandle      Code = 0x80100003
	ErrInvalidParameter   Code = 0x80100004
	ErrInvalidTarget      Code = 0x80100005
	ErrNoMemory           Code = 0x80100006
	ErrWaitedTooLong      Code = 0x80100007
	ErrInsufficientBuffer Code = 0x80100008
	ErrUnknownReader      Code = 0x80100009
	ErrTimeout            Code = 0x8010000A
	ErrSharingViolation   Code = 0x8010000B
	ErrNoSmartcard        Code = 0x8010000C
	ErrUnknownCard        Code = 0x8010000D
	ErrCantDispose        Code = 0x8010000E
	ErrProtoMismatch      Code = 0x8010000F
	ErrNotReady           Code = 0x80100010
	ErrInvalidValue       Code = 0x80100011
	ErrSystemCancelled    Code = 0x80100012
	ErrCommError          Code = 0x80100013
	ErrUnknownError       Code = 0x80100014
	ErrInvalidATR         Code = 0x80100015
	ErrNotTransacted      Code = 0x80100016
	ErrReaderUnavailable  Code = 0x80100017
	ErrShutdown           Code = 0x80100018
	ErrPCITooSmall        Code = 0x80100019
	ErrReaderUnsupported  Code = 0x8010001A
	ErrDuplicateReader    Code = 0x8010001B
	ErrCardUnsupported    Code = 0x8010001C
	ErrNoService          Code = 0x8010001D
	ErrServiceStopped     Code = 0x8010001E
	ErrUnsupportedFeature Code = 0x8010001F // Windows has 0x80100022
	ErrNoReadersAvailable Code = 0x8010002E
	ErrUnsupportedCard    Code = 0x80100065
	ErrUnresponsiveCard   Code = 0x80100066
	ErrUnpoweredCard      Code = 0x80100067
	ErrResetCard          Code = 0x80100068
	ErrRemovedCard        Code = 0x80100069
	ErrSecurityViolation  Code = 0x8010006A
)

// codeText holds the standard's name of a code and what it tells a person.
type codeText struct{ name, text string }

var codeTexts = map[Code]codeText{
	Success:               {"SCARD_S_SUCCESS", "success"},
	ErrInternalError:      {"SCARD_F_INTERNAL_ERROR", "internal consistency check failed"},
	ErrCancelled:          {"SCARD_E_CANCELLED", "cancelled by SCardCancel"},
	ErrInvalidHandle:      {"SCARD_E_INVALID_HANDLE", "unknown handle or context"},
	ErrInvalidParameter:   {"SCARD_E_INVALID_PARAMETER", "parameter not allowed"},
	ErrInvalidTarget:      {"SCARD_E_INVALID_TARGET", "start-up information missing or wrong"},
	ErrNoMemory:           {"SCARD_E_NO_MEMORY", "no more handles or memory"},
	ErrWaitedTooLong:      {"SCARD_F_WAITED_TOO_LONG", "internal time-out"},
	ErrInsufficientBuffer: {"SCARD_E_INSUFFICIENT_BUFFER", "buffer too small for the answer"},
	ErrUnknownReader:      {"SCARD_E_UNKNOWN_READER", "no reader of this name"},
	ErrTimeout:            {"SCARD_E_TIMEOUT", "time-out elapsed"},
	ErrSharingViolation:   {"SCARD_E_SHARING_VIOLATION", "reader or card in use by somebody else"},
	ErrNoSmartcard:        {"SCARD_E_NO_SMARTCARD", "no card in the reader"},
	ErrUnknownCard:        {"SCARD_E_UNKNOWN_CARD", "card not known"},
	ErrCantDispose:        {"SCARD_E_CANT_DISPOSE", "disposition not possible"},
	ErrProtoMismatch:      {"SCARD_E_PROTO_MISMATCH", "requested protocol not possible with this card"},
	ErrNotReady:           {"SCARD_E_NOT_READY", "reader or card not ready"},
	ErrInvalidValue:       {"SCARD_E_INVALID_VALUE", "value not allowed"},
	ErrSystemCancelled:    {"SCARD_E_SYSTEM_CANCELLED", "cancelled by the system"},
	ErrCommError:          {"SCARD_F_COMM_ERROR", "communication with the daemon failed"},
	ErrUnknownError:       {"SCARD_F_UNKNOWN_ERROR", "unknown error"},
	ErrInvalidATR:         {"SCARD_E_INVALID_ATR", "malformed ATR"},
	ErrNotTransacted:      {"SCARD_E_NOT_TRANSACTED", "exchange with the card failed, or no transaction to end"},
	ErrReaderUnavailable:  {"SCARD_E_READER_UNAVAILABLE", "reader gone or in error"},
	ErrShutdown:           {"SCARD_P_SHUTDOWN", "ended because the system shuts down"},
	ErrPCITooSmall:        {"SCARD_E_PCI_TOO_SMALL", "protocol control information too small"},
	ErrReaderUnsupported:  {"SCARD_E_READER_UNSUPPORTED", "reader driver not usable"},
	ErrDuplicateReader:    {"SCARD_E_DUPLICATE_READER", "reader name exists already"},
	ErrCardUnsupported:    {"SCARD_E_CARD_UNSUPPORTED", "card not usable"},
	ErrNoService:          {"SCARD_E_NO_SERVICE", "daemon not running"},
	ErrServiceStopped:     {"SCARD_E_SERVICE_STOPPED", "daemon refuses this protocol version or was stopped"},
	ErrUnsupportedFeature: {"SCARD_E_UNSUPPORTED_FEATURE", "not supported by the reader"},
	ErrNoReadersAvailable: {"SCARD_E_NO_READERS_AVAILABLE", "no reader connected"},
	ErrUnsupportedCard:    {"SCARD_W_UNSUPPORTED_CARD", "card's ATR or protocol not supported"},
	ErrUnresponsiveCard:   {"SCARD_W_UNRESPONSIVE_CARD", "card does not answer"},
	ErrUnpoweredCard:      {"SCARD_W_UNPOWERED_CARD", "card has no power"},
	ErrResetCard:          {"SCARD_W_RESET_CARD", "card was reset by somebody else"},
	ErrRemovedCard:        {"SCARD_W_REMOVED_CARD", "card was removed"},
	ErrSecurityViolation:  {"SCARD_W_SECURITY_VIOLATION", "access denied"},
}

// String returns the standard's name, such as SCARD_E_NO_SMARTCARD.
func (c Code) String() string {
	if t, ok := codeTexts[c]; ok {
		return t.name
	}
	return fmt.Sprintf("Code(%#08x)", uint32(c))
}

// Error returns the name, the number and what the code means.
func (c Code) Error() string {
	if t, ok := codeTexts[c]; ok {
		return fmt.Sprintf("%s (0x%08X): %s", t.name, uint32(c), t.text)
	}
	return fmt.Sprintf("unknown PC/SC code 0x%08X", uint32(c))
}

// Err returns nil for Success and the code itself for all others.
func (c Code) Err() error {
	if c == Success {
		return nil
	}
	return c
}
