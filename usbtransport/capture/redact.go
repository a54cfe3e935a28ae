package capture

import (
	"bytes"
	"encoding/binary"
	"slices"

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
// is the character level's, and hides the bytes of the messages that follow. What can be read in more than one way is hidden
// as far as any of them asks for it.
//
// The EDC of a T=1 block is computed anew: the original would tell the exclusive-or of the PIN's digits, and a block with
// a wrong one can't be decoded. One that was wrong already is hidden.
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
	// head is the beginning of a header that comes in several messages at the character level.
	head []byte
	// doubt is the command in several CCID messages that a short first one may have begun, and doubted says that the next
	// one may go on with it: the character level says the same of the header that it sends.
	doubt   commandStream
	doubted bool
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
			s.ins, s.sensitive = b, apdu.Sensitive([]byte{0, b}) && !isEnvelopeINS(b)
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
type envelope struct {
	inner commandStream
	// again says that inner began after other ENVELOPEs: what it has may be the last bytes of an earlier command. Then
	// begun is the command that the last ENVELOPE would begin.
	again bool
	begun commandStream
}

// begin says that the data of an ENVELOPE follows.
func (e *envelope) begin() {
	switch {
	case e.inner.sensitive:
	case e.begun.sensitive:
		e.inner, e.begun = e.begun, commandStream{}
	case e.inner.offset >= apdu.HeaderLength:
		e.inner, e.begun, e.again = commandStream{}, commandStream{}, true
	case e.again:
		// Of the commands that may have begun, one without its INS is all that can still become secret.
		if e.begun.offset == 1 {
			e.inner = e.begun
		}
		e.begun = commandStream{}
	}
}

func (e *envelope) hide(part []byte) {
	var none envelope // an ENVELOPE in an ENVELOPE is nothing that cards know
	e.inner.hide(part, &none)
	if e.again {
		e.begun.hide(part, &none)
	}
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
		s.hideBlock(data, level, int64(len(data)) < int64(binary.LittleEndian.Uint32(out[1:])))
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
		s.ended()
	}
}

// ended says that the card has ended a command: nothing of it follows.
func (s *slotSecrets) ended() {
	s.expected, s.head, s.doubted = 0, nil, false
}

// hideBlock masks what is secret in the data of an XfrBlock, in place. cut says that they are not all there.
func (s *slotSecrets) hideBlock(data []byte, level uint16, cut bool) {
	if len(data) == 0 {
		return
	}
	original, anew := bytes.Clone(data), s.expected <= 0 && len(s.head) == 0
	s.hideLikely(data, level, cut)
	if s.doubtful(original, level, anew) {
		fill(data)
	}
}

// doubtful reports whether all of the data are to be hidden, because they may be part of a chain whose first part was not
// longer than a header, for which hideLikely takes it. That sees no long Lc, so this is for a PIN command or an ENVELOPE with one.
// anew says that the data may begin a command. They are spoilt.
func (s *slotSecrets) doubtful(data []byte, level uint16, anew bool) bool {
	begins := anew && level == ccid.ChainBegin && len(data) <= headLength
	goesOn := s.doubted && continues(level)
	s.doubted = begins || goesOn && level == ccid.ChainMiddle
	if begins {
		s.doubt = commandStream{}
	}
	if !begins && !goesOn {
		return false
	}
	s.doubt.hide(data, new(envelope))
	long := s.doubt.offset > apdu.HeaderLength && s.doubt.lc == 0
	if begins || !long || !apdu.Sensitive([]byte{0, s.doubt.ins}) {
		return false
	}
	if isEnvelopeINS(s.doubt.ins) {
		s.envelope.inner = commandStream{offset: longestHeader, sensitive: true} // what it has is not followed
	}
	return true
}

// continues reports whether a message with this wLevelParameter is part of a chain, but not the first.
func continues(level uint16) bool { return level == ccid.ChainMiddle || level == ccid.ChainEnd }

// hideLikely masks what is secret in the data of an XfrBlock, as far as one message tells what it is.
func (s *slotSecrets) hideLikely(data []byte, level uint16, cut bool) {
	if s.expected > 0 {
		s.hideExpected(data)
		return
	}
	if s.chained && continues(level) {
		s.chain.hide(data, &s.envelope)
		s.chained = level == ccid.ChainMiddle
		return
	}
	if block, edc, ok := parseBlock(data); ok && (block.PCB.Kind() != t1.Information || len(block.INF) > 0) {
		s.blocks.hide(block, data, edc)
		return
	}
	damaged := s.blocks.hideDamaged(data, cut)
	s.hideParts(data, level)
	merge(data, damaged)
}

