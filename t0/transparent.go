package t0

import (
	"fmt"

	"github.com/goccid/goccid/apdu"
)

// transparent hands TPDUs down and responses up as they are: one TPDU, one answer.
type transparent struct {
	tpdu     [MaxTPDU]byte
	response [apdu.MaxShortNe + 2]byte
	expect   int
	running  bool
}

func (t *transparent) reset() { *t = transparent{} }

func (t *transparent) transmit(command []byte) (Step, error) {
	length, expect, err := tpduShape(command)
	if err != nil {
		return Step{}, err
	}
	t.expect, t.running = expect, true
	return Step{Send: t.tpdu[:copy(t.tpdu[:], command[:length])], Expect: expect}, nil
}

func (t *transparent) receive(response []byte) (Step, error) {
	if !t.running {
		return Step{}, ErrNoExchange
	}
	if _, _, err := splitResponse(response, t.expect); err != nil {
		return Step{}, err
	}
	t.reset()
	return Step{Done: true, Response: t.response[:copy(t.response[:], response)]}, nil
}

// tpduShape returns how much of a short APDU is its TPDU and how many data bytes the card can answer with. The Le of a
// case 4 APDU is not part of it (ISO/IEC 7816-3:2006 §12.2.5): the application fetches the data with GET RESPONSE.
// A header of four bytes stays one, as CCID 1.1 §3.2.1 form 1 wants it.
func tpduShape(command []byte) (length, expect int, err error) {
	n := len(command)
	if n == apdu.HeaderLength {
		return n, 0, nil
	}
	if n < apdu.HeaderLength {
		return 0, 0, fmt.Errorf("%w: %d bytes are less than a header", ErrCommand, n)
	}
	p3 := command[apdu.HeaderLength]
	withData := apdu.HeaderLength + 1 + int(p3)
	switch {
	case n == apdu.HeaderLength+1:
		return n, p3Length(p3), nil
	case p3 != 0 && (n == withData || n == withData+1):
		return withData, 0, nil
	}
	return 0, 0, fmt.Errorf("%w: P3 is %02X, %d bytes follow", ErrCommand, p3, n-apdu.HeaderLength-1)
}
