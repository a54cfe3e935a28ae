// Package pintest has commands with a PIN in them in every form that cards take, and looks for that PIN where it must not be:
// for the tests of all that logs, records or prints commands.
package pintest

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
)

// Digits is the PIN. Neither its digits nor their BCD form are in anything else that tests send or print.
const Digits = "73910264"

// half is how much of the PIN each of two commands has where it is split.
const half = len(Digits) / 2

// Sequence is what carries the PIN to a card together.
type Sequence struct {
	// Name tells the command and its form.
	Name string
	// Messages are APDUs, or what goes to the card as it is.
	Messages [][]byte
}

// Instructions are the INS of the commands that carry a PIN (ISO/IEC 7816-4:2013 §11.5).
func Instructions() []byte { return []byte{0x20, 0x21, 0x24, 0x25, 0x26, 0x28, 0x2C, 0x2D} }

// bcd is the PIN as in the blocks of ISO 9564-1 format 2.
func bcd() []byte {
	digits, _ := hex.DecodeString(Digits)
	return slices.Concat([]byte{0x28}, digits, []byte{0xFF, 0xFF, 0xFF})
}

// short is a command APDU with data and a short Lc.
func short(cla, ins byte, data []byte) []byte {
	return slices.Concat([]byte{cla, ins, 0x00, 0x01, byte(len(data))}, data)
}

// long is a command APDU with data and an extended Lc.
func long(cla, ins byte, data []byte) []byte {
	return slices.Concat([]byte{cla, ins, 0x00, 0x01, 0x00, 0x00, byte(len(data))}, data)
}

// envelopes puts a command into ENVELOPEs, cut at the offsets. cla is the class of all but the last.
func envelopes(cla byte, command []byte, cuts ...int) [][]byte {
	var list [][]byte
	begin := 0
	for _, end := range cuts {
		list = append(list, slices.Concat([]byte{cla, 0xC2, 0x00, 0x00, byte(end - begin)}, command[begin:end]))
		begin = end
	}
	return append(list, slices.Concat([]byte{0x00, 0xC2, 0x00, 0x00, byte(len(command) - begin)}, command[begin:]))
}

// selectMF is a command that ends what came before it.
func selectMF() []byte { return []byte{0x00, 0xA4, 0x00, 0x0C} }

// Short returns PIN commands in each form that has no extended length field. Each sequence begins with a SELECT, so that
// nothing hides what an earlier one has given away.
func Short(instructions ...byte) []Sequence {
	digits := []byte(Digits)
	var list []Sequence
	for _, ins := range instructions {
		add := func(form string, messages ...[]byte) {
			list = append(list, Sequence{fmt.Sprintf("%02X %s", ins, form), append([][]byte{selectMF()}, messages...)})
		}
		plain := short(0x00, ins, digits)
		add("plain", plain)
		add("two PINs", short(0x00, ins, []byte(Digits+Digits)))
		add("with Le", append(slices.Clone(plain), 0x00))
		add("BCD", short(0x00, ins, bcd()))
		add("chained", short(0x10, ins, digits[:half]), short(0x00, ins, digits[half:]))
		for _, cla := range []byte{0x01, 0x03, 0x0C, 0x40, 0x6F, 0x80, 0x84, 0xA0} {
			add(fmt.Sprintf("in class %02X", cla), short(cla, ins, digits))
		}
		add("in an ENVELOPE", envelopes(0x00, plain)...)
		add("BCD in an ENVELOPE", envelopes(0x00, short(0x00, ins, bcd()))...)
		add("in chained ENVELOPEs", envelopes(0x10, plain, 4, 5, 5+half)...)
		add("in ENVELOPEs", envelopes(0x00, plain, 2, 5+half)...)
		add("with a long Lc in ENVELOPEs", envelopes(0x00, long(0x00, ins, digits), 6)...)
		add("in an ENVELOPE of data objects", slices.Concat([]byte{0x00, 0xC3, 0x00, 0x00, byte(len(plain) + 2), 0x52, byte(len(plain))}, plain))
	}
	return list
}

