package wire

import (
	"fmt"
	"strings"
)

// Sizes that are part of the protocol, in bytes.
const (
	// MaxReaderName is the size of a name's field, with its closing NUL.
	MaxReaderName = 128
	// MaxATR is the size of an ATR's field (ISO/IEC 7816-3:2006 §8.1 allows 33
	// with TS).
	MaxATR = 33
	// MaxAttribute is the size of an attribute's field.
	MaxAttribute = 264
	// MaxPayload bounds what Transmit and Control carry, each way: an extended
	// APDU with a header, Lc, 65536 bytes, Le and a status word.
	MaxPayload = 65548
	// OldTableLen is the number of entries of every reader table before 4:6.
	OldTableLen = 16
)

// MajorVersion is the only major version there is.
const MajorVersion = 4

// Minor versions of the protocol and the releases of pcsc-lite that brought
// them.
const (
	Minor3 = 3 // 1.8.4: wait and stop carry a body, the table is fetched before
	Minor4 = 4 // 1.8.24: a wait is answered with the table
	Minor5 = 5 // 2.3.0: the counter of reader events
	Minor6 = 6 // 2.5.0: tables of any length, fetched after a wait
)

// Command says what a request asks for.
type Command uint32

// The commands. ListReaders, GetStatusChange and CancelTransaction have numbers
// but no message: no client sends them and no daemon answers them.
const (
	CmdEstablishContext     Command = 0x01
	CmdReleaseContext       Command = 0x02
	CmdListReaders          Command = 0x03
	CmdConnect              Command = 0x04
	CmdReconnect            Command = 0x05
	CmdDisconnect           Command = 0x06
	CmdBeginTransaction     Command = 0x07
	CmdEndTransaction       Command = 0x08
	CmdTransmit             Command = 0x09
	CmdControl              Command = 0x0A
	CmdStatus               Command = 0x0B
	CmdGetStatusChange      Command = 0x0C
	CmdCancel               Command = 0x0D
	CmdCancelTransaction    Command = 0x0E
	CmdGetAttrib            Command = 0x0F
	CmdSetAttrib            Command = 0x10
	CmdVersion              Command = 0x11
	CmdGetReadersState      Command = 0x12 // until 4:5
	CmdWait                 Command = 0x13
	CmdStopWaiting          Command = 0x14
	CmdGetReaderEvents      Command = 0x15 // since 4:5
	CmdGetReadersStateSize  Command = 0x16 // since 4:6
	CmdGetReadersStateArray Command = 0x17 // since 4:6
)

// String returns the command's name as in pcsc-lite.
func (c Command) String() string {
	names := [...]string{
		CmdEstablishContext:     "ESTABLISH_CONTEXT",
		CmdReleaseContext:       "RELEASE_CONTEXT",
		CmdListReaders:          "LIST_READERS",
		CmdConnect:              "CONNECT",
		CmdReconnect:            "RECONNECT",
		CmdDisconnect:           "DISCONNECT",
		CmdBeginTransaction:     "BEGIN_TRANSACTION",
		CmdEndTransaction:       "END_TRANSACTION",
		CmdTransmit:             "TRANSMIT",
		CmdControl:              "CONTROL",
		CmdStatus:               "STATUS",
		CmdGetStatusChange:      "GET_STATUS_CHANGE",
		CmdCancel:               "CANCEL",
		CmdCancelTransaction:    "CANCEL_TRANSACTION",
		CmdGetAttrib:            "GET_ATTRIB",
		CmdSetAttrib:            "SET_ATTRIB",
		CmdVersion:              "VERSION",
		CmdGetReadersState:      "GET_READERS_STATE",
		CmdWait:                 "WAIT_READER_STATE_CHANGE",
		CmdStopWaiting:          "STOP_WAITING_READER_STATE_CHANGE",
		CmdGetReaderEvents:      "GET_READER_EVENTS",
		CmdGetReadersStateSize:  "GET_READERS_STATE_SIZE",
		CmdGetReadersStateArray: "GET_READERS_STATE_ARRAY",
	}
	if uint64(c) < uint64(len(names)) && names[c] != "" {
		return names[c]
	}
	return fmt.Sprintf("Command(%#x)", uint32(c))
}

// Scope is the scope of a context; it changes nothing.
type Scope uint32

