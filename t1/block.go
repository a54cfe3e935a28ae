package t1

import (
	"errors"
	"fmt"
)

const (
	prologueLen = 3   // NAD, PCB, LEN
	maxINF      = 254 // LEN 255 is reserved, ISO/IEC 7816-3:2006 §11.3.2.3
	maxBlock    = prologueLen + maxINF + 2
)

// Faults of a received block. The engine treats a block with any of them as not
// received; after too many, the last one is the Cause of the Error.
var (
	// ErrEDC reports that the error detection code does not fit the block, or
	// that the reader saw wrong parity.
	ErrEDC = errors.New("t1: wrong error detection code")
	// ErrLength reports that LEN is not the number of bytes in the information
	// field, is 255, exceeds what the receiver announced, or is not the length
	// that the PCB asks for.
	ErrLength = errors.New("t1: wrong block length")
	// ErrPCB reports a PCB with a value reserved by ISO/IEC 7816-3:2006 §11.3.2.2.
	ErrPCB = errors.New("t1: reserved PCB")
	// ErrINF reports an S-block whose information field is out of range: an IFS
	// of 0 or 255, a WTX multiplier of 0.
	ErrINF = errors.New("t1: S-block value out of range")
)

// PCB is the protocol control byte, ISO/IEC 7816-3:2006 §11.3.2.2.
type PCB byte

// The PCBs of supervisory blocks.
const (
	ResynchRequest  PCB = 0xC0
	ResynchResponse PCB = 0xE0
	IFSRequest      PCB = 0xC1
	IFSResponse     PCB = 0xE1
	AbortRequest    PCB = 0xC2
	AbortResponse   PCB = 0xE2
	WTXRequest      PCB = 0xC3
	WTXResponse     PCB = 0xE3
)

const (
	iNS       PCB = 0x40 // N(S) of an I-block
	iMore     PCB = 0x20 // M: another block of the chain follows
	iReserved PCB = 0x1F
	rBlock    PCB = 0x80
	rNR       PCB = 0x10 // N(R) of an R-block
	sResponse PCB = 0x20 // tells an S(… response) from an S(… request)
)

// Kind is the type of a block.
type Kind byte

// The kinds of block, ISO/IEC 7816-3:2006 §11.3.2.2.
const (
	Reserved     Kind = iota // no meaning given by the standard
	Information              // I-block: carries the bytes of the application
	ReceiveReady             // R-block: carries a positive or negative acknowledgement
	Supervisory              // S-block: carries control information
)

// String returns the letter by which the standard calls the kind.
func (k Kind) String() string {
	switch k {
	case Information:
		return "I"
	case ReceiveReady:
		return "R"
	case Supervisory:
		return "S"
	case Reserved:
	}

	return "RFU"
}

// RCode is what an R-block says about the block before it.
type RCode byte

// The codes of an R-block, ISO/IEC 7816-3:2006 §11.3.2.2.
const (
	RNoError    RCode = iota // error-free acknowledgement
	REDCError                // redundancy code or character parity error
	ROtherError              // any other error
)

// String names the code.
func (c RCode) String() string {
	switch c {
	case RNoError:
		return "no error"
	case REDCError:
		return "EDC or parity error"
	case ROtherError:
		return "other error"
	}

	return fmt.Sprintf("error %d", byte(c))
}

// IPCB returns the PCB of an I-block with send-sequence number ns (0 or 1) and
// the more-data bit.
func IPCB(ns byte, more bool) PCB {
	p := PCB(ns&1) * iNS
	if more {
		p |= iMore
	}

	return p
}

// RPCB returns the PCB of an R-block that asks for the I-block with
// send-sequence number nr (0 or 1).
func RPCB(nr byte, code RCode) PCB {
	return rBlock | PCB(nr&1)*rNR | PCB(code)
}

// Kind tells the type of block; Reserved if any bit has a value that the
// standard does not define.
func (p PCB) Kind() Kind {
	switch p {
	case ResynchRequest, ResynchResponse, IFSRequest, IFSResponse,
		AbortRequest, AbortResponse, WTXRequest, WTXResponse:
		return Supervisory
	}
	if p < rBlock && p&iReserved == 0 {
		return Information
	}
	if p&^rNR >= rBlock && p&^rNR <= rBlock|PCB(ROtherError) {
		return ReceiveReady
	}

	return Reserved
}

// NS is the send-sequence number of an I-block, 0 or 1.
func (p PCB) NS() byte { return byte(p & iNS >> 6) }

// More is the more-data bit of an I-block.
func (p PCB) More() bool { return p&iMore != 0 }

// NR is the number of the I-block that an R-block asks for, 0 or 1.
func (p PCB) NR() byte { return byte(p & rNR >> 4) }

