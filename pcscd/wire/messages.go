package wire

import "fmt"

// Sizes of the fixed parts of messages, in bytes.
const (
	HeaderSize       = 8
	VersionSize      = 12
	EstablishSize    = 12
	ReleaseSize      = 8
	ConnectSize      = 152
	ReconnectSize    = 24
	DisconnectSize   = 12
	BeginSize        = 8
	EndSize          = 12
	TransmitSize     = 32
	ControlSize      = 24
	StatusSize       = 8
	CancelSize       = 8
	AttributeSize    = 280
	SignalSize       = 8
	ReaderEventsSize = 8
	TableSizeSize    = 4
)

// BodySize returns the size of a request's fixed body and whether the command
// is one that clients send. The commands from CmdGetReadersState on have no
// body, save CmdWait and CmdStopWaiting of 4:3 clients, which have a Signal.
func (c Command) BodySize() (int, bool) {
	switch c {
	case CmdEstablishContext:
		return EstablishSize, true
	case CmdReleaseContext:
		return ReleaseSize, true
	case CmdConnect:
		return ConnectSize, true
	case CmdReconnect:
		return ReconnectSize, true
	case CmdDisconnect:
		return DisconnectSize, true
	case CmdBeginTransaction:
		return BeginSize, true
	case CmdEndTransaction:
		return EndSize, true
	case CmdTransmit:
		return TransmitSize, true
	case CmdControl:
		return ControlSize, true
	case CmdStatus:
		return StatusSize, true
	case CmdCancel:
		return CancelSize, true
	case CmdGetAttrib, CmdSetAttrib:
		return AttributeSize, true
	case CmdVersion:
		return VersionSize, true
	case CmdGetReadersState, CmdWait, CmdStopWaiting, CmdGetReaderEvents,
		CmdGetReadersStateSize, CmdGetReadersStateArray:
		return 0, true
	}
	return 0, false
}

// Header starts every request.
type Header struct {
	// Size is the size of the fixed body; a payload is not counted.
	Size    uint32
	Command Command
}

// Append appends the header's 8 bytes.
func (h Header) Append(dst []byte) []byte {
	dst, b := grow(dst, HeaderSize)
	put32(b, 0, h.Size)
	put32(b, 4, uint32(h.Command))
	return dst
}

// ParseHeader reads a header of exactly 8 bytes.
func ParseHeader(b []byte) (Header, error) {
	if err := exactly("header", b, HeaderSize); err != nil {
		return Header{}, err
	}
	return Header{Size: get32(b, 0), Command: Command(get32(b, 4))}, nil
}

// Version is the handshake: what the client speaks, and what the daemon answers.
type Version struct {
	Major, Minor int32
	Code         Code
}

// Append appends the body's 12 bytes.
func (m Version) Append(dst []byte) []byte {
	dst, b := grow(dst, VersionSize)
	put32(b, 0, uint32(m.Major))
	put32(b, 4, uint32(m.Minor))
	put32(b, 8, uint32(m.Code))
	return dst
}

// ParseVersion reads a body of exactly 12 bytes.
func ParseVersion(b []byte) (Version, error) {
	if err := exactly("version", b, VersionSize); err != nil {
		return Version{}, err
	}
	return Version{Major: int32(get32(b, 0)), Minor: int32(get32(b, 4)), Code: Code(get32(b, 8))}, nil
}

// Establish asks for a context; the reply holds its number.
type Establish struct {
	Scope   Scope
	Context uint32
	Code    Code
}

// Append appends the body's 12 bytes.
func (m Establish) Append(dst []byte) []byte {
	dst, b := grow(dst, EstablishSize)
	put32(b, 0, uint32(m.Scope))
	put32(b, 4, m.Context)
	put32(b, 8, uint32(m.Code))
	return dst
}

// ParseEstablish reads a body of exactly 12 bytes.
func ParseEstablish(b []byte) (Establish, error) {
	if err := exactly("establish", b, EstablishSize); err != nil {
		return Establish{}, err
	}
	return Establish{Scope: Scope(get32(b, 0)), Context: get32(b, 4), Code: Code(get32(b, 8))}, nil
}

// Release gives a context back.
type Release struct {
	Context uint32
	Code    Code
}

// Append appends the body's 8 bytes.
func (m Release) Append(dst []byte) []byte { return appendPair(dst, m.Context, uint32(m.Code)) }

