package explain

import (
	"errors"
	"time"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/usbtransport"
)

// token follows an ICCD token, whose messages are control requests (ICCD 1.0).
type token struct {
	powering bool
	state    ccid.ICCDState // of version A
	number   int            // of the transfer with the last command
	at       time.Time
}

// request follows the class and vendor requests to a reader's interface; those of a token carry what goes to its card.
func (b *builder) request(dev *device, m moment, out *Transfer) {
	const recipientInterface = 1
	t := m.transfer
	if !t.HasSetup || requestKind(t.Setup.RequestType) == "standard" || t.Setup.RequestType&0x1F != recipientInterface {
		return
	}
	l := dev.links[int(uint8(t.Setup.Index))]
	if l == nil {
		return
	}
	if !errors.Is(t.Err, usbtransport.ErrInvalid) {
		l.messages++
	}
	switch {
	case requestKind(t.Setup.RequestType) != "class":
	case t.Setup.RequestType == ccid.RequestTypeIn && (t.Setup.Request == ccid.RequestGetClockFrequencies || t.Setup.Request == ccid.RequestGetDataRates):
		b.steps = append(b.steps, Step{Kind: StepLists, Device: dev.Index, Interface: l.number, Packet: m.packet, Ordinal: l.messages - 1})
	case t.Err == nil && (l.iccd == ccid.ProtocolICCDA || l.iccd == ccid.ProtocolICCDB):
		b.explainToken(dev, l, m, out)
	}
}

// explainToken explains what the class requests of a token carry.
func (b *builder) explainToken(dev *device, l *link, m moment, out *Transfer) {
	t := m.transfer
	step := Step{Device: dev.Index, Interface: l.number, Packet: m.packet, Ordinal: l.messages - 1}
	isStep := func(kind StepKind) {
		step.Kind = kind
		b.steps = append(b.steps, step)
	}
	s := l.slot(0)
	k := &l.token
	switch t.Setup.Request {
	case ccid.ICCDPowerOff:
		s.reset()
		isStep(StepPowerOff)
	case ccid.ICCDPowerOn:
		s.reset()
		isStep(StepPowerOn)
		k.powering, k.number, k.at = true, out.Number, m.at
		if t.In() {
			k.powering = false
			b.take(dev, l, s.atr(t.Data), m, out)
		}
	case ccid.ICCDXfrBlock:
		k.number, k.at = out.Number, m.at
		p := l.sendToToken(t.Data, t.Setup.Value>>8)
		b.take(dev, l, p, m, out)
		b.sent(step, s, p)
	case ccid.ICCDGetStatus:
		if len(t.Data) > 0 {
			k.state = ccid.ICCDState(t.Data[0])
		}
		isStep(StepStatus)
	case ccid.ICCDSlotStatus:
		isStep(StepStatus)
	case ccid.ICCDDataBlock:
		out.answer(k.number, k.at, t.End)
		b.take(dev, l, l.receiveFromToken(t.Data, out), m, out)
	}
}

// sendToToken takes the data of XFR_BLOCK. A token of version A takes the header of a T=0 command and its data one after the
// other.
func (l *link) sendToToken(data []byte, level uint16) part {
	s := l.slot(0)
	if l.iccd == ccid.ProtocolICCDB {
		return s.sendAPDU(data, level)
	}
	if x := s.underWay(); x != nil && len(x.raw) == 5 && len(x.response) == 0 && len(data) == int(x.raw[4]) {
		x.append(data)
		x.TPDUs = [][2][]byte{{x.raw, nil}}
		return part{exchange: x}
	}
	return s.sendTPDU(data)
}

// receiveFromToken takes the answer to DATA_BLOCK.
func (l *link) receiveFromToken(data []byte, out *Transfer) part {
	s, k := l.slot(0), &l.token
	if l.iccd == ccid.ProtocolICCDA {
		x := s.underWay()
		if x == nil || len(x.TPDUs) == 0 {
			return part{}
		}
		x.answer(data)
		if k.state.Phase() == ccid.ICCDSW || len(x.response) >= 2 && k.state.Phase() != ccid.ICCDData {
			x.done = true
			x.TPDUs[len(x.TPDUs)-1][1] = x.response
		}
		return part{exchange: x}
	}
	block, err := ccid.ParseICCDBlock(data)
	if err != nil {
		return part{problems: []string{err.Error()}}
	}
	out.Fields = append(out.Fields, Field{Name: "bResponseType", Value: hex8(uint8(block.Type)), Meaning: responseType(block.Type)})
	switch {
	case block.Type == ccid.ICCDPolling:
		out.Fields = append(out.Fields, Field{Name: "wDelay", Value: block.Delay.String(), Meaning: "ask again then"})
		return part{exchange: s.underWay()}
	case block.Type == ccid.ICCDStatus:
		p := s.refused(block.Error.String())
		p.problem("the token reports: %v (%v)", block.Error, block.Status)
		return p
	case k.powering:
		k.powering = false
		return s.atr(block.Data)
	}
	return s.receiveAPDU(block.Data, uint16(block.Type))
}

func responseType(v ccid.ICCDBlockType) string {
	switch v {
	case ccid.ICCDStatus:
		return "status"
	case ccid.ICCDPolling:
		return "polling"
	}
	return chainParameter(uint16(v), ccid.LevelExtendedAPDU)
}
