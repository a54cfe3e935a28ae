package host_test

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/ccid/quirks"
	"github.com/goccid/goccid/virtual"
	"github.com/goccid/goccid/virtual/card"
)

// fastT0 is a reader that leaves all to the host, with a card for Fi/Di 95.
func fastT0(features ccid.Features) virtual.Config {
	return hostDoesAll(withCards(ccid.LevelTPDU, card.New(card.NewISO(), card.Options{TA1: 0x95})), func(d *ccid.ClassDescriptor) {
		d.DwDefaultClock, d.DwMaxDataRate, d.BNumDataRatesSupported = 4000, 400000, 0
		d.DwFeatures &^= ccid.FeatureAutoBaudRate | ccid.FeatureAutoClock
		d.DwFeatures |= features
	})
}

// saying is a reader that answers SetParameters and GetParameters with these Fi/Di, 0 for an answer without data and -1 for
// what was set.
func saying(set, get int) func() func(ccid.Command) (ccid.Response, bool) {
	return func() func(ccid.Command) (ccid.Response, bool) {
		wanted := byte(0x11)
		return func(c ccid.Command) (ccid.Response, bool) {
			r := ccid.Response{Type: ccid.TypeParameters, Slot: c.Slot, Seq: c.Seq}
			says := get
			switch c.Type {
			case ccid.TypeSetParameters:
				wanted, says = c.Data[0], set
			case ccid.TypeGetParameters:
			default:
				return r, false
			}
			if says != 0 {
				fd := byte(says)
				if says < 0 {
					fd = wanted
				}
				r.Data = ccid.ParametersT0{BmFindexDindex: fd, BWaitingIntegerT0: 10}.Bytes()
			}
			return r, true
		}
	}
}

func TestParametersThatWereSetAreReadBack(t *testing.T) {
	for name, test := range map[string]struct {
		features ccid.Features
		set, get int
		asked    int // GetParameters sent
		want     byte
	}{
		"the answer says what was set":                     {ccid.FeatureAutoBaudRate, -1, 0x11, 0, 0x95},
		"the answer has nothing":                           {ccid.FeatureAutoBaudRate, 0, -1, 1, 0x95},
		"the answer says something else, wrongly":          {ccid.FeatureAutoBaudRate, 0x11, -1, 1, 0x95},
		"nothing is said at all":                           {ccid.FeatureAutoBaudRate, 0, 0, 1, 0x95},
		"reader at another speed than the card after PPS":  {ccid.FeatureAutoBaudRate, 0x11, 0x11, 5, 0x11},
		"reader that makes PPS by itself, and came to 94":  {ccid.FeatureAutoBaudRate | ccid.FeatureAutoPPS, 0x94, 0x94, 1, 0x94},
		"reader that makes PPS by itself, reserved values": {ccid.FeatureAutoBaudRate | ccid.FeatureAutoPPS, 0x78, 0x7F, 1, 0x95},
	} {
		bubble(t, name, func(t *testing.T) {
			c := quirkCase{
				config: func() virtual.Config { return fastT0(test.features) }, peculiar: saying(test.set, test.get),
				see: func(t *testing.T, r *quirkRun) any {
					fd := parameters(t, r.slot).FD
					if test.asked != 5 {
						require.Len(t, r.commands(ccid.TypeGetParameters), test.asked)
					}
					return fd
				},
			}
			require.Equal(t, test.want, c.run(t, nil))
		})
	}
}

// TestParametersThatAreNotToldAreAskedForOnce has a reader that is silent when it is asked.
func TestParametersThatAreNotToldAreAskedForOnce(t *testing.T) {
	bubble(t, "silent", func(t *testing.T) {
		c := quirkCase{
			config: func() virtual.Config { return fastT0(ccid.FeatureAutoBaudRate) }, peculiar: saying(0, 0),
			see: func(t *testing.T, r *quirkRun) any {
				asked := 0
				r.bus.Inject(func(transfer virtual.Transfer) virtual.Fault {
					if transfer.Kind == virtual.BulkOutTransfer && transfer.Data[0] == byte(ccid.TypeGetParameters) {
						asked++
						return virtual.Fault{Kind: virtual.Drop}
					}
					return virtual.Fault{}
				})
				for range 3 {
					require.Equal(t, byte(0x95), parameters(t, r.slot).FD)
				}
				return asked
			},
		}
		require.Equal(t, 1, c.run(t, nil))
	})
}

