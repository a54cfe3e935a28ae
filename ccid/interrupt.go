package ccid

import "fmt"

// SlotChange is what a NotifySlotChange message says of one slot (§6.3.1).
type SlotChange struct {
	Slot    int
	Present bool // a card is present
	Changed bool // the state changed since the last message
}

// ParseNotifySlotChange decodes an RDR_to_PC_NotifySlotChange message for a reader with the given number of slots
// (1..256), lowest slot first. Slots beyond the message's end are left out; bits beyond the last slot are ignored.
// Another message type or a message without a state byte is an ErrMessage.
func ParseNotifySlotChange(b []byte, slots int) ([]SlotChange, error) {
	if len(b) == 0 || MessageType(b[0]) != TypeNotifySlotChange {
		return nil, fmt.Errorf("%w: not a NotifySlotChange: % X", ErrMessage, b[:min(len(b), 16)])
	}
	if len(b) == 1 {
		return nil, fmt.Errorf("%w: NotifySlotChange without bmSlotICCState", ErrMessage)
	}
	states := b[1:]
	list := make([]SlotChange, 0, min(slots, 4*len(states)))
	for slot := 0; slot < slots && slot/4 < len(states); slot++ {
		bits := states[slot/4] >> (2 * (slot % 4))
		list = append(list, SlotChange{Slot: slot, Present: bits&1 != 0, Changed: bits&2 != 0})
	}
	return list, nil
}

// AppendNotifySlotChange appends the message that says what changes list, in slot order without gaps.
func AppendNotifySlotChange(dst []byte, changes []SlotChange) []byte {
	states := make([]byte, (len(changes)+3)/4)
	for i, c := range changes {
		if c.Present {
			states[i/4] |= 1 << (2 * (i % 4))
		}
		if c.Changed {
			states[i/4] |= 2 << (2 * (i % 4))
		}
	}
	return append(append(dst, uint8(TypeNotifySlotChange)), states...)
}

// HardwareError is an RDR_to_PC_HardwareError message (§6.3.2).
type HardwareError struct {
	Slot, Seq uint8
	// Code is bHardwareErrorCode: 1 is overcurrent.
	Code uint8
}

// ParseHardwareError decodes a message of at least 4 bytes; anything else is an ErrMessage.
func ParseHardwareError(b []byte) (HardwareError, error) {
	if len(b) < 4 || MessageType(b[0]) != TypeHardwareError {
		return HardwareError{}, fmt.Errorf("%w: not a HardwareError: % X", ErrMessage, b[:min(len(b), 16)])
	}
	return HardwareError{Slot: b[1], Seq: b[2], Code: b[3]}, nil
}
