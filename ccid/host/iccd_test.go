package host_test

import (
	"bytes"
	"errors"
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

// Tokens of both versions of ICCD, with and without an interrupt endpoint.
const (
	tokenA         = "e-gate"
	tokenB         = "gemalto-pdt"
	tokenBNotifies = "gnd-starsigncardtoken350"
)

// iccdVersion is a version of ICCD with a card that fits it.
type iccdVersion struct {
	model    string
	protocol uint8
}

var iccdVersions = map[string]iccdVersion{"version A": {tokenA, 0}, "version B": {tokenB, 1}}

func (v iccdVersion) config(behave func([]byte) card.Behaviour) virtual.Config {
	return virtual.Config{Model: v.model, Cards: []card.Card{card.New(card.NewISO(), card.Options{Protocol: v.protocol, Behave: behave})}}
}

// tokens returns the models that are tokens.
func tokens(t *testing.T) []virtual.Model {
	t.Helper()
	models, err := virtual.Models()
	require.NoError(t, err)
	var list []virtual.Model
	for _, m := range models {
		if m.Interfaces[0].Protocol != ccid.ProtocolCCID && m.Interfaces[0].Endpoints < 2 {
			list = append(list, m)
		}
	}
	return list
}

// transmitOK expects data and 9000.
func (r *rig) transmitOK(t *testing.T, command, want []byte) {
	t.Helper()
	got, err := r.slot.Transmit(t.Context(), command)
	require.NoError(t, err, "% X", command[:min(len(command), 8)])
	require.True(t, bytes.Equal(append(want, 0x90, 0x00), got), "% X…: got %d bytes", command[:min(len(command), 8)], len(got))
}

func TestInterfacesWithoutBulkEndpointsAreTokens(t *testing.T) {
	for name, test := range map[string]struct {
		interfaces []string
		usable     bool
	}{
		"version A":                     {[]string{"0904000000" + "0b000100", classDescriptor}, true},
		"version B":                     {[]string{"0904000000" + "0b000200", classDescriptor}, true},
		"version B, vendor class":       {[]string{"0904000000" + "ff000200", classDescriptor}, true},
		"version B, interrupt endpoint": {[]string{"0904000001" + "0b000200", classDescriptor, interrupt}, true},
		"a version that is not known":   {[]string{"0904000000" + "0b000300", classDescriptor}, false},
		"none":                          {[]string{"0904000000" + "0b000000", classDescriptor}, false},
		"version B, no descriptor":      {[]string{"0904000000" + "0b000200"}, false},
	} {
		list, err := host.Functions(device(t, test.interfaces...))
		require.NoError(t, err, name)
		require.Len(t, list, 1, name)
		if !test.usable {
			require.ErrorIs(t, list[0].Unusable, host.ErrNotAReader, name)
			continue
		}
		require.NoError(t, list[0].Unusable, name)
		require.Nil(t, list[0].BulkIn, name)
		require.Equal(t, len(test.interfaces) > 2, list[0].Interrupt != nil, name)
	}
}

// TestTransmitThroughEachToken exchanges APDUs of all cases and lengths with every ICCD model there is.
func TestTransmitThroughEachToken(t *testing.T) {
	list := tokens(t)
	require.Len(t, list, 9)
	for _, m := range list {
		bubble(t, m.Name, func(t *testing.T) {
			a := m.Interfaces[0].Protocol == ccid.ProtocolICCDA
			protocol := uint8(1)
			if a {
				protocol = 0
			}
			r := newRig(t, virtual.Config{Model: m.Name, Cards: []card.Card{newCard(protocol)}}, host.Options{})
			require.Equal(t, m.Interfaces[0].Descriptor, descriptorBytes(t, r.reader.Function().Class), "what the token announces")
			r.connect(t)
			p, ok := r.slot.Parameters()
			require.True(t, ok)
			require.Equal(t, protocol, p.T)
			r.transmitOK(t, []byte{0x00, 0xA4, 0x00, 0x0C}, nil)
			r.transmitOK(t, []byte{0x00, 0xA4, 0x00, 0x0C, 0x02, 0x01, 0x02}, nil)
			for _, n := range []int{1, 2, 7, 8, 9, 63, 64, 65, 127, 128, 253, 254, 255, 256} {
				r.transmitOK(t, produce(t, n, false), pattern(n))
			}
			for _, n := range []int{1, 31, 63, 64, 65, 244, 245, 246, 250, 251, 252, 254, 255} {
				r.transmitOK(t, update(t, n, false), nil)
				r.transmitOK(t, echo(t, n, n, false), pattern(n))
			}
			if a {
				// T=0 takes extended APDUs in ENVELOPEs, whatever carries its TPDUs.
				for _, n := range []int{1, 256, 257, 4096, 65535} {
					r.transmitOK(t, echo(t, n, n, true), pattern(n))
				}
			}
			r.requireNoViolations(t)
		})
	}
}

func descriptorBytes(t *testing.T, d *ccid.ClassDescriptor) []byte {
	t.Helper()
	b, err := d.AppendBinary(nil)
	require.NoError(t, err)
	return b
}

// TestExtendedAPDUsThroughTokens chains both ways where the token announces extended APDUs, at different lengths of message.
func TestExtendedAPDUsThroughTokens(t *testing.T) {
	for _, message := range []uint32{0, 261, 271, 300, 4106, 65554, 1<<32 - 1} {
		bubble(t, fmt.Sprint(message), func(t *testing.T) {
			level := ccid.LevelExtendedAPDU
			r := newRig(t, virtual.Config{
				Model: tokenB, Level: &level, Cards: []card.Card{newCard(1)}, Override: func(d *ccid.ClassDescriptor) {
					d.DwMaxCCIDMessageLength = message
				},
			}, host.Options{})
			if message == 0 {
				// It means nothing: the host goes by the shortest that can be, which this token refuses.
				require.Equal(t, 261, r.reader.MaxCommand())
				return
			}
			r.connect(t)
			r.transmitOK(t, []byte{0x00, 0xA4, 0x00, 0x0C, 0x02, 0x01, 0x02}, nil)
			for _, n := range []int{1, 255, 256, 257, 261, 507, 4095, 4096, 4097, 65535} {
				r.transmitOK(t, update(t, min(n, 30000), true), nil)
				r.transmitOK(t, echo(t, n, n, true), pattern(n))
			}
			r.transmitOK(t, produce(t, 65536, true), pattern(65536))
			r.requireNoViolations(t)
		})
	}
}

// TestTokenDescriptorThatLiesChangesNothing: what it says beyond what a token can be is not believed.
func TestTokenDescriptorThatLiesChangesNothing(t *testing.T) {
	for name, v := range iccdVersions {
		bubble(t, name, func(t *testing.T) {
			c := v.config(nil)
			c.Override = func(d *ccid.ClassDescriptor) {
				d.BMaxSlotIndex, d.BMaxCCIDBusySlots, d.BPINSupport = 255, 0, 3
				d.DwFeatures, d.DwProtocols, d.BVoltageSupport, d.DwDefaultClock = 0, 0, 0, 0
				d.BNumClockSupported, d.BNumDataRatesSupported = 255, 255
			}
			r := newRig(t, c, host.Options{})
			require.Len(t, r.reader.Slots(), 1)
			r.connect(t)
			r.transmitOK(t, echo(t, 100, 100, false), pattern(100))
			r.requireNoViolations(t)
		})
	}
}

// TestExtendedAPDUsThroughATokenForShortOnes go in the way that the card says it knows, or not at all.
func TestExtendedAPDUsThroughATokenForShortOnes(t *testing.T) {
	const chaining, extendedLength = 0x80, 0x40
	for name, test := range map[string]struct {
		protocol  uint8
		functions byte
		refused   bool
	}{
		"T=1 card with chaining":        {1, chaining, false},
		"T=0 card with chaining":        {0, chaining, false},
		"T=0 card with extended length": {0, extendedLength, false},
		"T=1 card with extended length": {1, extendedLength, true},
		"T=1 card with neither":         {1, 0, true},
	} {
		bubble(t, name, func(t *testing.T) {
			c := card.New(card.NewISO(), card.Options{ATR: atrWith(test.protocol, test.functions)})
			r := newRig(t, virtual.Config{Model: tokenB, Cards: []card.Card{c}}, host.Options{})
			r.connect(t)
			for _, n := range []int{1, 255, 256, 300, 1000, 65535} {
				if test.refused && n > 255 {
					_, err := r.slot.Transmit(t.Context(), echo(t, n, n, true))
					require.ErrorIs(t, err, host.ErrExtendedAPDU)
					continue
				}
				r.transmitOK(t, echo(t, n, n, true), pattern(n))
				r.transmitOK(t, produce(t, n, true), pattern(n))
			}
			r.transmitOK(t, echo(t, 20, 20, false), pattern(20))
			r.requireNoViolations(t)
		})
	}
}

// TestTokenForShortAPDUsAnswersInParts has a response that does not fit one of the token's blocks.
func TestTokenForShortAPDUsAnswersInParts(t *testing.T) {
	bubble(t, tokenB, func(t *testing.T) {
		parts := []ccid.Response{
			{Specific: uint8(ccid.ICCDBegins), Data: []byte{1, 2}},
			{Specific: uint8(ccid.ICCDContinues), Data: []byte{3, 4}},
			{Specific: uint8(ccid.ICCDEnds), Data: []byte{0x90, 0x00}},
		}
		answer := func(c ccid.Command) (ccid.Response, bool) {
			if c.Type != ccid.TypeXfrBlock || len(parts) == 0 {
				return ccid.Response{}, false
			}
			part := parts[0]
			parts = parts[1:]
			return part, true
		}
		r := newRig(t, virtual.Config{Model: tokenB, Cards: []card.Card{newCard(1)}, Answer: answer}, host.Options{})
		r.connect(t)
		r.transmitOK(t, produce(t, 4, false), []byte{1, 2, 3, 4})
		r.requireNoViolations(t)
	})
}

// TestTokenAtWorkLengthensTheDeadline lets a card work for longer than any single wait.
func TestTokenAtWorkLengthensTheDeadline(t *testing.T) {
	for name, v := range iccdVersions {
		bubble(t, name, func(t *testing.T) {
			r := newRig(t, v.config(func(command []byte) card.Behaviour {
				return card.Behaviour{Delay: 3 * time.Minute, Extensions: []byte{1, 20, 255}}
			}), host.Options{})
			r.connect(t)
			begun := time.Now()
			got, err := r.slot.Transmit(t.Context(), generateKeyPair)
			require.NoError(t, err)
			require.Equal(t, unknown, got)
			require.Greater(t, time.Since(begun), 3*time.Minute)
			r.requireNoViolations(t)
		})
	}
}

// TestTokenThatIsAtWorkForEverIsGivenUp bounds busy and polling loops, and has the token work again.
func TestTokenThatIsAtWorkForEverIsGivenUp(t *testing.T) {
	for name, v := range iccdVersions {
		bubble(t, name, func(t *testing.T) {
			endless := true
			r := newRig(t, v.config(func([]byte) card.Behaviour {
				if !endless {
					return card.Behaviour{}
				}
				return card.Behaviour{Delay: 10 * time.Hour}
			}), host.Options{})
			r.connect(t)
			begun := time.Now()
			_, err := r.slot.Transmit(t.Context(), []byte{0, 0x84, 0, 0, 8})
			require.ErrorIs(t, err, usbtransport.ErrTimedOut)
			require.Less(t, time.Since(begun), 75*time.Second)
			endless = false
			_, err = r.slot.Transmit(t.Context(), []byte{0, 0x84, 0, 0, 8})
			require.ErrorIs(t, err, host.ErrNotPowered, "the recovery took the power")
			require.False(t, r.slot.State().Powered)
			r.connect(t)
			r.transmitOK(t, produce(t, 20, false), pattern(20))
			r.requireNoViolations(t)
		})
	}
}

// TestPowerThatARecoveryTookIsMissedAtOnce gives a command up to which neither the card nor an abort has an end: the recovery,
// which is left to the next command, takes the card's power, and that command says so.
func TestPowerThatARecoveryTookIsMissedAtOnce(t *testing.T) {
	endless := func([]byte) card.Behaviour { return card.Behaviour{Delay: 10 * time.Hour} }
	refuseAborts := func(c ccid.Command) (ccid.Response, bool) {
		return ccid.Response{
			Type: ccid.TypeSlotStatus, Slot: c.Slot, Seq: c.Seq, Status: ccid.NewStatus(ccid.ICCActive, ccid.CommandFailed), Error: ccid.ErrorSlotBusy,
		}, c.Type == ccid.TypeAbort
	}
	configs := map[string]virtual.Config{}
	for name, v := range iccdVersions {
		configs[name] = v.config(endless)
	}
	for _, level := range levels {
		configs[level.String()] = virtual.Config{
			Level: &level, Answer: refuseAborts, Cards: []card.Card{card.New(card.NewISO(), card.Options{Protocol: 1, Behave: endless})},
		}
	}
	for name, config := range configs {
		bubble(t, name, func(t *testing.T) {
			r := newRig(t, config, host.Options{})
			r.connect(t)
			_, err := r.slot.Transmit(timeout(t, 100*time.Millisecond), []byte{0, 0x84, 0, 0, 8})
			require.ErrorIs(t, err, usbtransport.ErrTimedOut)
			_, err = r.slot.Transmit(t.Context(), []byte{0, 0x84, 0, 0, 8})
			require.ErrorIs(t, err, host.ErrNotPowered)
			require.False(t, r.slot.State().Powered)
		})
	}
}

// TestLateAnswerOfATokenAnswersNothingElse gives commands up, and checks that the next one gets its own answer.
func TestLateAnswerOfATokenAnswersNothingElse(t *testing.T) {
	for name, v := range iccdVersions {
		bubble(t, name, func(t *testing.T) {
			slow := true
			r := newRig(t, v.config(func([]byte) card.Behaviour {
				if !slow {
					return card.Behaviour{}
				}
				return card.Behaviour{Delay: 400 * time.Millisecond}
			}), host.Options{})
			for range 3 {
				r.connect(t)
				slow = true
				_, err := r.slot.Transmit(timeout(t, 100*time.Millisecond), produce(t, 5, false))
				require.ErrorIs(t, err, usbtransport.ErrTimedOut)
				slow = false
				got, err := r.slot.Transmit(t.Context(), produce(t, 9, false))
				if err != nil {
					require.ErrorIs(t, err, host.ErrNotPowered)
					continue
				}
				require.Equal(t, append(pattern(9), 0x90, 0x00), got)
			}
			r.requireNoViolations(t)
		})
	}
}

func TestRequestsThatICCDDoesNotHaveAreRefused(t *testing.T) {
	for name, v := range iccdVersions {
		bubble(t, name, func(t *testing.T) {
			r := newRig(t, v.config(nil), host.Options{})
			r.connect(t)
			_, err := r.slot.Escape(t.Context(), []byte{1})
			require.ErrorIs(t, err, ccid.ErrorCommandNotSupported)
			_, err = r.slot.VerifyPIN(t.Context(), ccid.PINVerificationData{PINAPDU: []byte{0, 0x20, 0, 1}})
			require.ErrorIs(t, err, host.ErrNoPINPad)
			r.transmitOK(t, produce(t, 3, false), pattern(3))
			r.requireNoViolations(t)
		})
	}
}

func TestTokenAlwaysHasItsCard(t *testing.T) {
	for name, v := range iccdVersions {
		bubble(t, name, func(t *testing.T) {
			r := newRig(t, v.config(nil), host.Options{})
			status, err := r.slot.Status(t.Context())
			require.NoError(t, err)
			require.Equal(t, ccid.ICCInactive, status.ICC)
			require.True(t, r.slot.State().Present)
			r.connect(t)
			status, err = r.slot.Status(t.Context())
			require.NoError(t, err)
			require.Equal(t, ccid.ICCActive, status.ICC)
			require.NoError(t, r.slot.PowerOff(t.Context()))
			status, err = r.slot.Status(t.Context())
			require.NoError(t, err)
			require.Equal(t, ccid.ICCInactive, status.ICC)
			require.Zero(t, r.slot.State().Events)
			_, err = r.slot.PowerOn(t.Context(), host.WarmReset)
			require.NoError(t, err)
			r.requireNoViolations(t)
		})
	}
}

// TestTokenNotifies has a token with an interrupt endpoint tell that its card is virtually gone (ICCD 1.0 §6.1).
func TestTokenNotifies(t *testing.T) {
	bubble(t, tokenBNotifies, func(t *testing.T) {
		r := newRig(t, virtual.Config{Model: tokenBNotifies, Cards: []card.Card{newCard(1)}}, host.Options{Limits: host.Limits{Poll: time.Hour}})
		r.connect(t)
		before := r.slot.State()
		old, err := r.device.SetCard(0, nil)
		require.NoError(t, err)
		require.NoError(t, old.Close())
		state, err := r.slot.WaitChange(timeout(t, time.Minute), before)
		require.NoError(t, err)
		require.False(t, state.Present)
		_, err = r.device.SetCard(0, newCard(1))
		require.NoError(t, err)
		state, err = r.slot.WaitChange(timeout(t, time.Minute), state)
		require.NoError(t, err)
		require.True(t, state.Present)
		r.connect(t)
		r.transmitOK(t, produce(t, 3, false), pattern(3))
	})
}

// TestTokenLeftInTheMiddleIsUsable opens a token whose driver went away while it was at work.
func TestTokenLeftInTheMiddleIsUsable(t *testing.T) {
	for name, v := range iccdVersions {
		bubble(t, name, func(t *testing.T) {
			r := newRig(t, v.config(nil), host.Options{})
			r.connect(t)
			require.NoError(t, r.reader.Close())
			usb, err := r.bus.Open(t.Context(), r.info, 0)
			require.NoError(t, err)
			out := func(request uint8, value uint16, data []byte) error {
				_, err := usb.Control(t.Context(), usbtransport.Setup{RequestType: ccid.RequestTypeOut, Request: request, Value: value}, data)
				return err
			}
			if v.protocol == 0 {
				_, err = usb.Control(t.Context(), usbtransport.Setup{RequestType: ccid.RequestTypeIn, Request: ccid.ICCDPowerOn}, make([]byte, 33))
			} else {
				err = out(ccid.ICCDPowerOn, ccid.ICCDPowerOnValue, nil)
			}
			require.NoError(t, err)
			if v.protocol == 0 {
				require.NoError(t, out(ccid.ICCDXfrBlock, 0, []byte{0, 0xA4, 0, 0x0C, 2}))
			}
			require.NoError(t, usb.Close())
			r.reader, err = host.OpenFirst(t.Context(), r.bus, host.Options{})
			require.NoError(t, err)
			r.slot = r.reader.Slot(0)
			r.connect(t)
			r.transmitOK(t, produce(t, 3, false), pattern(3))
			r.requireNoViolations(t)
		})
	}
}

// TestTokenWithAMuteCard tells a card that does not answer to reset, and one that stops in the middle.
func TestTokenWithAMuteCard(t *testing.T) {
	for name, v := range iccdVersions {
		bubble(t, name, func(t *testing.T) {
			r := newRig(t, v.config(func([]byte) card.Behaviour { return card.Behaviour{Mute: true} }), host.Options{})
			r.connect(t)
			_, err := r.slot.Transmit(t.Context(), produce(t, 3, false))
			require.ErrorIs(t, err, ccid.ErrorICCMute)
			r.connect(t)
			r.requireNoViolations(t)
		})
		bubble(t, name+", no card", func(t *testing.T) {
			r := newRig(t, virtual.Config{Model: v.model}, host.Options{})
			_, err := r.slot.Connect(t.Context())
			require.Error(t, err)
			_, err = r.slot.Transmit(t.Context(), produce(t, 3, false))
			require.ErrorIs(t, err, host.ErrNotPowered)
		})
	}
}

// TestFaultAtEachTransferOfAToken has each request fail in each way that a host can see, one after the other.
func TestFaultAtEachTransferOfAToken(t *testing.T) {
	for name, v := range iccdVersions {
		for _, kind := range []virtual.FaultKind{virtual.Stall, virtual.IOError, virtual.Timeout, virtual.Drop, virtual.RemoveBefore, virtual.RemoveDuring} {
			bubble(t, fmt.Sprintf("%s, %v", name, kind), func(t *testing.T) {
				for k := 0; ; k++ {
					r := newRig(t, v.config(nil), host.Options{})
					r.connect(t)
					r.bus.Inject(virtual.FaultAt(k, virtual.Fault{Kind: kind}))
					got, err := r.slot.Transmit(t.Context(), echo(t, 40, 40, false))
					if err == nil && r.bus.Transfers() <= k {
						return
					}
					removes := kind == virtual.RemoveBefore || kind == virtual.RemoveDuring
					switch {
					case removes:
						require.ErrorIs(t, err, usbtransport.ErrRemoved)
						transfers := r.bus.Transfers()
						_, err = r.slot.Transmit(t.Context(), echo(t, 4, 4, false))
						require.ErrorIs(t, err, usbtransport.ErrRemoved)
						require.Equal(t, transfers, r.bus.Transfers())
						continue
					case err == nil:
						require.Equal(t, append(pattern(40), 0x90, 0x00), got)
					default:
						require.NotErrorIs(t, err, usbtransport.ErrRemoved)
					}
					r.bus.Inject(nil)
					if _, err = r.slot.Transmit(t.Context(), echo(t, 4, 4, false)); errors.Is(err, host.ErrNotPowered) {
						r.connect(t)
						_, err = r.slot.Transmit(t.Context(), echo(t, 4, 4, false))
					}
					require.NoError(t, err, "after a fault at transfer %d", k)
				}
			})
		}
	}
}