// TestDataRateIsSetWhereTheReaderDoesNotFollow has readers of which dwFeatures says that they follow the parameters, and that they
// don't, with the answers that those may give.
func TestDataRateIsSetWhereTheReaderDoesNotFollow(t *testing.T) {
	answering := func(kind ccid.MessageType, status ccid.CommandStatus, code ccid.ErrorCode, data ...byte) func() func(ccid.Command) (ccid.Response, bool) {
		return func() func(ccid.Command) (ccid.Response, bool) {
			return func(c ccid.Command) (ccid.Response, bool) {
				return ccid.Response{
					Type: kind, Slot: c.Slot, Seq: c.Seq, Status: ccid.NewStatus(ccid.ICCActive, status), Error: code, Data: data,
				}, c.Type == ccid.TypeSetDataRateAndClockFrequency
			}
		}
	}
	const rates = ccid.TypeDataRateAndClockFrequency
	slow := binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, 4000), 10752)
	for name, test := range map[string]struct {
		features ccid.Features
		peculiar func() func(ccid.Command) (ccid.Response, bool)
		sent     int // at least
		want     byte
	}{
		"reader that follows":                {ccid.FeatureAutoBaudRate, nil, 0, 0x95},
		"reader that takes the rate":         {0, nil, 1, 0x95},
		"reader that takes another rate":     {0, answering(rates, ccid.CommandOK, 0, slow...), 2, 0x11},
		"reader that does not know it":       {0, answering(rates, ccid.CommandFailed, ccid.ErrorCommandNotSupported), 1, 0x95},
		"reader that fails":                  {0, answering(rates, ccid.CommandFailed, ccid.ErrorHardware), 2, 0x11},
		"reader that says nothing of itself": {0, answering(rates, ccid.CommandOK, 0), 2, 0x11},
	} {
		bubble(t, name, func(t *testing.T) {
			c := quirkCase{
				config: func() virtual.Config { return fastT0(test.features) }, peculiar: test.peculiar,
				see: func(t *testing.T, r *quirkRun) any {
					fd := parameters(t, r.slot).FD
					sent := r.commands(ccid.TypeSetDataRateAndClockFrequency)
					require.Equal(t, test.sent > 0, len(sent) > 0)
					require.GreaterOrEqual(t, len(sent), test.sent)
					if test.sent > 0 {
						require.Equal(t, uint32(4000), binary.LittleEndian.Uint32(sent[0].Data), "kHz")
						require.Equal(t, uint32(4_000_000*16/512), binary.LittleEndian.Uint32(sent[0].Data[4:]), "bit/s")
					}
					return fd
				},
			}
			require.Equal(t, test.want, c.run(t, nil))
		})
	}
}

