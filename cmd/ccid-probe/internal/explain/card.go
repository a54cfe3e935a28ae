package explain

import (
	"bytes"
	"fmt"

	"github.com/goccid/goccid/apdu"
	"github.com/goccid/goccid/atr"
	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/t1"
)

// slot follows what goes to the card in one slot and back, and puts APDUs together. At TPDU and character level the protocol
// is followed too.
type slot struct {
	level ccid.ExchangeLevel
	// protocol is the T in use; unknown until there was an ATR or SetParameters.
	protocol int
	edc      t1.EDC

	// command is the one that is under way or was the last, nil before the first.
	command *exchange
	t1      blocks
	// characters holds what has come at the character level and is no whole TPDU, block or PPS yet.
	characters characters
	ppsSent    bool
}

const protocolUnknown = -1

// exchange is an APDU in the making.
type exchange struct {
	*APDU
	raw      []byte // the command as sent
	response []byte
	// sending: more of the command follows. done: the response is whole.
	sending, done bool
}

// part is what a slot has to say of a message: the layers in it, and whether it belongs to an APDU.
type part struct {
	layers   []Layer
	problems []string
	exchange *exchange
	// begins: the exchange is a new one.
	begins bool
	// sends: a command begins to go to the card with this message: a new exchange, or another TPDU of one.
	sends bool
	// sets: the message is about the protocol, a PPS.
	sets bool
}

func (p *part) problem(format string, args ...any) {
	p.problems = append(p.problems, fmt.Sprintf(format, args...))
}

func newSlot(level ccid.ExchangeLevel) *slot { return &slot{level: level, protocol: protocolUnknown} }

// maxAPDU bounds what is put together of an APDU; the longest has a few bytes less.
const maxAPDU = 2 * ccid.MaxMessageLength

// reset forgets the protocol: the card was powered, or lost its power.
func (s *slot) reset() {
	if s.command != nil && !s.command.done {
		s.command.Problem = "the card was reset or lost its power before it answered"
		s.command.done = true
	}
	s.protocol, s.edc, s.command, s.t1, s.characters, s.ppsSent = protocolUnknown, t1.LRC, nil, blocks{}, characters{}, false
}

// atr takes an answer to reset.
func (s *slot) atr(raw []byte) part {
	s.reset()
	var p part
	layer := Layer{Protocol: "ATR", Name: spaced(raw)}
	a, err := atr.Parse(raw)
	if err != nil {
		p.problem("%v", err)
	}
	if a == nil {
		p.layers = []Layer{layer}
		return p
	}
	layer.Notes = a.Text()
	for _, problem := range a.Problems() {
		p.problem("ATR: %s", problem)
	}
	s.protocol = int(a.FirstProtocol())
	if a.T1().EDC == 1 {
		s.edc = t1.CRC
	}
	p.layers = []Layer{layer}
	return p
}

// send takes abData of an XfrBlock.
func (s *slot) send(data []byte, level uint16) part {
	switch {
	case s.level >= ccid.LevelShortAPDU:
		return s.sendAPDU(data, level)
	case s.level == ccid.LevelCharacter:
		return s.sendCharacters(data)
	case isPPS(data) && s.command == nil:
		s.ppsSent = true
		return part{sets: true, layers: []Layer{ppsLayer("PPS request", data)}}
	case s.speaksT1(data):
		return s.sendBlock(data)
	}
	return s.sendTPDU(data)
}

// receive takes abData of a DataBlock that ends a command, or goes on with chain.
func (s *slot) receive(data []byte, chain uint16) part {
	switch {
	case s.level >= ccid.LevelShortAPDU:
		return s.receiveAPDU(data, chain)
	case s.level == ccid.LevelCharacter:
		return s.receiveCharacters(data)
	case s.ppsSent:
		s.ppsSent = false
		return s.receivePPS(data)
	case s.speaksT1(data):
		return s.receiveBlock(data)
	}
	return s.receiveTPDU(data)
}

