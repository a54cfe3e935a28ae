package ifdhandler

import (
	"context"
	"maps"

	iso "github.com/goccid/goccid/atr"
	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
)

// attributes has the values of PC/SC part 3 for a reader and for the card in it, 32 bits each.
func attributes() map[Tag]capability {
	list := maps.Clone(sessionAttributes())
	maps.Copy(list, map[Tag]capability{
		AttrVendorIFDType: func(_ context.Context, c *channel) ([]byte, error) {
			return text(c.reader.Device().Info().Product), nil
		},
		AttrAsyncProtocolTypes: announced(func(d ccid.ClassDescriptor) uint32 { return d.DwProtocols & 3 }),
		AttrDefaultClk:         announced(func(d ccid.ClassDescriptor) uint32 { return d.DwDefaultClock }),
		AttrMaxClk:             announced(func(d ccid.ClassDescriptor) uint32 { return d.DwMaximumClock }),
		AttrDefaultDataRate:    announced(func(d ccid.ClassDescriptor) uint32 { return d.DwDataRate }),
		AttrMaxDataRate:        announced(func(d ccid.ClassDescriptor) uint32 { return d.DwMaxDataRate }),
		AttrMaxIFSD:            announced(func(d ccid.ClassDescriptor) uint32 { return d.DwMaxIFSD }),
		AttrSyncProtocolTypes:  announced(func(d ccid.ClassDescriptor) uint32 { return d.DwSynchProtocols }),
	})
	return list
}

// announced is a value of the class descriptor.
func announced(value func(ccid.ClassDescriptor) uint32) capability {
	return func(_ context.Context, c *channel) ([]byte, error) { return number(value(c.reader.Class())), nil }
}

// session is a card with a protocol that was set.
type session struct {
	host.Parameters
	atr   *iso.ATR
	class ccid.ClassDescriptor
}

// sessionAttributes has what is in use with the card.
func sessionAttributes() map[Tag]capability {
	return map[Tag]capability{
		AttrCurrentProtocolType: current(func(s session) (int, bool) { return 1 << s.T, true }),
		// A reader that sets the clock by itself doesn't tell at which it arrived.
		AttrCurrentClk: current(func(s session) (int, bool) {
			return int(s.class.DwDefaultClock), s.class.DwFeatures&ccid.FeatureAutoClock == 0
		}),
		AttrCurrentF: current(func(s session) (int, bool) {
			f, _, ok := iso.FI(s.FD)
			return f, ok
		}),
		AttrCurrentD:           current(func(s session) (int, bool) { return iso.DI(s.FD) }),
		AttrCurrentN:           current(func(s session) (int, bool) { return int(s.atr.GuardTime()), true }),
		AttrCurrentW:           current(func(s session) (int, bool) { return int(s.atr.T0().WI), s.T == 0 }),
		AttrCurrentIFSC:        current(func(s session) (int, bool) { return s.ifsc(), s.T == 1 }),
		AttrCurrentIFSD:        current(func(s session) (int, bool) { return s.IFSD, s.IFSD > 0 }),
		AttrCurrentBWT:         current(func(s session) (int, bool) { return int(s.atr.T1().BWI), s.T == 1 }),
		AttrCurrentCWT:         current(func(s session) (int, bool) { return int(s.atr.T1().CWI), s.T == 1 }),
		AttrCurrentEBCEncoding: current(func(s session) (int, bool) { return int(s.atr.T1().EDC), s.T == 1 }),
	}
}

// ifsc is the card's information field size, as its ATR has it where the reader runs T=1.
func (s session) ifsc() int {
	if s.IFSC > 0 {
		return s.IFSC
	}
	return s.atr.T1().IFSC
}

// current is a value of a session; it is empty without one, and where the value function says that there is none.
func current(value func(session) (int, bool)) capability {
	return func(_ context.Context, c *channel) ([]byte, error) {
		parameters, set := c.slot.Parameters()
		parsed, err := iso.Parse(c.slot.ATR())
		if !set || err != nil {
			return nil, nil
		}
		v, ok := value(session{parameters, parsed, c.reader.Class()})
		if !ok {
			return nil, nil
		}
		return number(uint32(v)), nil
	}
}
