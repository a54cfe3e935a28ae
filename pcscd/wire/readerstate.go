package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// ReaderStateSize is the size of one entry of the reader table, in bytes.
const ReaderStateSize = 184

// Offsets in an entry of the reader table.
const (
	stateName         = 0
	stateEventCounter = 128
	stateState        = 132
	stateSharing      = 136
	stateATR          = 140
	stateATRLen       = 176
	stateProtocol     = 180
)

// atrLenUnknown in the ATR's length says that the reader's first status is not
// known yet (READER_NOT_INITIALIZED).
const atrLenUnknown = MaxATR + 1

// Values of ReaderState.Sharing; n > 0 is a number of shared handles.
const (
	SharingExclusive int32 = -1
	SharingNobody    int32 = 0
)

// ReaderState is one entry of the reader table: what every client may know of a
// reader. The zero value is an unused entry.
type ReaderState struct {
	// Name is the reader's name, at most 127 bytes; "" in unused entries.
	Name string
	// EventCounter counts insertions and removals of cards, modulo 65536.
	EventCounter uint32
	State        State
	// Sharing is SharingExclusive, SharingNobody or the number of shared handles.
	Sharing int32
	// ATR of the card, at most 33 bytes.
	ATR []byte
	// Known is false until the reader's first status is known. Then ATR means
	// nothing.
	Known bool
	// Protocol in use, ProtocolUndefined when there is none.
	Protocol Protocol
}

// Append appends the entry's 184 bytes. A name or ATR that is too long is cut:
// clients copy as many bytes as the entry says into fields of these sizes.
func (s ReaderState) Append(dst []byte) []byte {
	dst, b := grow(dst, ReaderStateSize)
	putName(b[stateName:stateEventCounter], s.Name)
	put32(b, stateEventCounter, s.EventCounter)
	put32(b, stateState, uint32(s.State))
	put32(b, stateSharing, uint32(s.Sharing))
	if s.Known {
		put32(b, stateATRLen, uint32(copy(b[stateATR:stateATR+MaxATR], s.ATR)))
	} else {
		put32(b, stateATRLen, atrLenUnknown)
	}
	put32(b, stateProtocol, uint32(s.Protocol))
	return dst
}

// ParseReaderState reads one entry of the table. b has exactly ReaderStateSize
// bytes.
func ParseReaderState(b []byte) (ReaderState, error) {
	if err := exactly("reader state", b, ReaderStateSize); err != nil {
		return ReaderState{}, err
	}
	name, err := getName(b[stateName:stateEventCounter])
	if err != nil {
		return ReaderState{}, err
	}
	s := ReaderState{
		Name:         name,
		EventCounter: get32(b, stateEventCounter),
		State:        State(get32(b, stateState)),
		Sharing:      int32(get32(b, stateSharing)),
		Protocol:     Protocol(get32(b, stateProtocol)),
	}
	switch n := get32(b, stateATRLen); {
	case n == atrLenUnknown:
	case n > MaxATR:
		return ReaderState{}, fmt.Errorf("wire: ATR of %d bytes in a reader state", n)
	default:
		s.Known = true
		s.ATR = bytes.Clone(b[stateATR : stateATR+n])
	}
	return s, nil
}

// AppendTable appends exactly entries entries: the first states, then unused
// ones, which clients skip.
func AppendTable(dst []byte, states []ReaderState, entries int) []byte {
	for i := range entries {
		if i < len(states) {
			dst = states[i].Append(dst)
		} else {
			dst = ReaderState{}.Append(dst)
		}
	}
	return dst
}

// ParseTable reads a reader table: any number of whole entries.
func ParseTable(b []byte) ([]ReaderState, error) {
	if len(b)%ReaderStateSize != 0 {
		return nil, fmt.Errorf("wire: reader table of %d bytes is not a multiple of %d", len(b), ReaderStateSize)
	}
	states := make([]ReaderState, 0, len(b)/ReaderStateSize)
	for ; len(b) > 0; b = b[ReaderStateSize:] {
		s, err := ParseReaderState(b[:ReaderStateSize])
		if err != nil {
			return nil, err
		}
		states = append(states, s)
	}
	return states, nil
}

// grow extends dst by n zero bytes and returns both the whole and the new part.
func grow(dst []byte, n int) (whole, added []byte) {
	at := len(dst)
	dst = append(dst, make([]byte, n)...)
	return dst, dst[at:]
}

func put32(b []byte, off int, v uint32) { binary.LittleEndian.PutUint32(b[off:], v) }

func get32(b []byte, off int) uint32 { return binary.LittleEndian.Uint32(b[off:]) }

// putName writes a name and leaves at least one NUL after it.
func putName(field []byte, name string) { copy(field[:len(field)-1], name) }

// upToNUL returns the text before the first NUL, or all.
func upToNUL(field []byte) string {
	if n := bytes.IndexByte(field, 0); n >= 0 {
		field = field[:n]
	}
	return string(field)
}

// getName reads a name up to its NUL, which must exist: C programs on the other
// side would read past the field.
func getName(field []byte) (string, error) {
	n := bytes.IndexByte(field, 0)
	if n < 0 {
		return "", errNameNotTerminated
	}
	return string(field[:n]), nil
}
