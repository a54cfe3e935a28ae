package card

import (
	"context"
	"crypto/ecdsa"
	"encoding/binary"
	"slices"

	"github.com/goccid/goccid/apdu"
)

// Commands of this package's own, class 80.
const (
	// insEcho returns its data: 80 EC P1 P2 Lc data [Le]. With P1 P2 = 0000 the answer is the data; else it is P1 P2 bytes
	// long: the data, over and over.
	insEcho = 0xEC
	// insProduce returns a pattern, as many bytes as asked for: 80 EE P1 P2 Le. With P1 P2 = 0000 the answer is Ne bytes
	// long (1..65,536), else P1 P2 bytes. Byte i of the pattern is Pattern(i).
	insProduce = 0xEE
)

// Pattern is byte i of what the command 80 EE answers, and of a fresh file EF 0102.
func Pattern(i int) byte { return byte(i ^ i>>8*31) }

// The file system of a fresh ISO card.
const (
	// FileDIR is EF.DIR: one application template that names the application.
	FileDIR = 0x2F00
	// FileATR is EF.ATR/INFO: what lengths the card takes.
	FileATR = 0x2F01
	// FileSmall has 256 bytes to read and write; its short identifier is 1.
	FileSmall = 0x0101
	// FileLarge has 65,536 bytes, filled with Pattern; its short identifier is 2.
	FileLarge = 0x0102
	// FileProtected is in the application, and can be read and written after VERIFY only; its short identifier is 3.
	FileProtected = 0x0201
	// DFApplication is the application's DF.
	DFApplication = 0x5000
)

// AID names the application of a fresh ISO card.
var aid = []byte{0xF0, 'G', 'O', 'C', 'C', 'I', 'D', 0x01}

// AID returns the DF name of the application of a fresh ISO card.
func AID() []byte { return slices.Clone(aid) }

// DefaultPIN and DefaultPUK are the reference data of a fresh ISO card, in ASCII.
const (
	DefaultPIN = "1234"
	DefaultPUK = "12345678"
)

// pinTries and pukTries are the retry counters' initial values.
const (
	pinTries = 3
	pukTries = 5
)

// pinReference and pukReference are the values of P2.
const pinReference = 0x01

// ISO is a card application after ISO/IEC 7816-4: a file system of transparent files, VERIFY with a retry counter, GET DATA,
// GET CHALLENGE, and commands that answer with any length asked for.
//
//	00 A4 P1 P2   SELECT by file identifier, child, parent, DF name, path
//	00 B0 / D6    READ BINARY, UPDATE BINARY by offset or short identifier
//	00 CA         GET DATA 5F50, 5F52, 0066
//	00 84         GET CHALLENGE: a sequence that is the same for each fresh card
//	00 20 / 24 / 2C  VERIFY, CHANGE REFERENCE DATA, RESET RETRY COUNTER with P2 = 01
//	80 EC         echo, 80 EE produce: see the constants
//
// Commands can be chained (CLA bit 5). An ISO belongs to one card.
type ISO struct {
	root    *file
	current *file // DF
	ef      *file // transparent file, nil for none

	pin, puk         []byte
	pinLeft, pukLeft int
	verified         bool
	challenge        uint32
	chain            []byte
	chainHeader      [4]byte
	chaining         bool

	key *ecdsa.PrivateKey // nil for a card that does not sign
}

var _ Application = (*ISO)(nil)

// NewISO makes a card application with a fresh file system.
func NewISO() *ISO {
	root := &file{id: 0x3F00, df: true}
	application := &file{id: DFApplication, df: true, name: aid}
	template := append([]byte{0x4F, byte(len(aid))}, aid...)
	template = append(template, 0x50, 6, 'g', 'o', 'c', 'c', 'i', 'd')
	root.add(
		&file{id: FileDIR, sfi: 30, data: append([]byte{0x61, byte(len(template))}, template...), readOnly: true},
		// Extended length information (ISO/IEC 7816-4:2013 §12.7.1): 65,535 bytes of command, 65,536 of response.
		&file{id: FileATR, sfi: 29, data: []byte{0x7F, 0x66, 9, 0x02, 3, 0x00, 0xFF, 0xFF, 0x02, 3, 0x01, 0x00, 0x00}, readOnly: true},
		&file{id: FileSmall, sfi: 1, data: make([]byte, 256)},
		&file{id: FileLarge, sfi: 2, data: pattern(65536)},
		application,
	)
	application.add(&file{id: FileProtected, sfi: 3, data: []byte("only after VERIFY"), protected: true})
	a := &ISO{root: root, pin: []byte(DefaultPIN), puk: []byte(DefaultPUK), pinLeft: pinTries, pukLeft: pukTries, challenge: 1}
	a.Off()
	return a
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = Pattern(i)
	}
	return b
}

// Reset implements Application.
func (a *ISO) Reset(context.Context) ([]byte, error) {
	a.Off()
	return nil, nil
}

// Off implements Application: the security status and the selection are lost, files and retry counters stay.
func (a *ISO) Off() {
	a.current, a.ef, a.verified = a.root, nil, false
	a.chain, a.chaining = nil, false
}

// Transmit implements Application.
func (a *ISO) Transmit(_ context.Context, command []byte) ([]byte, error) {
	c, err := apdu.ParseCommandLenient(command)
	if err != nil {
		return appendSW(nil, swWrongLength), nil
	}
	data, sw := a.link(c)
	return appendSW(data, sw), nil
}