// refused says that the reader gave up.
func (s *slot) refused(why string) part {
	s.ppsSent = false
	s.characters = characters{}
	if s.command == nil || s.command.done {
		return part{}
	}
	s.command.Problem, s.command.done = why, true
	return part{exchange: s.command}
}

// speaksT1 reports whether TPDUs are T=1 blocks. Where it isn't known, what is a valid block is one.
func (s *slot) speaksT1(data []byte) bool {
	if s.protocol != protocolUnknown {
		return s.protocol == 1
	}
	_, _, err := parseBlock(data, s.edc)
	return err == nil
}

// begin starts a new exchange.
func (s *slot) begin(data []byte, more bool) part {
	if s.command != nil && !s.command.done {
		s.command.Problem = "no answer before the next command"
	}
	s.command = &exchange{APDU: &APDU{}, raw: bytes.Clone(data), sending: more}
	return part{exchange: s.command, begins: true, sends: true}
}

func (x *exchange) append(data []byte) {
	if len(x.raw)+len(data) <= maxAPDU {
		x.raw = append(x.raw, data...)
	}
}

func (x *exchange) answer(data []byte) {
	if len(x.response)+len(data) <= maxAPDU {
		x.response = append(x.response, data...)
	}
}

// finish ends an exchange of which one TPDU makes all.
func (x *exchange) finish() {
	x.done = true
	x.TPDUs = [][2][]byte{{x.raw, x.response}}
}

// sendAPDU is for readers that take APDUs (CCID 1.1 §6.1.4).
func (s *slot) sendAPDU(data []byte, level uint16) part {
	if s.command != nil && s.command.sending && (level == ccid.ChainMiddle || level == ccid.ChainEnd) {
		s.command.append(data)
		s.command.sending = level == ccid.ChainMiddle
		return part{exchange: s.command}
	}
	if level == ccid.ChainContinue && s.command != nil {
		return part{exchange: s.command}
	}
	return s.begin(data, level == ccid.ChainBegin)
}

func (s *slot) receiveAPDU(data []byte, chain uint16) part {
	x := s.command
	if x == nil || x.done {
		return part{layers: []Layer{{Protocol: "APDU", Name: "response to nothing that was sent"}}}
	}
	x.answer(data)
	if !x.sending && (chain == ccid.ChainSingle || chain == ccid.ChainEnd) {
		x.finish()
	}
	return part{exchange: x}
}

// sendTPDU takes a command of T=0 (ISO/IEC 7816-3:2006 §10.3.2): one that fetches the response to the last belongs to that.
func (s *slot) sendTPDU(data []byte) part {
	x := s.command
	layer := Layer{Protocol: "T=0", Name: "command TPDU", Fields: tpduFields(data)}
	if x == nil || !x.done || !x.continuedBy(data) {
		p := s.begin(data, false)
		p.layers = []Layer{layer}
		p.exchange.TPDUs = [][2][]byte{{bytes.Clone(data), nil}}
		return p
	}
	x.done = false
	x.response = x.response[:len(x.response)-2]
	x.TPDUs = append(x.TPDUs, [2][]byte{bytes.Clone(data), nil})
	return part{exchange: x, sends: true, layers: []Layer{layer}}
}

// continuedBy reports whether a TPDU goes on with the command: GET RESPONSE after 61xx, or the same command with the Le of
// 6Cxx (ISO/IEC 7816-3:2006 §12.2).
func (x *exchange) continuedBy(tpdu []byte) bool {
	n := len(x.response)
	if n < 2 || len(tpdu) != apdu.HeaderLength+1 || len(x.TPDUs) == 0 {
		return false
	}
	sw := apdu.StatusWord(uint16(x.response[n-2])<<8 | uint16(x.response[n-1]))
	if _, ok := sw.Available(); ok {
		return tpdu[1] == 0xC0
	}
	last := x.TPDUs[len(x.TPDUs)-1][0]
	ne, ok := sw.ExactNe()
	return ok && tpdu[4] == byte(ne) && bytes.HasPrefix(last, tpdu[:apdu.HeaderLength])
}