// TestRowsAboutACardChangeAllThatDependsOnIt has rows with the ATR of the card, and the same ones with another ATR.
func TestRowsAboutACardChangeAllThatDependsOnIt(t *testing.T) {
	raw := []byte{0x3B, 0x90, 0x95, 0x81, 0x31, 0xFE, 0x45, 0x0E}
	tpdu := func() virtual.Config {
		c := fastT1(ccid.LevelTPDU, 0)
		c.Cards, c.Slots = []card.Card{card.New(card.NewISO(), card.Options{ATR: raw})}, 1
		return c
	}
	pin := func() virtual.Config {
		c := pinPad()
		c.Cards = []card.Card{card.New(card.NewISO(), card.Options{ATR: raw})}
		return c
	}
	lastVoltage := func(t *testing.T, r *quirkRun) any {
		_, err := r.slot.PowerOn(t.Context(), host.ColdReset)
		require.NoError(t, err)
		on := r.commands(ccid.TypeIccPowerOn)
		return ccid.PowerSelect(on[len(on)-1].Specific[0])
	}
	for _, c := range []quirkCase{{
		text: `set.power.voltage = "3 V"`, config: tpdu, see: lastVoltage, without: ccid.Power5V, with: ccid.Power3V,
	}, {
		text: `set.power.off_before_on = true`, config: tpdu,
		see: func(t *testing.T, r *quirkRun) any {
			r.connect(t)
			r.forget()
			_, err := r.slot.PowerOn(t.Context(), host.WarmReset)
			require.NoError(t, err)
			return r.powers()
		},
		without: "on", with: "off on",
	}, {
		text: `set.protocol.max_data_rate = 20000`, config: tpdu,
		see:     func(t *testing.T, r *quirkRun) any { return parameters(t, r.slot).FD },
		without: byte(0x95), with: byte(0x92),
	}, {
		text: `set.protocol.no_ifsd = true`, config: tpdu,
		see: func(t *testing.T, r *quirkRun) any {
			require.Equal(t, 254, parameters(t, r.slot).IFSD)
			return slices.ContainsFunc(r.commands(ccid.TypeXfrBlock), func(c ccid.Command) bool { return len(c.Data) > 1 && c.Data[1] == 0xC1 })
		},
		without: true, with: false,
	}, {
		text: `set.descriptor.max_ifsd = 100`, config: tpdu,
		see:     func(t *testing.T, r *quirkRun) any { return parameters(t, r.slot).IFSD },
		without: 254, with: 100,
	}, {
		text: `set.timing.silence = "5s"`,
		config: func() virtual.Config {
			c := withCards(ccid.LevelExtendedAPDU, card.New(card.NewISO(), card.Options{
				ATR: raw, Patience: -1, Behave: func([]byte) card.Behaviour { return card.Behaviour{Delay: time.Hour} },
			}))
			c.WaitingTime = 2 * time.Hour
			return c
		},
		see: func(t *testing.T, r *quirkRun) any {
			r.connect(t)
			_, err := r.slot.Transmit(t.Context(), produce(t, 4, false))
			var silent *host.NoAnswerError
			require.ErrorAs(t, err, &silent)
			return silent.Waited
		},
		without: time.Minute, with: 5 * time.Second,
	}, {
		text: `set.exchange.identity_apdus = true`, config: tpdu,
		see: func(t *testing.T, r *quirkRun) any {
			r.connect(t)
			answer, err := r.slot.Transmit(t.Context(), []byte{0xFF, 0x9A, 0x01, 0x06, 0x00})
			require.NoError(t, err)
			return len(answer) > 2
		},
		without: false, with: true,
	}, {
		text: `set.pin_pad.verify.number_message = 0`, config: pin,
		peculiar: particular(func(data []byte) bool { return data[verifyNumber] == 0 }), see: verifies(nil), without: false, with: true,
	}} {
		bubble(t, c.text, func(t *testing.T) {
			for condition, want := range map[string]any{
				fmt.Sprintf("atr = \"% X\"\n", raw):                c.with,
				"atr = \"3B 90 95 81 31 FE 45 0F\"\n":              c.without,
				fmt.Sprintf("interface = 0\natr = \"% X\"\n", raw): c.with,
				fmt.Sprintf("interface = 1\natr = \"% X\"\n", raw): c.without,
			} {
				table, err := (*quirks.Table)(nil).Extend("test.toml", []byte("[[quirk]]\nid = \"card\"\nreader = [\"*:*\"]\n"+condition+c.text))
				require.NoError(t, err)
				require.Equal(t, want, c.run(t, table), strings.TrimSpace(condition))
			}
		})
	}
}

// TestSlowStatusLengthensTheRecovery has a reader that takes 3 s for GetSlotStatus, and stops answering once.
func TestSlowStatusLengthensTheRecovery(t *testing.T) {
	steps := func(t *testing.T, row string) []host.RecoveryStep {
		table, err := (*quirks.Table)(nil).Extend("test.toml", []byte(row))
		require.NoError(t, err)
		c := quirkCase{
			config: tpduT1,
			see: func(t *testing.T, r *quirkRun) any {
				r.connect(t)
				slow := false
				dropped := false
				r.bus.Inject(func(transfer virtual.Transfer) virtual.Fault {
					switch {
					case transfer.Kind == virtual.BulkOutTransfer && !dropped && transfer.Data[0] == byte(ccid.TypeXfrBlock):
						dropped, slow = true, true
						return virtual.Fault{Kind: virtual.Drop}
					case transfer.Kind == virtual.BulkInTransfer && slow:
						return virtual.Fault{Kind: virtual.Delay, Delay: 3 * time.Second}
					}
					return virtual.Fault{}
				})
				_, err := r.slot.Transmit(t.Context(), produce(t, 4, false))
				var silent *host.NoAnswerError
				require.ErrorAs(t, err, &silent)
				r.bus.Inject(nil)
				return silent.Recovery.Tried
			},
		}
		return c.run(t, table).([]host.RecoveryStep)
	}
	bubble(t, "without and with the row", func(t *testing.T) {
		require.Greater(t, len(steps(t, "")), 1)
		require.Equal(t, []host.RecoveryStep{host.StepAbort}, steps(t, "[[quirk]]\nid = \"slow\"\nreader = [\"*:*\"]\nset.timing.status_timeout = \"4s\"\n"))
	})
}