// Code is what an R-block reports.
func (p PCB) Code() RCode { return RCode(p & 0x0F) }

// Response tells an S(… response) from an S(… request).
func (p PCB) Response() bool { return p&sResponse != 0 }

// String writes the PCB the way the standard does, such as I(0,1), R(1) or
// S(WTX request).
func (p PCB) String() string {
	switch p.Kind() {
	case Information:
		return fmt.Sprintf("I(%d,%d)", p.NS(), byte(p&iMore>>5))
	case ReceiveReady:
		if p.Code() == RNoError {
			return fmt.Sprintf("R(%d)", p.NR())
		}

		return fmt.Sprintf("R(%d) %s", p.NR(), p.Code())
	case Supervisory:
		direction := "request"
		if p.Response() {
			direction = "response"
		}

		return fmt.Sprintf("S(%s %s)", p.supervises(), direction)
	case Reserved:
	}

	return fmt.Sprintf("RFU(%02X)", byte(p))
}

func (p PCB) supervises() string {
	switch p &^ sResponse {
	case IFSRequest:
		return "IFS"
	case AbortRequest:
		return "ABORT"
	case WTXRequest:
		return "WTX"
	}

	return "RESYNCH"
}

// Block is a block without its length and its error detection code.
type Block struct {
	NAD byte   // node address: DAD in bits 7 to 5, SAD in bits 3 to 1
	PCB PCB    // type and sequence number
	INF []byte // information field, 0 to 254 bytes
}

// String writes the block for people: PCB, the value of an S-block, the number
// of bytes of an I-block (never the bytes: they may be a PIN).
func (b Block) String() string {
	switch {
	case b.PCB.Kind() == Information:
		return fmt.Sprintf("%s LEN=%d", b.PCB, len(b.INF))
	case b.PCB.Kind() == Supervisory && len(b.INF) == 1:
		return fmt.Sprintf("%s %d", b.PCB, b.INF[0])
	}

	return b.PCB.String()
}

// AppendBlock appends b with its LEN and its error detection code to dst. It
// fails with ErrLength if the information field is longer than 254 bytes.
func AppendBlock(dst []byte, b Block, edc EDC) ([]byte, error) {
	if len(b.INF) > maxINF {
		return dst, fmt.Errorf("%w: %d bytes in the information field", ErrLength, len(b.INF))
	}

	return appendBlock(dst, b, edc), nil
}

func appendBlock(dst []byte, b Block, edc EDC) []byte {
	start := len(dst)
	dst = append(dst, b.NAD, byte(b.PCB), byte(len(b.INF)))
	dst = append(dst, b.INF...)
	sum := edc.compute(dst[start:])

	return append(dst, sum[:edc.Len()]...)
}

// ParseBlock decodes one block and checks all that can be told without knowing
// the exchange it belongs to: error detection code, length, and that PCB and
// information field have values the standard defines. It fails with ErrEDC,
// ErrLength, ErrPCB or ErrINF. INF refers to raw.
func ParseBlock(raw []byte, edc EDC) (Block, error) {
	end := len(raw) - edc.Len()
	if end < prologueLen {
		return Block{}, ErrLength
	}
	// The code comes before the length: in a damaged block LEN means nothing,
	// and the R-block that follows should say "EDC error".
	sum := edc.compute(raw[:end])
	if string(sum[:edc.Len()]) != string(raw[end:]) {
		return Block{}, ErrEDC
	}
	b := Block{NAD: raw[0], PCB: PCB(raw[1]), INF: raw[prologueLen:end]}
	if int(raw[2]) != len(b.INF) || len(b.INF) > maxINF {
		return Block{}, ErrLength
	}
	if err := b.check(); err != nil {
		return Block{}, err
	}

	return b, nil
}

// check compares the information field with what the PCB allows,
// ISO/IEC 7816-3:2006 §11.3.2.2, §11.4.2 (IFS) and §11.4.3 (WTX).
func (b Block) check() error {
	switch b.PCB.Kind() {
	case Information:
		return nil
	case ReceiveReady:
		return b.checkLen(0)
	case Supervisory:
		return b.checkSupervisory()
	case Reserved:
	}

	return ErrPCB
}

func (b Block) checkSupervisory() error {
	switch b.PCB &^ sResponse {
	case IFSRequest:
		if err := b.checkLen(1); err != nil {
			return err
		}
		if b.INF[0] == 0 || b.INF[0] > maxINF {
			return ErrINF
		}

		return nil
	case WTXRequest:
		if err := b.checkLen(1); err != nil {
			return err
		}
		if b.INF[0] == 0 {
			return ErrINF
		}

		return nil
	}

	return b.checkLen(0)
}

func (b Block) checkLen(n int) error {
	if len(b.INF) != n {
		return ErrLength
	}

	return nil
}
