package capture

import (
	"bytes"
	"encoding/binary"

	"github.com/goccid/goccid/apdu"
	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/t1"
)

// redactedMark in the section header says that PINs were hidden.
const redactedMark = "PINs redacted"

// mask stands in the place of each hidden byte; apdu.Redact uses the same.
const mask = '*'

// redactor hides PINs in the bulk OUT messages of one interface. It keeps the length of everything, and shows what tells
// one command from another: message header, block prologue, CLA INS P1 P2, and Lc where it is certain to be one.
//
// It needs no knowledge of the reader's exchange level and of the card's protocol. Bytes that are a valid T=1 block
// are one: in a T=0 command, the byte in the place of LEN is P1 and the last byte happens to be a checksum once in 256
// times, and a PIN command has P1 = 0 where a block with a PIN has LEN > 0. A message of the header of a PIN command alone
// is the character level's, and hides the bytes of the messages that follow. Where something is in doubt it is hidden.
//
// The EDC of a T=1 block is computed anew: the original would tell the exclusive-or of the PIN's digits, and a block with
// a wrong one can't be decoded.
//
// The zero value of what it knows of a slot is that of a card that was just powered. PINs in PC_to_RDR_Escape and in
// commands of a card's own making are not recognised.
type redactor struct {
	slots map[uint8]*slotSecrets
	// rest counts the bytes that the last message announced and did not have. CCID has a message in one transfer, so what
	// follows could be anything, and is hidden.
	rest int64
}

func newRedactor() *redactor { return &redactor{slots: map[uint8]*slotSecrets{}} }

// slotSecrets is what is known of the command that a slot is at.
type slotSecrets struct {
	// chain is a command in several CCID messages; chained says that the next one goes on.
	chain   commandStream
	chained bool
	// expected counts the data bytes that the header of a PIN command or an ENVELOPE has announced at the character
	// level; enveloped tells which.
	expected  int
	enveloped bool
	// envelope is the command inside ENVELOPEs.
	envelope envelope
	// blocks is the state of T=1.
	blocks blockSecrets
}

// blockSecrets tells repeated T=1 blocks from new ones.
type blockSecrets struct {
	begun bool
	ns    byte // N(S) of the last I-block
	// current is the state after the last I-block, previous the one before it, for a repetition.
	current, previous blockChain
}

// blockChain is how far a command in I-blocks is.
type blockChain struct {
	more     bool // another block follows
	stream   commandStream
	envelope envelope
}

// commandStream hides the secret bytes of a command that comes in parts.
type commandStream struct {
	offset    int // counts to the end of the longest header of an ENVELOPE
	ins, lc   byte
	sensitive bool
}

// longestHeader is that of a command with an extended Lc.
const longestHeader = apdu.HeaderLength + 3

// hide masks what is secret in the next part, in place. e is for the data of an ENVELOPE.
func (s *commandStream) hide(part []byte, e *envelope) {
	for i, b := range part {
		switch {
		case s.offset == 1:
			s.ins, s.sensitive = b, apdu.Sensitive([]byte{0, b})
		case s.offset == apdu.HeaderLength:
			s.lc = b
			if isEnvelopeINS(s.ins) {
				e.begin()
			}
		}
		switch {
		case s.offset >= apdu.HeaderLength && s.sensitive:
			part[i] = mask
		case isEnvelopeINS(s.ins) && (s.offset > apdu.HeaderLength && s.lc != 0 || s.offset >= longestHeader):
			e.hide(part[i : i+1])
		}
		s.offset = min(s.offset+1, longestHeader)
	}
}

// envelope hides the secret bytes of commands that are inside ENVELOPE commands, of which a series carries one. Where one
// series ends and the next begins can't be told for certain, so each is looked at as if it began a command; once one was
// found to be secret, all that follow are.
type envelope struct{ inner commandStream }

// begin says that the data of an ENVELOPE follows.
func (e *envelope) begin() {
	if !e.inner.sensitive && e.inner.offset >= apdu.HeaderLength {
		e.inner = commandStream{}
	}
}

func (e *envelope) hide(part []byte) {
	var none envelope // an ENVELOPE in an ENVELOPE is nothing that cards know
	e.inner.hide(part, &none)
}

// hide returns a copy of a bulk OUT message without secrets.
func (r *redactor) hide(message []byte) []byte {
	out := bytes.Clone(message)
	if r.rest > 0 {
		fill(out)
		r.rest -= int64(len(out))
		return out
	}
	if len(out) < ccid.HeaderLength {
		return out
	}
	data := out[ccid.HeaderLength:]
	level := binary.LittleEndian.Uint16(out[8:])
	s := r.slot(out[5])
	switch ccid.MessageType(out[0]) {
	case ccid.TypeIccPowerOn, ccid.TypeIccPowerOff:
		delete(r.slots, out[5])
	case ccid.TypeXfrBlock:
		s.hideBlock(data, level)
	case ccid.TypeSecure:
		hideTemplate(data, level)
	}
	r.rest = max(0, int64(binary.LittleEndian.Uint32(out[1:]))-int64(len(data)))
	return out
}

// slot returns what is known of a slot; bSlot can name 256.
func (r *redactor) slot(number uint8) *slotSecrets {
	s := r.slots[number]
	if s == nil {
		s = &slotSecrets{}
		r.slots[number] = s
	}
	return s
}