// ParseRelease reads a body of exactly 8 bytes.
func ParseRelease(b []byte) (Release, error) {
	first, code, err := parsePair("release", b)
	return Release{Context: first, Code: code}, err
}

// Connect asks for a handle on a reader; the reply holds Card, ActiveProtocol
// and Code.
type Connect struct {
	Context uint32
	// Reader is the reader's name, at most 128 bytes.
	Reader             string
	ShareMode          ShareMode
	PreferredProtocols Protocol
	Card               int32
	ActiveProtocol     Protocol
	Code               Code
}

// Append appends the body's 152 bytes. A name longer than its field is cut.
func (m Connect) Append(dst []byte) []byte {
	dst, b := grow(dst, ConnectSize)
	put32(b, 0, m.Context)
	copy(b[4:132], m.Reader)
	put32(b, 132, uint32(m.ShareMode))
	put32(b, 136, uint32(m.PreferredProtocols))
	put32(b, 140, uint32(m.Card))
	put32(b, 144, uint32(m.ActiveProtocol))
	put32(b, 148, uint32(m.Code))
	return dst
}

// ParseConnect reads a body of exactly 152 bytes. A name that fills its field
// without a NUL is taken as it is; no reader has such a name.
func ParseConnect(b []byte) (Connect, error) {
	if err := exactly("connect", b, ConnectSize); err != nil {
		return Connect{}, err
	}
	return Connect{
		Context:            get32(b, 0),
		Reader:             upToNUL(b[4:132]),
		ShareMode:          ShareMode(get32(b, 132)),
		PreferredProtocols: Protocol(get32(b, 136)),
		Card:               int32(get32(b, 140)),
		ActiveProtocol:     Protocol(get32(b, 144)),
		Code:               Code(get32(b, 148)),
	}, nil
}

// ParseCard reads hCard, with which the body of each command on a handle begins.
func ParseCard(body []byte) (int32, error) {
	if len(body) < 4 {
		return 0, &LengthError{What: "handle", Got: len(body), Want: 4}
	}
	return int32(get32(body, 0)), nil
}

// Reconnect changes a handle; the reply holds ActiveProtocol and Code.
type Reconnect struct {
	Card               int32
	ShareMode          ShareMode
	PreferredProtocols Protocol
	Initialization     Disposition
	ActiveProtocol     Protocol
	Code               Code
}

// Append appends the body's 24 bytes.
func (m Reconnect) Append(dst []byte) []byte {
	dst, b := grow(dst, ReconnectSize)
	put32(b, 0, uint32(m.Card))
	put32(b, 4, uint32(m.ShareMode))
	put32(b, 8, uint32(m.PreferredProtocols))
	put32(b, 12, uint32(m.Initialization))
	put32(b, 16, uint32(m.ActiveProtocol))
	put32(b, 20, uint32(m.Code))
	return dst
}

// ParseReconnect reads a body of exactly 24 bytes.
func ParseReconnect(b []byte) (Reconnect, error) {
	if err := exactly("reconnect", b, ReconnectSize); err != nil {
		return Reconnect{}, err
	}
	return Reconnect{
		Card:               int32(get32(b, 0)),
		ShareMode:          ShareMode(get32(b, 4)),
		PreferredProtocols: Protocol(get32(b, 8)),
		Initialization:     Disposition(get32(b, 12)),
		ActiveProtocol:     Protocol(get32(b, 16)),
		Code:               Code(get32(b, 20)),
	}, nil
}

// Disconnect gives a handle back.
type Disconnect struct {
	Card        int32
	Disposition Disposition
	Code        Code
}

// Append appends the body's 12 bytes.
func (m Disconnect) Append(dst []byte) []byte {
	return appendTriple(dst, uint32(m.Card), uint32(m.Disposition), uint32(m.Code))
}

// ParseDisconnect reads a body of exactly 12 bytes.
func ParseDisconnect(b []byte) (Disconnect, error) {
	card, disposition, code, err := parseTriple("disconnect", b)
	return Disconnect{Card: int32(card), Disposition: Disposition(disposition), Code: code}, err
}

// Begin starts a transaction.
type Begin struct {
	Card int32
	Code Code
}

// Append appends the body's 8 bytes.
func (m Begin) Append(dst []byte) []byte { return appendPair(dst, uint32(m.Card), uint32(m.Code)) }

// ParseBegin reads a body of exactly 8 bytes.
func ParseBegin(b []byte) (Begin, error) {
	card, code, err := parsePair("begin", b)
	return Begin{Card: int32(card), Code: code}, err
}