func (s *slot) receiveTPDU(data []byte) part {
	x := s.command
	layer := Layer{Protocol: "T=0", Name: "response TPDU", Fields: responseTPDUFields(data)}
	if x == nil || x.done || len(x.TPDUs) == 0 {
		return part{layers: []Layer{layer}}
	}
	x.answer(data)
	x.TPDUs[len(x.TPDUs)-1][1] = bytes.Clone(data)
	x.done = true
	return part{exchange: x, layers: []Layer{layer}}
}

func tpduFields(b []byte) []Field {
	if len(b) < apdu.HeaderLength {
		return []Field{{Name: "bytes", Value: spaced(b), Meaning: "fewer than a header has"}}
	}
	fields := []Field{
		{Name: "CLA", Value: hex8(b[0])},
		{Name: "INS", Value: hex8(b[1]), Meaning: Instruction(b[1])},
		{Name: "P1", Value: hex8(b[2])},
		{Name: "P2", Value: hex8(b[3])},
	}
	if len(b) > apdu.HeaderLength {
		fields = append(fields, Field{Name: "P3", Value: hex8(b[4]), Meaning: plural(int(b[4]), "byte")})
	}
	if len(b) > apdu.HeaderLength+1 {
		fields = append(fields, Field{Name: "data", Value: spaced(b[apdu.HeaderLength+1:])})
	}
	return fields
}

func responseTPDUFields(b []byte) []Field {
	r, err := apdu.ParseResponse(b)
	if err != nil {
		return []Field{{Name: "bytes", Value: spaced(b), Meaning: "no status word"}}
	}
	fields := []Field{{Name: "SW1 SW2", Value: r.SW.String(), Meaning: r.SW.Meaning()}}
	if len(r.Data) > 0 {
		fields = append([]Field{{Name: "data", Value: spaced(r.Data)}}, fields...)
	}
	return fields
}

// isPPS reports whether bytes begin as a PPS does; CLA FF is none that a card takes.
func isPPS(b []byte) bool { return len(b) > 0 && b[0] == 0xFF }

// ppsLayer explains a PPS (ISO/IEC 7816-3:2006 §9.2).
func ppsLayer(name string, raw []byte) Layer {
	layer := Layer{Protocol: "PPS", Name: name + " " + spaced(raw)}
	p, err := atr.ParsePPS(raw)
	if err != nil {
		layer.Notes = []string{err.Error()}
		return layer
	}
	layer.Fields = []Field{
		{Name: "PPSS", Value: hex8(raw[0])},
		{Name: "PPS0", Value: hex8(raw[1]), Meaning: fmt.Sprintf("T=%d", p.T)},
	}
	if raw[1]&0x10 != 0 {
		f := fidi(raw[2])
		layer.Fields = append(layer.Fields, Field{Name: "PPS1", Value: f.Value, Meaning: f.Meaning})
	}
	layer.Fields = append(layer.Fields, Field{Name: "PCK", Value: hex8(raw[len(raw)-1]), Meaning: "right"})
	return layer
}

func (s *slot) receivePPS(raw []byte) part {
	if p, err := atr.ParsePPS(raw); err == nil {
		s.protocol = int(p.T)
	}
	return part{layers: []Layer{ppsLayer("PPS response", raw)}}
}

// pad takes the template of a PC_to_RDR_Secure: the reader puts the PIN into it and gives it to the card.
func (s *slot) pad(data []byte) part {
	var command, prologue []byte
	if p, err := ccid.ParsePINVerificationData(data); err == nil {
		command, prologue = p.PINAPDU, p.BTeoPrologue[:]
	} else if p, err := ccid.ParsePINModificationData(data); err == nil {
		command, prologue = p.PINAPDU, p.BTeoPrologue[:]
	} else {
		return part{}
	}
	p := s.begin(command, false)
	p.exchange.TPDUs = [][2][]byte{{bytes.Clone(command), nil}}
	if s.level < ccid.LevelShortAPDU && s.protocol == 1 {
		s.t1.out, s.t1.outSeen = t1.PCB(prologue[1]).NS(), true
	}
	return p
}
