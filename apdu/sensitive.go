package apdu

import "bytes"

// redacted fills the place of what Redact hides: asterisks when a dump also shows ASCII.
const redacted = '*'

// Sensitive reports whether the command is one that carries a PIN: VERIFY (20, 21), CHANGE REFERENCE DATA (24, 25),
// DISABLE and ENABLE VERIFICATION REQUIREMENT (26, 28) and RESET RETRY COUNTER (2C, 2D) of ISO/IEC 7816-4 §11.5; or one that may carry
// such a command, or a part of it: ENVELOPE (C2, C3). It is so in every class: chaining, secure messaging, channel and
// proprietary bits don't make a PIN less secret. It looks at INS only, so it also holds for a damaged command, for
// a VERIFY that only asks for the retry counter, and for an ENVELOPE with something harmless in it: what is in one can't be told
// without those before it.
//
// A PIN in a command of the card's own making is not recognised.
func Sensitive(command []byte) bool {
	if len(command) < 2 {
		return false
	}
	switch command[1] {
	case 0x20, 0x21, 0x24, 0x25, 0x26, 0x28, 0x2C, 0x2D, 0xC2, 0xC3:
		return true
	}
	return false
}

// Redact returns a copy of the command that is fit for a log: of a Sensitive one, each byte after the header and the
// length field is replaced by an asterisk, so the copy has the length of the original. That includes an Le field,
// and the length field too where it contradicts the number of bytes, because then it may well be part of a PIN. Other
// commands are copied as they are.
func Redact(command []byte) []byte {
	out := bytes.Clone(command)
	if !Sensitive(command) {
		return out
	}
	for i := shownLength(command); i < len(out); i++ {
		out[i] = redacted
	}
	return out
}

// shownLength returns how many leading bytes of a sensitive command are not secret.
func shownLength(command []byte) int {
	c, err := ParseCommand(command)
	switch {
	case err != nil:
		return HeaderLength
	case c.Extended && len(c.Data) > 0:
		return HeaderLength + 3
	default:
		return HeaderLength + 1
	}
}