// link puts chained commands together (ISO/IEC 7816-4:2013 §5.3.3).
func (a *ISO) link(c apdu.Command) ([]byte, uint16) {
	header := [4]byte{c.CLA &^ 0x10, c.INS, c.P1, c.P2}
	if a.chaining && header != a.chainHeader {
		a.chain, a.chaining = nil, false
	}
	if c.Chained() {
		if len(a.chain)+len(c.Data) > 65535 {
			a.chain, a.chaining = nil, false
			return nil, swWrongLength
		}
		a.chain, a.chainHeader, a.chaining = append(a.chain, c.Data...), header, true
		return nil, swOK
	}
	if a.chaining {
		c.Data = append(a.chain, c.Data...)
		a.chain, a.chaining = nil, false
	}
	return a.execute(c)
}

func (a *ISO) execute(c apdu.Command) ([]byte, uint16) {
	switch {
	case c.CLA == 0x80 && c.INS == insEcho:
		return echo(c), swOK
	case c.CLA == 0x80 && c.INS == insProduce:
		return produce(c), swOK
	case c.CLA != 0:
		return nil, swCLAInvalid
	}
	switch c.INS {
	case 0xA4:
		return a.selectFile(c)
	case 0xB0:
		return a.readBinary(c)
	case 0xD6:
		return nil, a.updateBinary(c)
	case 0xCA:
		return a.getData(c)
	case 0x84:
		return a.getChallenge(c)
	case 0x20:
		return nil, a.verify(c)
	case 0x24:
		return nil, a.changeReferenceData(c)
	case 0x2C:
		return nil, a.resetRetryCounter(c)
	}
	if a.key != nil {
		return a.sign(c)
	}
	return nil, swINSInvalid
}

func echo(c apdu.Command) []byte {
	n := int(c.P1)<<8 | int(c.P2)
	if n == 0 || len(c.Data) == 0 {
		return slices.Clone(c.Data)
	}
	b := make([]byte, n)
	for i := range b {
		b[i] = c.Data[i%len(c.Data)]
	}
	return b
}

func produce(c apdu.Command) []byte {
	if n := int(c.P1)<<8 | int(c.P2); n > 0 {
		return pattern(n)
	}
	return pattern(c.Ne)
}

func (a *ISO) getData(c apdu.Command) ([]byte, uint16) {
	switch uint16(c.P1)<<8 | uint16(c.P2) {
	case 0x5F50:
		return []byte("https://github.com/goccid/goccid"), swOK
	case 0x5F52:
		return slices.Clone(historical), swOK
	case 0x0066:
		return []byte{0x66, 0x02, 0x67, 0x00}, swOK
	}
	return nil, 0x6A88
}

// getChallenge answers with numbers that only look random, so that tests can be repeated.
func (a *ISO) getChallenge(c apdu.Command) ([]byte, uint16) {
	if c.P1 != 0 || c.P2 != 0 {
		return nil, 0x6A86
	}
	b := make([]byte, 0, c.Ne+3)
	for len(b) < c.Ne {
		a.challenge ^= a.challenge << 13
		a.challenge ^= a.challenge >> 17
		a.challenge ^= a.challenge << 5
		b = binary.BigEndian.AppendUint32(b, a.challenge)
	}
	return b[:c.Ne], swOK
}

const (
	swBlocked = 0x6983
	swTries   = 0x63C0
)

func (a *ISO) verify(c apdu.Command) uint16 {
	switch {
	case c.P1 == 0xFF && len(c.Data) == 0:
		a.verified = false
		return swOK
	case c.P1 != 0:
		return 0x6A86
	case c.P2 != pinReference:
		return 0x6A88
	case len(c.Data) > 0:
		return a.checkPIN(c.Data)
	case a.pinLeft == 0:
		return swBlocked
	case a.verified:
		return swOK
	}
	return swTries | uint16(a.pinLeft)
}

// checkPIN compares and counts.
func (a *ISO) checkPIN(value []byte) uint16 {
	a.verified = false
	switch {
	case a.pinLeft == 0:
		return swBlocked
	case !slices.Equal(value, a.pin):
		a.pinLeft--
		return swTries | uint16(a.pinLeft)
	}
	a.pinLeft, a.verified = pinTries, true
	return swOK
}

func (a *ISO) changeReferenceData(c apdu.Command) uint16 {
	old := len(a.pin)
	switch {
	case c.P2 != pinReference:
		return 0x6A88
	case c.P1 != 0 || len(c.Data) < old+4 || len(c.Data) > old+12:
		return 0x6A80
	}
	if sw := a.checkPIN(c.Data[:old]); sw != swOK {
		return sw
	}
	a.pin = slices.Clone(c.Data[old:])
	return swOK
}

func (a *ISO) resetRetryCounter(c apdu.Command) uint16 {
	n := len(a.puk)
	switch {
	case c.P2 != pinReference:
		return 0x6A88
	case a.pukLeft == 0:
		return swBlocked
	case len(c.Data) < n:
		return 0x6A80
	case !slices.Equal(c.Data[:n], a.puk):
		a.pukLeft--
		return swTries | uint16(a.pukLeft)
	}
	if len(c.Data) > n {
		a.pin = slices.Clone(c.Data[n:])
	}
	a.pukLeft, a.pinLeft = pukTries, pinTries
	return swOK
}