// hideParts masks what is secret in the data of an XfrBlock that are no T=1 block.
func (s *slotSecrets) hideParts(data []byte, level uint16) {
	// The character level has a number of bytes where a chain has ChainBegin; there, the header is a message of its own.
	if s.chained = level == ccid.ChainBegin && len(data) > headLength; s.chained {
		s.chain, s.head = commandStream{}, nil
		s.chain.hide(data, &s.envelope)
		return
	}
	s.hideCommand(data, continues(level))
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

// headLength is the length of the header of a T=0 command, with P3.
const headLength = apdu.HeaderLength + 1

// hideCommand masks what is secret in a command that is whole, or in the header of one or a part of it. continues says that it
// may be the rest of one.
func (s *slotSecrets) hideCommand(data []byte, continues bool) {
	header := slices.Concat(s.head, data)
	rest := data[min(len(data), headLength-len(s.head)):]
	joins := s.joins(header, continues)
	s.head = nil
	if !joins {
		header, rest = data, nil
	}
	secret := len(header) < 2 || apdu.Sensitive(header)
	switch {
	case secret && len(header) < headLength:
		s.head = bytes.Clone(header)
	case secret && (joins || len(header) == headLength):
		var alone []byte
		if joins { // by chance, perhaps
			alone = bytes.Clone(data)
			hideWhole(alone, new(envelope))
		}
		s.announce(header)
		s.hideExpected(rest)
		merge(data, alone)
	default:
		hideWhole(data, &s.envelope)
	}
}

// joins reports whether a message continues the header of a PIN command or an ENVELOPE of which earlier ones had the
// beginning; all is what they have together. Four bytes may also be a whole command, which asks for the retry counter: then
// the message has to say that it continues, or to be what P3 announces.
func (s *slotSecrets) joins(all []byte, continues bool) bool {
	if len(s.head) == 0 || len(all) > 1 && !apdu.Sensitive(all) {
		return false
	}
	if len(all) <= headLength {
		return true
	}
	whole := headLength + int(all[apdu.HeaderLength])
	return len(all) == whole || len(all) < whole && (continues || len(s.head) < apdu.HeaderLength)
}

// announce takes the header of a PIN command or an ENVELOPE, whose data follow.
func (s *slotSecrets) announce(header []byte) {
	s.expected, s.enveloped = int(header[apdu.HeaderLength]), isEnvelopeINS(header[1])
	if s.enveloped {
		s.envelope.begin()
	}
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

// isEnvelopeINS reports whether a command carries another one as it is. The data of C3 are data objects, with the command
// somewhere in them: it is treated as a PIN command.
func isEnvelopeINS(ins byte) bool { return ins == 0xC2 }

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
	}
	inf := bytes.Clone(block.INF)
	s.information(block.PCB, inf)
	if bytes.Equal(inf, block.INF) {
		return
	}
	block.INF = inf
	if hidden, err := t1.AppendBlock(nil, block, edc); err == nil {
		copy(data, hidden)
	}
}

// information masks what is secret in the information field of an I-block, in place.
func (s *blockSecrets) information(pcb t1.PCB, inf []byte) {
	if s.begun && s.ns == pcb.NS() { // sent again
		s.current = s.previous
	}
	s.previous = s.current
	s.current.hide(inf, pcb.More())
	s.begun, s.ns = true, pcb.NS()
}

// hideDamaged returns a masked copy of data that would be an I-block if their EDC were right, nil when they have not its form.
// cut says that the end is missing.
func (s *blockSecrets) hideDamaged(data []byte, cut bool) []byte {
	const prologue, longestEDC = 3, 2
	if len(data) <= prologue || t1.PCB(data[1]).Kind() != t1.Information {
		return nil
	}
	edc := len(data) - prologue - int(data[2])
	if edc > longestEDC || edc < 1 && !cut {
		return nil
	}
	out := bytes.Clone(data)
	inf := out[prologue : len(out)-max(0, edc)]
	s.information(t1.PCB(data[1]), inf)
	if !bytes.Equal(out, data) {
		fill(out[prologue+len(inf):])
	}
	return out
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
	case continues(level):
		fill(data)
	case data[0] == pinVerification:
		fill(data[min(len(data), verificationData):])
	case data[0] == pinModification:
		fill(data[min(len(data), modificationData):])
	default:
		fill(data[1:])
	}
}

// merge masks what is masked in a copy.
func merge(b, masked []byte) {
	for i, v := range masked {
		if v == mask {
			b[i] = mask
		}
	}
}

func fill(b []byte) {
	for i := range b {
		b[i] = mask
	}
}