// learn takes a bulk IN message, or its beginning: at the character level, SW1 in place of a procedure byte ends a command
// (ISO/IEC 7816-3:2006 §10.3.3).
func (r *redactor) learn(message []byte) {
	if len(message) <= ccid.HeaderLength || ccid.MessageType(message[0]) != ccid.TypeDataBlock {
		return
	}
	s := r.slots[message[5]]
	if s == nil {
		return
	}
	const null = 0x60
	if b := message[ccid.HeaderLength]; b != null && (b&0xF0 == 0x60 || b&0xF0 == 0x90) {
		s.expected = 0
	}
}

// hideBlock masks what is secret in the data of an XfrBlock, in place.
func (s *slotSecrets) hideBlock(data []byte, level uint16) {
	if len(data) == 0 {
		return
	}
	if s.expected > 0 {
		s.hideExpected(data)
		return
	}
	if s.chained && (level == ccid.ChainMiddle || level == ccid.ChainEnd) {
		s.chain.hide(data, &s.envelope)
		s.chained = level == ccid.ChainMiddle
		return
	}
	if block, edc, ok := parseBlock(data); ok && (block.PCB.Kind() != t1.Information || len(block.INF) > 0) {
		s.blocks.hide(block, data, edc)
		return
	}
	// The character level has a number of bytes where a chain has ChainBegin; there, the header is a message of its own.
	if s.chained = level == ccid.ChainBegin && len(data) > apdu.HeaderLength+1; s.chained {
		s.chain = commandStream{}
		s.chain.hide(data, &s.envelope)
		return
	}
	s.hideCommand(data)
}

// hideExpected masks data that the header of a T=0 command has announced.
func (s *slotSecrets) hideExpected(data []byte) {
	s.expected -= len(data)
	if s.enveloped {
		s.envelope.hide(data)
		return
	}
	fill(data)
}

// hideCommand masks what is secret in a command that is whole, or in the header of one.
func (s *slotSecrets) hideCommand(data []byte) {
	if len(data) == apdu.HeaderLength+1 && (apdu.Sensitive(data) || isEnvelopeINS(data[1])) {
		s.expected, s.enveloped = int(data[apdu.HeaderLength]), isEnvelopeINS(data[1])
		if s.enveloped {
			s.envelope.begin()
		}
		return
	}
	hideWhole(data, &s.envelope)
}

// hideWhole masks what is secret in a whole command. A command other than ENVELOPE, and GET RESPONSE which gets its
// answers, ends what was in an envelope.
func hideWhole(command []byte, e *envelope) {
	switch {
	case len(command) > 1 && isEnvelopeINS(command[1]):
		var s commandStream
		s.hide(command, e)
	case len(command) > 1 && command[1] == 0xC0:
	default:
		*e = envelope{}
		copy(command, apdu.Redact(command))
	}
}

func isEnvelopeINS(ins byte) bool { return ins == 0xC2 || ins == 0xC3 }

// parseBlock decodes a T=1 block whatever its EDC.
func parseBlock(data []byte) (t1.Block, t1.EDC, bool) {
	for _, edc := range []t1.EDC{t1.LRC, t1.CRC, t1.CRCPlain} {
		if block, err := t1.ParseBlock(data, edc); err == nil {
			return block, edc, true
		}
	}
	return t1.Block{}, 0, false
}

// hide masks what is secret in a T=1 block, whose bytes are data.
func (s *blockSecrets) hide(block t1.Block, data []byte, edc t1.EDC) {
	switch {
	case block.PCB == t1.ResynchRequest, block.PCB == t1.AbortRequest, block.PCB == t1.AbortResponse:
		*s = blockSecrets{}
		return
	case block.PCB.Kind() != t1.Information:
		return
	case s.begun && s.ns == block.PCB.NS(): // sent again
		s.current = s.previous
	default:
		s.previous = s.current
	}
	inf := bytes.Clone(block.INF)
	s.current.hide(inf, block.PCB.More())
	s.begun, s.ns = true, block.PCB.NS()
	if bytes.Equal(inf, block.INF) {
		return
	}
	block.INF = inf
	if hidden, err := t1.AppendBlock(nil, block, edc); err == nil {
		copy(data, hidden)
	}
}

// hide masks what is secret in the next information field, in place.
func (c *blockChain) hide(inf []byte, more bool) {
	if !c.more && !more {
		hideWhole(inf, &c.envelope)
		return
	}
	if !c.more {
		c.stream = commandStream{}
	}
	c.stream.hide(inf, &c.envelope)
	c.more = more
}

// Offsets within abData of PC_to_RDR_Secure (§6.1.11) of the first byte that may be data of abPINApdu, after its header and
// Lc. In a modification, bMsgIndex2 and bMsgIndex3 are left out by some hosts; the lowest of the three places counts.
const (
	verificationData = 20
	modificationData = 23

	pinVerification = 0
	pinModification = 1
)

// hideTemplate masks the data of the command into which the reader puts the PIN: it may hold an old one.
func hideTemplate(data []byte, level uint16) {
	switch {
	case len(data) == 0:
	case level == ccid.ChainMiddle || level == ccid.ChainEnd:
		fill(data)
	case data[0] == pinVerification:
		fill(data[min(len(data), verificationData):])
	case data[0] == pinModification:
		fill(data[min(len(data), modificationData):])
	default:
		fill(data[1:])
	}
}

func fill(b []byte) {
	for i := range b {
		b[i] = mask
	}
}
