package card

import (
	"context"

	"github.com/goccid/goccid/apdu"
)

// Status words that the link layers give themselves (ISO/IEC 7816-4 §5.6).
const (
	swNoPrecise     = 0x6F00
	swWrongLength   = 0x6700
	swNotSatisfied  = 0x6985
	swINSInvalid    = 0x6D00
	swCLAInvalid    = 0x6E00
	swOK            = 0x9000
	swMoreAvailable = 0x6100
	swExactLength   = 0x6C00
)

// The instructions that belong to the transport more than to the application.
const (
	insGetResponse = 0xC0
	insEnvelope    = 0xC2
)

// maxCommand is the longest command APDU: 7 bytes of header and Lc, 65,535 of data, 2 of Le.
const maxCommand = 7 + 65535 + 2

// dialogue is what stands between any link and the application: it keeps what did not fit in a response for GET RESPONSE,
// and puts together what comes in ENVELOPEs (ISO/IEC 7816-4:2013 §11.7, §11.8).
type dialogue struct {
	application Application
	rest        []byte // data not fetched yet
	sw          uint16 // the status word that follows the rest
	envelope    []byte
	early       bool // the rest belongs to a command whose Le may come in one more ENVELOPE
}

// run gives the application a command and splits its answer.
func (d *dialogue) run(ctx context.Context, command []byte) (data []byte, sw uint16, err error) {
	d.rest, d.envelope, d.early = nil, nil, false
	response, err := d.application.Transmit(ctx, command)
	if err != nil {
		return nil, 0, err
	}
	n := len(response) - 2
	if n < 0 {
		return nil, swNoPrecise, nil
	}
	return response[:n], uint16(response[n])<<8 | uint16(response[n+1]), nil
}

// hold keeps data for take, followed by sw.
func (d *dialogue) hold(data []byte, sw uint16) { d.rest, d.sw = data, sw }

// take returns up to n of the bytes held and the status word that goes with them: 61xx while there is more.
func (d *dialogue) take(n int) ([]byte, uint16) {
	data := d.rest[:min(n, len(d.rest))]
	d.rest = d.rest[len(data):]
	return data, d.status()
}

// status is the held status word, or how much can be fetched.
func (d *dialogue) status() uint16 {
	switch n := len(d.rest); {
	case n == 0:
		return d.sw
	case n < 256:
		return swMoreAvailable | uint16(n)
	}
	return swMoreAvailable
}

// addEnvelope takes the data of one ENVELOPE, and runs the command once it is whole. An empty ENVELOPE, or one with less
// data than fits, ends the command; a full one does where the command's own length fields say that nothing is missing.
//
// After a full ENVELOPE that ends just behind the data field, nobody can tell whether an Le follows. The command is run
// then; what it gives to fetch is not announced before the next ENVELOPE, which brings the Le, or a GET RESPONSE.
func (d *dialogue) addEnvelope(ctx context.Context, data []byte) (sw uint16, err error) {
	if d.early && len(data) == extendedLe {
		d.early = false
		return d.status(), nil
	}
	if len(d.envelope)+len(data) > maxCommand {
		d.envelope = nil
		return swWrongLength, nil
	}
	d.envelope = append(d.envelope, data...)
	missing, known := missing(d.envelope)
	if len(data) == maxShortData && (!known || missing > 0 || missing == -1) {
		return swOK, nil
	}
	command, ambiguous := d.envelope, len(data) == maxShortData && missing == 0
	if ambiguous {
		command = append(command, 0, 0)
	}
	if len(command) < 4 {
		d.envelope = nil
		return swNotSatisfied, nil
	}
	rest, sw, err := d.run(ctx, command)
	if err != nil {
		return 0, err
	}
	d.hold(rest, sw)
	if ambiguous && len(rest) > 0 {
		d.early = true
		return swOK, nil
	}
	return d.status(), nil
}

const (
	maxShortData = 255
	extendedLe   = 2
)

// missing tells how many bytes an extended command lacks up to the end of its data field, below 0 when there are more.
// known is false while the length field isn't there.
func missing(b []byte) (n int, known bool) {
	if len(b) < 7 || b[4] != 0 {
		return 0, false
	}
	return 7 + int(b[5])<<8 + int(b[6]) - len(b), true
}

// transmit answers one command APDU at a link that carries APDUs whole.
func (d *dialogue) transmit(ctx context.Context, command []byte) ([]byte, error) {
	c, err := apdu.ParseCommandLenient(command)
	if err != nil {
		return appendSW(nil, swWrongLength), nil
	}
	switch c.INS {
	case insGetResponse:
		if len(d.rest) == 0 {
			return appendSW(nil, swNotSatisfied), nil
		}
		return reply(d.take(c.Ne)), nil
	case insEnvelope:
		sw, err := d.addEnvelope(ctx, c.Data)
		if err != nil {
			return nil, err
		}
		if sw>>8 == swMoreAvailable>>8 && c.Ne > 0 {
			return reply(d.take(c.Ne)), nil
		}
		return appendSW(nil, sw), nil
	}
	data, sw, err := d.run(ctx, command)
	if err != nil {
		return nil, err
	}
	if c.Ne == 0 {
		return appendSW(nil, sw), nil
	}
	d.hold(data, sw)
	return reply(d.take(c.Ne)), nil
}

func reply(data []byte, sw uint16) []byte { return appendSW(append([]byte(nil), data...), sw) }

func appendSW(b []byte, sw uint16) []byte { return append(b, byte(sw>>8), byte(sw)) }