// End ends a transaction.
type End struct {
	Card        int32
	Disposition Disposition
	Code        Code
}

// Append appends the body's 12 bytes.
func (m End) Append(dst []byte) []byte {
	return appendTriple(dst, uint32(m.Card), uint32(m.Disposition), uint32(m.Code))
}

// ParseEnd reads a body of exactly 12 bytes.
func ParseEnd(b []byte) (End, error) {
	card, disposition, code, err := parseTriple("end", b)
	return End{Card: int32(card), Disposition: Disposition(disposition), Code: code}, err
}

// PCI is protocol control information (SCARD_IO_REQUEST).
type PCI struct {
	Protocol Protocol
	// Length is what the application gave as the size of its own structure.
	Length uint32
}

// Transmit carries a command to the card. SendLength bytes follow the request;
// ReceiveLength bytes follow a reply whose Code is Success.
type Transmit struct {
	Card       int32
	SendPCI    PCI
	SendLength uint32
	ReceivePCI PCI
	// ReceiveLength is the size of the client's buffer in a request, the size of
	// the answer in a reply.
	ReceiveLength uint32
	Code          Code
}

// Append appends the body's 32 bytes, without the payload.
func (m Transmit) Append(dst []byte) []byte {
	dst, b := grow(dst, TransmitSize)
	put32(b, 0, uint32(m.Card))
	put32(b, 4, uint32(m.SendPCI.Protocol))
	put32(b, 8, m.SendPCI.Length)
	put32(b, 12, m.SendLength)
	put32(b, 16, uint32(m.ReceivePCI.Protocol))
	put32(b, 20, m.ReceivePCI.Length)
	put32(b, 24, m.ReceiveLength)
	put32(b, 28, uint32(m.Code))
	return dst
}

// ParseTransmit reads a body of exactly 32 bytes. SendLength is not bounded
// here: the daemon looks at the handle first.
func ParseTransmit(b []byte) (Transmit, error) {
	if err := exactly("transmit", b, TransmitSize); err != nil {
		return Transmit{}, err
	}
	return Transmit{
		Card:          int32(get32(b, 0)),
		SendPCI:       PCI{Protocol: Protocol(get32(b, 4)), Length: get32(b, 8)},
		SendLength:    get32(b, 12),
		ReceivePCI:    PCI{Protocol: Protocol(get32(b, 16)), Length: get32(b, 20)},
		ReceiveLength: get32(b, 24),
		Code:          Code(get32(b, 28)),
	}, nil
}

// Control carries a command to the driver. SendLength bytes follow the request;
// Returned bytes follow a reply whose Code is Success.
type Control struct {
	Card        int32
	ControlCode uint32
	SendLength  uint32
	// ReceiveLength is the size of the client's buffer.
	ReceiveLength uint32
	Returned      uint32
	Code          Code
}

// Append appends the body's 24 bytes, without the payload.
func (m Control) Append(dst []byte) []byte {
	dst, b := grow(dst, ControlSize)
	put32(b, 0, uint32(m.Card))
	put32(b, 4, m.ControlCode)
	put32(b, 8, m.SendLength)
	put32(b, 12, m.ReceiveLength)
	put32(b, 16, m.Returned)
	put32(b, 20, uint32(m.Code))
	return dst
}

// ParseControl reads a body of exactly 24 bytes. SendLength is not bounded here.
func ParseControl(b []byte) (Control, error) {
	if err := exactly("control", b, ControlSize); err != nil {
		return Control{}, err
	}
	return Control{
		Card:          int32(get32(b, 0)),
		ControlCode:   get32(b, 4),
		SendLength:    get32(b, 8),
		ReceiveLength: get32(b, 12),
		Returned:      get32(b, 16),
		Code:          Code(get32(b, 20)),
	}, nil
}

// Status asks whether a handle is still good; the client takes the card's state
// from the reader table.
type Status struct {
	Card int32
	Code Code
}

// Append appends the body's 8 bytes.
func (m Status) Append(dst []byte) []byte { return appendPair(dst, uint32(m.Card), uint32(m.Code)) }

// ParseStatus reads a body of exactly 8 bytes.
func ParseStatus(b []byte) (Status, error) {
	card, code, err := parsePair("status", b)
	return Status{Card: int32(card), Code: code}, err
}

// Cancel ends the wait of another connection's context.
type Cancel struct {
	Context uint32
	Code    Code
}

