package host_test

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/virtual"
	"github.com/goccid/goccid/virtual/card"
)

// deafAt is a reader whose cards understand nothing at one Fi/Di: a PPS for it is not answered or, when late is set, all that
// follows it.
type deafAt struct {
	fd   byte
	late bool

	mu    sync.Mutex
	tried []byte // the Fi/Di of each PPS since the last power-up
	all   []byte
}

func (d *deafAt) answer(c ccid.Command) (ccid.Response, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	mute := ccid.Response{
		Type: ccid.TypeDataBlock, Slot: c.Slot, Seq: c.Seq, Status: ccid.NewStatus(ccid.ICCActive, ccid.CommandFailed), Error: ccid.ErrorICCMute,
	}
	switch {
	case c.Type == ccid.TypeIccPowerOn:
		d.tried = nil
	case c.Type == ccid.TypeXfrBlock && len(c.Data) == 4 && c.Data[0] == 0xFF:
		d.tried, d.all = append(d.tried, c.Data[2]), append(d.all, c.Data[2])
		return mute, c.Data[2] == d.fd && !d.late
	case c.Type == ccid.TypeXfrBlock && d.late && len(d.tried) == 1 && d.tried[0] == d.fd:
		return mute, true
	}
	return ccid.Response{}, false
}

// speeds returns each Fi/Di that was tried since the last call.
func (d *deafAt) speeds() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := d.all
	d.all = nil
	return all
}

var tpduLevel = ccid.LevelTPDU

func TestSpeedThatFailedIsNotTriedAgain(t *testing.T) {
	memory := &host.SpeedMemory{}
	reader := &deafAt{fd: 0x96}
	open := func(t *testing.T, c card.Card, m *host.SpeedMemory) *rig {
		return newRig(t, virtual.Config{Level: &tpduLevel, Cards: []card.Card{c}, Answer: reader.answer}, host.Options{Speeds: m})
	}
	r := open(t, newCard(1), memory)
	r.connect(t)
	tried := reader.speeds()
	require.Greater(t, len(tried), 1)
	require.Equal(t, byte(0x96), tried[0])
	p, _ := r.slot.Parameters()
	require.NotEqual(t, byte(0x96), p.FD)

	r.connect(t)
	require.Equal(t, tried[1:], reader.speeds(), "the same reader and card")
	other := open(t, newCard(1), memory)
	other.connect(t)
	require.Equal(t, tried[1:], reader.speeds(), "another reader of the model, opened with the memory")
	differs := open(t, card.New(card.NewISO(), card.Options{Protocol: 1, IFSC: 100}), memory)
	differs.connect(t)
	require.Equal(t, tried, reader.speeds(), "another kind of card")
	forgetful := open(t, newCard(1), nil)
	forgetful.connect(t)
	require.Equal(t, tried, reader.speeds(), "a memory of its own")
}

func TestSpeedAtWhichTheFirstExchangeFailsIsNotTriedAgain(t *testing.T) {
	reader := &deafAt{fd: 0x94, late: true}
	r := newRig(t, virtual.Config{Level: &tpduLevel, Cards: []card.Card{newCard(0)}, Answer: reader.answer}, host.Options{})
	r.connect(t)
	p, _ := r.slot.Parameters()
	require.Equal(t, byte(0x94), p.FD)
	_, err := r.slot.Transmit(t.Context(), []byte{0, 0xA4, 0, 0x0C})
	require.ErrorIs(t, err, ccid.ErrorICCMute)
	r.connect(t)
	p, _ = r.slot.Parameters()
	require.NotEqual(t, byte(0x94), p.FD)
	_, err = r.slot.Transmit(t.Context(), []byte{0, 0xA4, 0, 0x0C})
	require.NoError(t, err)
	require.NotContains(t, reader.speeds()[1:], byte(0x94))
}

// TestFailureAfterASuccessSaysNothingOfTheSpeed has a card that falls silent later.
func TestFailureAfterASuccessSaysNothingOfTheSpeed(t *testing.T) {
	bubble(t, "T=0", failAfterSuccess)
}

func failAfterSuccess(t *testing.T) {
	c := card.New(card.NewISO(), card.Options{Behave: func(command []byte) card.Behaviour {
		return card.Behaviour{Mute: len(command) > 1 && command[1] == 0x84}
	}})
	reader := &deafAt{}
	r := newRig(t, virtual.Config{Level: &tpduLevel, Cards: []card.Card{c}, Answer: reader.answer}, host.Options{})
	r.connect(t)
	_, err := r.slot.Transmit(t.Context(), []byte{0, 0xA4, 0, 0x0C})
	require.NoError(t, err)
	_, err = r.slot.Transmit(t.Context(), []byte{0, 0x84, 0, 0, 8})
	require.ErrorIs(t, err, ccid.ErrorICCMute)
	r.connect(t)
	require.Equal(t, []byte{0x94, 0x94}, reader.speeds())
}

// TestParametersAreReadBack has a reader that sets its parameters by itself, and not to what the card offers.
func TestParametersAreReadBack(t *testing.T) {
	level := ccid.LevelExtendedAPDU
	for protocol, data := range [][]byte{
		ccid.ParametersT0{BmFindexDindex: 0x13, BWaitingIntegerT0: 10}.Bytes(),
		ccid.ParametersT1{BmFindexDindex: 0x13, BmTCCKST1: 0x10, BIFSC: 254}.Bytes(),
	} {
		says := func(data []byte) byte {
			r := newRig(t, virtual.Config{Level: &level, Cards: []card.Card{newCard(uint8(protocol))}, Answer: func(c ccid.Command) (ccid.Response, bool) {
				return ccid.Response{
					Type: ccid.TypeParameters, Slot: c.Slot, Seq: c.Seq, Status: ccid.NewStatus(ccid.ICCActive, ccid.CommandOK), Specific: uint8(protocol), Data: data,
				}, c.Type == ccid.TypeGetParameters
			}}, host.Options{})
			r.connect(t)
			p, ok := r.slot.Parameters()
			require.True(t, ok)
			return p.FD
		}
		offered := []byte{0x94, 0x96}[protocol]
		require.Equal(t, byte(0x13), says(data))
		require.Equal(t, offered, says(nil), "no parameters")
		require.Equal(t, offered, says(append([]byte{0x7F}, data[1:]...)), "reserved Fi/Di")
	}
}