// The scopes.
const (
	ScopeUser     Scope = 0
	ScopeTerminal Scope = 1
	ScopeSystem   Scope = 2
	ScopeGlobal   Scope = 3
)

// ShareMode says with whom a handle shares its card.
type ShareMode uint32

// The share modes.
const (
	Exclusive ShareMode = 1
	Shared    ShareMode = 2
	Direct    ShareMode = 3
)

// String returns the mode in lower case.
func (m ShareMode) String() string {
	switch m {
	case Exclusive:
		return "exclusive"
	case Shared:
		return "shared"
	case Direct:
		return "direct"
	}
	return fmt.Sprintf("ShareMode(%d)", uint32(m))
}

// Disposition says what happens to a card at the end of a transaction or a
// handle, or (as initialization) at a reconnect.
type Disposition uint32

// The dispositions.
const (
	LeaveCard   Disposition = 0
	ResetCard   Disposition = 1
	UnpowerCard Disposition = 2
	EjectCard   Disposition = 3
)

// String returns the disposition in lower case.
func (d Disposition) String() string {
	switch d {
	case LeaveCard:
		return "leave"
	case ResetCard:
		return "reset"
	case UnpowerCard:
		return "unpower"
	case EjectCard:
		return "eject"
	}
	return fmt.Sprintf("Disposition(%d)", uint32(d))
}

// Protocol is a set of transmission protocols, or one of them.
type Protocol uint32

// The protocols. ProtocolAny (T0|T1) is what most programs ask for; AnyOld is the
// same in a number that only old programs use.
const (
	ProtocolUndefined Protocol = 0
	ProtocolT0        Protocol = 0x0001
	ProtocolT1        Protocol = 0x0002
	ProtocolRaw       Protocol = 0x0004
	ProtocolT15       Protocol = 0x0008
	ProtocolAny       Protocol = ProtocolT0 | ProtocolT1
	ProtocolAnyOld    Protocol = 0x1000
)

// String lists the protocols of the set.
func (p Protocol) String() string {
	return bitNames(uint32(p), []bitName{
		{uint32(ProtocolT0), "T=0"},
		{uint32(ProtocolT1), "T=1"},
		{uint32(ProtocolRaw), "RAW"},
		{uint32(ProtocolT15), "T=15"},
		{uint32(ProtocolAnyOld), "ANY"},
	}, "undefined")
}

// State is a set of bits that describe a reader and its card.
type State uint32

// The bits of a State. StateSpecific is part of the protocol and never set.
const (
	StateUnknown    State = 0x0001
	StateAbsent     State = 0x0002
	StatePresent    State = 0x0004
	StateSwallowed  State = 0x0008
	StatePowered    State = 0x0010
	StateNegotiable State = 0x0020
	StateSpecific   State = 0x0040
)

// String lists the bits that are set.
func (s State) String() string {
	return bitNames(uint32(s), []bitName{
		{uint32(StateUnknown), "unknown"},
		{uint32(StateAbsent), "absent"},
		{uint32(StatePresent), "present"},
		{uint32(StateSwallowed), "swallowed"},
		{uint32(StatePowered), "powered"},
		{uint32(StateNegotiable), "negotiable"},
		{uint32(StateSpecific), "specific"},
	}, "unused")
}

// Control codes (SCARD_CTL_CODE of reader.h).
const (
	// ControlCodeBase plus n is control code n.
	ControlCodeBase uint32 = 0x42000000
	// ControlGetFeatureRequest asks for a reader's features (PC/SC part 10 §2.2).
	ControlGetFeatureRequest uint32 = ControlCodeBase + 3400
)

// Attributes that the daemon answers itself when the driver does not know them.
const (
	AttrDeviceFriendlyName uint32 = 0x7FFF0003
	AttrDeviceSystemName   uint32 = 0x7FFF0004
)

type bitName struct {
	bit  uint32
	name string
}

// bitNames joins the names of the bits in v, the rest as a number.
func bitNames(v uint32, known []bitName, none string) string {
	if v == 0 {
		return none
	}
	var parts []string
	for _, k := range known {
		if v&k.bit != 0 {
			parts = append(parts, k.name)
			v &^= k.bit
		}
	}
	if v != 0 {
		parts = append(parts, fmt.Sprintf("%#x", v))
	}
	return strings.Join(parts, "|")
}