// Long returns PIN commands, and ENVELOPEs with them, with extended length fields.
func Long(instructions ...byte) []Sequence {
	var list []Sequence
	for _, ins := range instructions {
		command := long(0x00, ins, []byte(Digits))
		list = append(
			list,
			Sequence{fmt.Sprintf("%02X extended", ins), [][]byte{selectMF(), command}},
			Sequence{fmt.Sprintf("%02X extended, with Le", ins), [][]byte{selectMF(), append(slices.Clone(command), 0x00, 0x00)}},
			Sequence{fmt.Sprintf("%02X in an extended ENVELOPE", ins), [][]byte{selectMF(), long(0x00, 0xC2, command)}},
		)
	}
	return list
}

// Raw returns PIN commands as transmission protocols have them: T=1 blocks, chained and with a wrong LRC, and T=0 TPDUs.
func Raw() []Sequence {
	digits := []byte(Digits)
	var list []Sequence
	for _, ins := range Instructions() {
		add := func(form string, messages ...[]byte) {
			list = append(list, Sequence{fmt.Sprintf("%02X %s", ins, form), messages})
		}
		plain := short(0x00, ins, digits)
		add("in a block", block(0x00, plain))
		add("in a block with a wrong LRC", damaged(block(0x40, plain)))
		add("in chained blocks", block(0x20, plain[:5+half]), block(0x40, plain[5+half:]))
		add("in chained blocks with a wrong LRC", damaged(block(0x20, plain[:5+half])), damaged(block(0x40, plain[5+half:])))
		add("in an ENVELOPE in a block", block(0x00, envelopes(0x00, plain)[0]))
		add("in a TPDU", plain)
	}
	return list
}

// Characters returns PIN commands as the character level has them with T=0: the data are not sent with the header.
func Characters() []Sequence {
	var list []Sequence
	for _, ins := range Instructions() {
		plain := short(0x00, ins, []byte(Digits))
		list = append(
			list,
			Sequence{fmt.Sprintf("%02X with the header on its own", ins), [][]byte{plain[:5], plain[5:]}},
			Sequence{fmt.Sprintf("%02X with the header in pieces", ins), [][]byte{plain[:4], plain[4:5], plain[5:]}},
		)
	}
	return list
}

// block is a T=1 I-block.
func block(pcb byte, inf []byte) []byte {
	b := slices.Concat([]byte{0x00, pcb, byte(len(inf))}, inf)
	var lrc byte
	for _, v := range b {
		lrc ^= v
	}
	return append(b, lrc)
}

func damaged(block []byte) []byte {
	block[len(block)-1] ^= 0xFF
	return block
}

// Messages returns the messages of all sequences.
func Messages(lists ...[]Sequence) [][]byte {
	var all [][]byte
	for _, s := range slices.Concat(lists...) {
		all = append(all, s.Messages...)
	}
	return all
}

// Find returns in which forms a text or a file has the PIN, or half of it: as digits, as BCD, and both in hexadecimal.
func Find(data []byte) []string {
	return found(data, Digits, Digits[:half], Digits[half:])
}

// FindPIN looks for the digits of another PIN, in the same forms.
func FindPIN(data []byte, digits string) []string { return found(data, digits) }

// found looks for the digits, and for the parts as hexadecimal only: they are so short that a time may have them.
func found(data []byte, digits string, parts ...string) []string {
	forms := map[string][]byte{"digits": []byte(digits)}
	packed, err := hex.DecodeString(digits)
	if err == nil {
		forms["BCD"] = packed
		forms["spaced BCD"] = fmt.Appendf(nil, "% X", packed)
	}
	for _, part := range append(parts, digits) {
		forms["hexadecimal of "+part] = fmt.Appendf(nil, "%X", part)
		forms["spaced hexadecimal of "+part] = fmt.Appendf(nil, "% X", part)
	}
	upper := bytes.ToUpper(data)
	var names []string
	for name, form := range forms {
		if bytes.Contains(data, form) || bytes.Contains(upper, bytes.ToUpper(form)) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