// Append appends the body's 8 bytes.
func (m Cancel) Append(dst []byte) []byte { return appendPair(dst, m.Context, uint32(m.Code)) }

// ParseCancel reads a body of exactly 8 bytes.
func ParseCancel(b []byte) (Cancel, error) {
	context, code, err := parsePair("cancel", b)
	return Cancel{Context: context, Code: code}, err
}

// Attribute gets or sets an attribute.
type Attribute struct {
	Card int32
	ID   uint32
	Data [MaxAttribute]byte
	// Length is the number of bytes in Data; with ErrInsufficientBuffer, the
	// number that would be needed.
	Length uint32
	Code   Code
}

// Append appends the body's 280 bytes.
func (m *Attribute) Append(dst []byte) []byte {
	dst, b := grow(dst, AttributeSize)
	put32(b, 0, uint32(m.Card))
	put32(b, 4, m.ID)
	copy(b[8:272], m.Data[:])
	put32(b, 272, m.Length)
	put32(b, 276, uint32(m.Code))
	return dst
}

// ParseAttribute reads a body of exactly 280 bytes. Length is not bounded here:
// the daemon looks at the handle first.
func ParseAttribute(b []byte) (*Attribute, error) {
	if err := exactly("attribute", b, AttributeSize); err != nil {
		return nil, err
	}
	return &Attribute{
		Card:   int32(get32(b, 0)),
		ID:     get32(b, 4),
		Data:   [MaxAttribute]byte(b[8:272]),
		Length: get32(b, 272),
		Code:   Code(get32(b, 276)),
	}, nil
}

// Signal ends a wait: readers changed (Success), the wait was cancelled
// (ErrCancelled), or the client stopped it. 4:3 clients also send one as the body
// of CmdWait and CmdStopWaiting.
type Signal struct {
	TimeOut uint32 // always 0
	Code    Code
}

// Append appends the message's 8 bytes.
func (m Signal) Append(dst []byte) []byte { return appendPair(dst, m.TimeOut, uint32(m.Code)) }

// ParseSignal reads a message of exactly 8 bytes.
func ParseSignal(b []byte) (Signal, error) {
	timeOut, code, err := parsePair("signal", b)
	return Signal{TimeOut: timeOut, Code: code}, err
}

// ReaderEvents is the reply to CmdGetReaderEvents.
type ReaderEvents struct {
	// Count of readers that came and went, 1 to 32767.
	Count uint32
	Code  Code
}

// Append appends the body's 8 bytes.
func (m ReaderEvents) Append(dst []byte) []byte { return appendPair(dst, m.Count, uint32(m.Code)) }

// ParseReaderEvents reads a body of exactly 8 bytes.
func ParseReaderEvents(b []byte) (ReaderEvents, error) {
	count, code, err := parsePair("reader events", b)
	return ReaderEvents{Count: count, Code: code}, err
}

// TableSize is the reply to CmdGetReadersStateSize: the number of entries of the
// table that the next CmdGetReadersStateArray gives.
type TableSize int32

// Append appends the body's 4 bytes.
func (m TableSize) Append(dst []byte) []byte {
	dst, b := grow(dst, TableSizeSize)
	put32(b, 0, uint32(m))
	return dst
}

// ParseTableSize reads a body of exactly 4 bytes.
func ParseTableSize(b []byte) (TableSize, error) {
	if err := exactly("table size", b, TableSizeSize); err != nil {
		return 0, err
	}
	n := TableSize(get32(b, 0))
	if n < 0 {
		return 0, fmt.Errorf("wire: reader table of %d entries", n)
	}
	return n, nil
}

func appendPair(dst []byte, first, second uint32) []byte {
	dst, b := grow(dst, 8)
	put32(b, 0, first)
	put32(b, 4, second)
	return dst
}

func parsePair(what string, b []byte) (uint32, Code, error) {
	if err := exactly(what, b, 8); err != nil {
		return 0, 0, err
	}
	return get32(b, 0), Code(get32(b, 4)), nil
}

func appendTriple(dst []byte, first, second, third uint32) []byte {
	dst, b := grow(dst, 12)
	put32(b, 0, first)
	put32(b, 4, second)
	put32(b, 8, third)
	return dst
}

func parseTriple(what string, b []byte) (uint32, uint32, Code, error) {
	if err := exactly(what, b, 12); err != nil {
		return 0, 0, 0, err
	}
	return get32(b, 0), get32(b, 4), Code(get32(b, 8)), nil
}
