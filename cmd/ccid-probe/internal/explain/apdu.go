package explain

import (
	"fmt"
	"strings"

	"github.com/goccid/goccid/apdu"
)

// instructions are the names of ISO/IEC 7816-4, -8 and -9.
var instructions = map[byte]string{
	0x04: "DEACTIVATE FILE", 0x0C: "ERASE RECORD", 0x0E: "ERASE BINARY", 0x0F: "ERASE BINARY", 0x10: "PERFORM SCQL OPERATION",
	0x20: "VERIFY", 0x21: "VERIFY", 0x22: "MANAGE SECURITY ENVIRONMENT", 0x24: "CHANGE REFERENCE DATA", 0x25: "CHANGE REFERENCE DATA",
	0x26: "DISABLE VERIFICATION REQUIREMENT", 0x28: "ENABLE VERIFICATION REQUIREMENT", 0x2A: "PERFORM SECURITY OPERATION",
	0x2C: "RESET RETRY COUNTER", 0x2D: "RESET RETRY COUNTER", 0x44: "ACTIVATE FILE", 0x46: "GENERATE ASYMMETRIC KEY PAIR",
	0x47: "GENERATE ASYMMETRIC KEY PAIR", 0x70: "MANAGE CHANNEL", 0x82: "EXTERNAL AUTHENTICATE", 0x84: "GET CHALLENGE",
	0x86: "GENERAL AUTHENTICATE", 0x87: "GENERAL AUTHENTICATE", 0x88: "INTERNAL AUTHENTICATE", 0xA0: "SEARCH BINARY", 0xA1: "SEARCH BINARY",
	0xA2: "SEARCH RECORD", 0xA4: "SELECT", 0xB0: "READ BINARY", 0xB1: "READ BINARY", 0xB2: "READ RECORD", 0xB3: "READ RECORD",
	0xC0: "GET RESPONSE", 0xC2: "ENVELOPE", 0xC3: "ENVELOPE", 0xCA: "GET DATA", 0xCB: "GET DATA", 0xD0: "WRITE BINARY",
	0xD1: "WRITE BINARY", 0xD2: "WRITE RECORD", 0xD6: "UPDATE BINARY", 0xD7: "UPDATE BINARY", 0xDA: "PUT DATA", 0xDB: "PUT DATA",
	0xDC: "UPDATE RECORD", 0xDD: "UPDATE RECORD", 0xE0: "CREATE FILE", 0xE2: "APPEND RECORD", 0xE4: "DELETE FILE",
	0xE6: "TERMINATE DF", 0xE8: "TERMINATE EF", 0xFE: "TERMINATE CARD USAGE",
}

// Instruction is the name of an INS byte, "INS 52" for one that the standards don't have.
func Instruction(ins byte) string {
	if name, ok := instructions[ins]; ok {
		return name
	}
	return fmt.Sprintf("INS %02X", ins)
}

// complete fills in what can only be said at the end.
func (x *exchange) complete() {
	x.Command = hiddenHex(x.raw)
	x.Name, x.Case = "no APDU", ""
	if len(x.raw) >= apdu.HeaderLength {
		x.Name = Instruction(x.raw[1])
		if x.raw[0] == 0xFF {
			x.Name = "command to the reader"
		}
		if c, err := apdu.ParseCommandLenient(x.raw); err == nil {
			x.Case = c.Case().String()
		}
	}
	if !x.done && x.Problem == "" {
		x.Problem = "no answer in the capture"
	}
	r, err := apdu.ParseResponse(x.response)
	switch {
	case x.Problem != "":
	case err != nil:
		x.Problem = "no status word: " + err.Error()
	default:
		x.Response, x.SW, x.Meaning = compact(r.Data), r.SW.String(), r.SW.Meaning()
	}
	if x.Problem != "" {
		x.Latency = -1
	}
}

// hiddenHex is a command in hexadecimal, with ** for the asterisks that stand for a PIN: they go up to its end.
func hiddenHex(command []byte) string {
	if !apdu.Sensitive(command) {
		return compact(command)
	}
	shown := len(command)
	for shown > apdu.HeaderLength+1 && command[shown-1] == '*' {
		shown--
	}
	return compact(command[:shown]) + strings.Repeat("**", len(command)-shown)
}
