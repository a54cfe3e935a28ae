package host_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/virtual"
	"github.com/goccid/goccid/virtual/card"
)

// The tests of this file are about single lines of docs/parity.md that no other test is about.

func TestAnnouncedMessageLengthIsMadeUsable(t *testing.T) {
	for announced, want := range map[uint32]int{0: 261, 9: 261, 10: 261, 31: 261, 32: 22, 271: 261, 65554: 65544, 524288: 65544, 1<<32 - 1: 65544} {
		t.Run(fmt.Sprint(announced), func(t *testing.T) {
			r := newRig(t, virtual.Config{Override: func(d *ccid.ClassDescriptor) { d.DwMaxCCIDMessageLength = announced }}, host.Options{})
			require.Equal(t, want, r.reader.MaxCommand())
		})
	}
}

func TestAbsurdClockLengthensNoWait(t *testing.T) {
	for _, kHz := range []uint32{0, 1, 250, 1 << 31} {
		bubble(t, fmt.Sprintf("%d kHz", kHz), func(t *testing.T) {
			level := ccid.LevelTPDU
			// BWI 9 with the slowest clock would be hours.
			silent := card.New(card.NewISO(), card.Options{ATR: []byte{0x3B, 0x80, 0x81, 0x21, 0x9D, 0xBD}})
			r := newRig(t, virtual.Config{
				Level: &level, Cards: []card.Card{silent}, Override: func(d *ccid.ClassDescriptor) { d.DwDefaultClock = kHz },
			}, host.Options{})
			r.connect(t)
			r.bus.Inject(func(tr virtual.Transfer) virtual.Fault {
				if tr.Kind == virtual.BulkOutTransfer && ccid.MessageType(tr.Data[0]) == ccid.TypeXfrBlock {
					return virtual.Fault{Kind: virtual.Drop}
				}
				return virtual.Fault{}
			})
			begun := time.Now()
			_, err := r.slot.Transmit(t.Context(), []byte{0, 0xA4, 0, 0x0C})
			var silence *host.NoAnswerError
			require.ErrorAs(t, err, &silence)
			require.LessOrEqual(t, silence.Waited, time.Minute)
			require.Less(t, time.Since(begun), 2*time.Minute)
		})
	}
}

func TestPPSRefusedLeadsToTheNextSpeed(t *testing.T) {
	bubble(t, "no answer to the first PPS", func(t *testing.T) {
		c, refusals := fastT1(ccid.LevelTPDU, 1), 1
		c.Answer = func(c ccid.Command) (ccid.Response, bool) {
			if c.Type != ccid.TypeXfrBlock || c.Data[0] != 0xFF || refusals == 0 {
				return ccid.Response{}, false
			}
			refusals--
			return ccid.Response{
				Type: ccid.TypeDataBlock, Slot: c.Slot, Seq: c.Seq, Status: ccid.NewStatus(ccid.ICCActive, ccid.CommandFailed), Error: ccid.ErrorICCMute,
			}, true
		}
		r := newRig(t, c, host.Options{})
		p := parameters(t, r.slot)
		require.Equal(t, byte(0x95), p.FD, "the next slower one")
		require.True(t, p.PPS)
	})
}

func TestMuteCardIsNoFailureOfGetSlotStatus(t *testing.T) {
	r := newRig(t, virtual.Config{Answer: failing(ccid.TypeGetSlotStatus, ccid.ErrorICCMute, ccid.ICCInactive)()}, host.Options{})
	status, err := r.slot.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, ccid.ICCInactive, status.ICC)
}

func TestGuardTimeOf255IsPassedThrough(t *testing.T) {
	sent := byte(0)
	c := hostDoesAll(withCards(ccid.LevelTPDU, card.New(card.NewISO(), card.Options{ATR: []byte{0x3B, 0x40, 0xFF}})), nil)
	c.Answer = func(c ccid.Command) (ccid.Response, bool) {
		if c.Type == ccid.TypeSetParameters {
			sent = c.Data[2]
		}
		return ccid.Response{}, false
	}
	r := newRig(t, c, host.Options{})
	r.connect(t)
	require.Equal(t, byte(0xFF), sent)
}

func TestReaderReportsAMuteCardBeforeItIsGivenUp(t *testing.T) {
	bubble(t, "BWI 7", func(t *testing.T) {
		const bwt = 11430 * time.Millisecond // 2^7·960·372 clocks at 4 MHz
		silent := card.New(card.NewISO(), card.Options{ATR: []byte{0x3B, 0x80, 0x81, 0x21, 0x75, 0x55}})
		c := hostDoesAll(withCards(ccid.LevelTPDU, silent), func(d *ccid.ClassDescriptor) { d.DwDefaultClock = 4000 })
		mute, failure := false, failing(ccid.TypeXfrBlock, ccid.ErrorICCMute, ccid.ICCActive)()
		c.Answer = func(c ccid.Command) (ccid.Response, bool) {
			if !mute {
				return ccid.Response{}, false
			}
			return failure(c)
		}
		r := newRig(t, c, host.Options{Limits: host.Limits{Allowance: time.Millisecond, Exchange: 10 * time.Minute}})
		r.connect(t)
		mute = true
		r.bus.Inject(func(tr virtual.Transfer) virtual.Fault {
			if tr.Kind != virtual.BulkInTransfer {
				return virtual.Fault{}
			}
			return virtual.Fault{Kind: virtual.Delay, Delay: bwt + 500*time.Millisecond}
		})
		_, err := r.slot.Transmit(t.Context(), []byte{0, 0xA4, 0, 0x0C})
		require.Error(t, err)
		require.NotErrorIs(t, err, usbtransport.ErrTimedOut)
	})
}
