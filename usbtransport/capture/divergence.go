package capture

import (
	"errors"
	"fmt"
	"strings"

	"github.com/goccid/goccid/ccid"
)

// ErrDivergence is what every Divergence is, to errors.Is.
var ErrDivergence = errors.New("replay: the host does not do what was recorded")

// Divergence says where a host and a recording part. It is an ErrDivergence.
type Divergence struct {
	// Packet is the number of the packet of the recording that the host should have followed, 0 where the recording has
	// ended.
	Packet int
	// Field is the first field that differs: that of a CCID message (§6.1) as the specification calls it, with an offset
	// within abData; or of a control request (USB 2.0 §9.3).
	Field string
	// Host and Recording say what the host sent and what was recorded: a message's name and the bytes from the field on.
	Host, Recording string
}

// Error returns "replay: the host does not do what was recorded: packet 82: abData[3]: host sent PC_to_RDR_XfrBlock …
// 05 (14 bytes), recording has PC_to_RDR_XfrBlock … 04 (14 bytes)".
func (d *Divergence) Error() string {
	if d.Packet == 0 {
		return fmt.Sprintf("%v: host sent %s, nothing like it is left in the recording", ErrDivergence, d.Host)
	}
	return fmt.Sprintf("%v: packet %d: %s: host sent %s, recording has %s", ErrDivergence, d.Packet, d.Field, d.Host, d.Recording)
}

// Unwrap returns ErrDivergence.
func (d *Divergence) Unwrap() error { return ErrDivergence }

// UnusedError says which packets of a recording a host has not asked for.
type UnusedError struct {
	// Packets are the numbers of the packets in which the host of the recording sent something, in order.
	Packets []int
}

// Error returns "replay: 3 messages of the recording were not asked for: packets 82, 86, 90".
func (e *UnusedError) Error() string {
	const shown = 10
	names := make([]string, 0, shown)
	for _, p := range e.Packets[:min(shown, len(e.Packets))] {
		names = append(names, fmt.Sprint(p))
	}
	if len(e.Packets) > shown {
		names = append(names, "…")
	}
	return fmt.Sprintf("replay: %d messages of the recording were not asked for: packets %s", len(e.Packets), strings.Join(names, ", "))
}

// ignore lists offsets within a message that may differ.
type ignore []int

func (list ignore) has(offset int) bool {
	for _, o := range list {
		if o == offset {
			return true
		}
	}
	return false
}

// difference returns the first offset at which two messages differ, besides those that may, and -1 where they don't.
func difference(a, b []byte, free ignore) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] && !free.has(i) {
			return i
		}
	}
	if len(a) != len(b) {
		return min(len(a), len(b))
	}
	return -1
}

// diverge compares a message of the host with that of a packet.
func diverge(packet int, host, recording []byte, offset int) *Divergence {
	return &Divergence{Packet: packet, Field: fieldAt(host, offset), Host: excerpt(host, offset), Recording: excerpt(recording, offset)}
}

// excerpt names a message and shows some bytes from an offset on. What may hold a PIN is not shown.
func excerpt(message []byte, offset int) string {
	if len(message) == 0 {
		return "nothing"
	}
	name := ccid.MessageType(message[0]).String()
	switch rest := message[min(offset, len(message)):]; {
	case len(rest) == 0:
		return name + " that ends there"
	case len(rest) > 16:
		return fmt.Sprintf("%s … % X … (%d bytes)", name, rest[:16], len(message))
	default:
		return fmt.Sprintf("%s … % X (%d bytes)", name, rest, len(message))
	}
}

// specificFields names the bytes at offsets 7..9 of the commands (§6.1).
var specificFields = map[ccid.MessageType][3]string{
	ccid.TypeIccPowerOn:    {"bPowerSelect", "abRFU[0]", "abRFU[1]"},
	ccid.TypeXfrBlock:      {"bBWI", "wLevelParameter", "wLevelParameter"},
	ccid.TypeSecure:        {"bBWI", "wLevelParameter", "wLevelParameter"},
	ccid.TypeSetParameters: {"bProtocolNum", "abRFU[0]", "abRFU[1]"},
	ccid.TypeIccClock:      {"bClockCommand", "abRFU[0]", "abRFU[1]"},
	ccid.TypeT0APDU:        {"bmChanges", "bClassGetResponse", "bClassEnvelope"},
	ccid.TypeMechanical:    {"bFunction", "abRFU[0]", "abRFU[1]"},
}

// fieldAt names the field of a command at an offset.
func fieldAt(message []byte, offset int) string {
	switch {
	case offset == 0:
		return "bMessageType"
	case offset < 5:
		return "dwLength"
	case offset == 5:
		return "bSlot"
	case offset == 6:
		return "bSeq"
	case offset >= ccid.HeaderLength:
		return fmt.Sprintf("abData[%d]", offset-ccid.HeaderLength)
	}
	if names, ok := specificFields[ccid.MessageType(message[0])]; ok {
		return names[offset-7]
	}
	return fmt.Sprintf("abRFU[%d]", offset-7)
}
