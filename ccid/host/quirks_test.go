package host_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/ccid/quirks"
	"github.com/goccid/goccid/virtual"
	"github.com/goccid/goccid/virtual/card"
)

// quirkRun is a virtual reader that passes for another one, and what was sent to it.
type quirkRun struct {
	*rig
	opened error

	mu    sync.Mutex
	sent  []ccid.Command
	times []time.Duration // of sent, since the opening
	reads []virtual.TransferKind
	// late is how long the answers take by their number, from 0.
	late    map[int]time.Duration
	answers int
}

// note keeps what the host transfers.
func (r *quirkRun) note(begun time.Time) virtual.FaultFunc {
	return func(t virtual.Transfer) virtual.Fault {
		r.mu.Lock()
		defer r.mu.Unlock()
		if t.Kind != virtual.BulkOutTransfer {
			if len(r.sent) == 0 {
				r.reads = append(r.reads, t.Kind)
			}
			if t.Kind != virtual.BulkInTransfer {
				return virtual.Fault{}
			}
			r.answers++
			return virtual.Fault{Kind: virtual.Delay, Delay: r.late[r.answers-1]}
		}
		if c, err := ccid.ParseCommand(t.Data); err == nil {
			c.Data = slices.Clone(c.Data)
			r.sent, r.times = append(r.sent, c), append(r.times, time.Since(begun))
		}
		return virtual.Fault{}
	}
}

// commands returns what was sent of these types, or all.
func (r *quirkRun) commands(types ...ccid.MessageType) []ccid.Command {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []ccid.Command
	for _, c := range r.sent {
		if len(types) == 0 || slices.Contains(types, c.Type) {
			list = append(list, c)
		}
	}
	return list
}

func (r *quirkRun) powers() string {
	var list []string
	for _, c := range r.commands(ccid.TypeIccPowerOn, ccid.TypeIccPowerOff) {
		list = append(list, map[ccid.MessageType]string{ccid.TypeIccPowerOn: "on", ccid.TypeIccPowerOff: "off"}[c.Type])
	}
	return strings.Join(list, " ")
}

func (r *quirkRun) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent = nil
}

// quirkCase is one kind of action. The same reader is opened without and with the row.
type quirkCase struct {
	// keys are the settings that it is about.
	keys string
	// id is that of a built-in row; with text it is of a row of the test's own.
	id, text string
	// The reader passes for vid:pid with this version.
	vid, pid, version uint16
	config            func() virtual.Config
	// late is how long the reader's answers take by their number, from 0.
	late map[int]time.Duration
	// peculiar, when set, says how the reader answers, in place of its own way.
	peculiar func() func(ccid.Command) (ccid.Response, bool)
	// see does something and returns what came of it.
	see           func(t *testing.T, r *quirkRun) any
	without, with any
}

// tables returns the quirks without and with the row.
func (c quirkCase) tables(t *testing.T) (without, with *quirks.Table) {
	t.Helper()
	extend := func(table *quirks.Table, text string) *quirks.Table {
		table, err := table.Extend("test.toml", []byte(text))
		require.NoError(t, err)
		return table
	}
	if c.text != "" {
		return nil, extend(nil, fmt.Sprintf("[[quirk]]\nid = %q\nreader = [\"*:*\"]\n%s", c.id, c.text))
	}
	builtin, err := quirks.Load("")
	require.NoError(t, err)
	const change = "[[quirk]]\nid = \"change\"\nreader = [\"*:*\"]\n%s = [%q]"
	return extend(builtin, fmt.Sprintf(change, "disable", c.id)), extend(builtin, fmt.Sprintf(change, "enable", c.id))
}

func (c quirkCase) run(t *testing.T, table *quirks.Table) any {
	t.Helper()
	config := virtual.Config{}
	if c.config != nil {
		config = c.config()
	}
	if c.peculiar != nil {
		config.Answer = c.peculiar()
	}
	device, err := virtual.NewReader(config)
	require.NoError(t, err)
	r := &quirkRun{rig: &rig{bus: virtual.NewBus(), device: device}, late: c.late}
	r.info, err = r.bus.Plug(device)
	require.NoError(t, err)
	defer func() {
		require.NoError(t, r.bus.Close())
		require.NoError(t, device.Close())
	}()
	if c.vid != 0 {
		r.info.IDVendor, r.info.IDProduct, r.info.BCDDevice = c.vid, c.pid, c.version
	}
	r.bus.Inject(r.note(time.Now()))
	r.reader, r.opened = host.Open(t.Context(), r.bus, r.info, 0, host.Options{Quirks: table})
	if r.opened == nil {
		defer func() { require.NoError(t, r.reader.Close()) }()
		r.slot = r.reader.Slot(0)
	}
	return c.see(t, r)
}

func withCards(level ccid.ExchangeLevel, cards ...card.Card) virtual.Config {
	return virtual.Config{Level: &level, Cards: cards, Slots: len(cards)}
}

func tpduT1() virtual.Config { return withCards(ccid.LevelTPDU, card.NewT1()) }

// hostDoesAll takes the automatic features away from a reader.
func hostDoesAll(c virtual.Config, change func(*ccid.ClassDescriptor)) virtual.Config {
	c.Override = func(d *ccid.ClassDescriptor) {
		d.DwFeatures &^= ccid.FeatureAutoParameters | ccid.FeatureAutoPPS | ccid.FeatureAutoIFSD | ccid.FeatureAutoVoltage | ccid.FeatureAutoActivation
		if change != nil {
			change(d)
		}
	}
	return c
}

func fastT1(level ccid.ExchangeLevel, slots int) virtual.Config {
	var cards []card.Card
	for range slots {
		cards = append(cards, card.New(card.NewISO(), card.Options{Protocol: 1, TA1: 0x96}))
	}
	return hostDoesAll(withCards(level, cards...), func(d *ccid.ClassDescriptor) {
		d.DwDefaultClock, d.DwMaxDataRate, d.BNumDataRatesSupported, d.DwMaxIFSD, d.BVoltageSupport = 4000, 400000, 0, 254, 7
	})
}

func parameters(t *testing.T, s *host.Slot) host.Parameters {
	t.Helper()
	_, err := s.Connect(t.Context())
	require.NoError(t, err)
	p, ok := s.Parameters()
	require.True(t, ok)
	return p
}

// failing answers commands of one type with a failure.
func failing(kind ccid.MessageType, code ccid.ErrorCode, icc ccid.ICCStatus) func() func(ccid.Command) (ccid.Response, bool) {
	return func() func(ccid.Command) (ccid.Response, bool) {
		return func(c ccid.Command) (ccid.Response, bool) {
			answer, _ := c.Type.ResponseType()
			return ccid.Response{Type: answer, Slot: c.Slot, Seq: c.Seq, Status: ccid.NewStatus(icc, ccid.CommandFailed), Error: code}, c.Type == kind
		}
	}
}

// workingFor is a card that takes this long for a command, and does not ask for more time.
func workingFor(d time.Duration) *card.ICC {
	return card.New(card.NewISO(), card.Options{Protocol: 1, Patience: -1, Behave: func([]byte) card.Behaviour { return card.Behaviour{Delay: d} }})
}

func statusesSent(r *quirkRun) int { return len(r.commands(ccid.TypeGetSlotStatus)) }

var openPGP = []byte{0x3B, 0xFA, 0x13, 0x00, 0xFF, 0x81, 0x31, 0x80, 0x45, 0x00, 0x31, 0xC1, 0x73, 0xC0, 0x01, 0x00, 0x00, 0x90, 0x00, 0xB1}

func quirkCases() []quirkCase {
	return []quirkCase{{
		keys: "refused", id: "scr331-firmware", vid: 0x04E6, pid: 0xE001, version: 0x0500,
		see: func(t *testing.T, r *quirkRun) any {
			if r.opened == nil {
				return "opened"
			}
			var refused *host.RefusedError
			require.ErrorAs(t, r.opened, &refused)
			require.Empty(t, r.sent)
			return refused.Error()
		},
		without: "opened",
		with: "refused: firmware before 5.16: listed as faulty by the reference driver; " +
			`to use the reader all the same, write a quirk for it that has disable = ["scr331-firmware"]`,
	}, {
		keys: "name", id: "front-desk", text: `set.name = "Front desk"`,
		config:  func() virtual.Config { return virtual.Config{SerialNumber: "1234"} },
		see:     func(_ *testing.T, r *quirkRun) any { return r.reader.Name() },
		without: "Gemalto PC Twin Reader (1234) 00 00", with: "Front desk (1234) 00 00",
	}, {
		keys: "descriptor.protocols", id: "speaks-t1", text: "set.descriptor.protocols = 3",
		config: func() virtual.Config {
			c := tpduT1()
			c.Override = func(d *ccid.ClassDescriptor) { d.DwProtocols = 1 }
			return c
		},
		see: func(t *testing.T, r *quirkRun) any {
			_, err := r.slot.Connect(t.Context())
			return errors.Is(err, host.ErrProtocol)
		},
		without: true, with: false,
	}, {
		keys: "descriptor.max_ifsd", id: "mysmartpad-ifsd", vid: 0x09BE, pid: 0x0002,
		config: func() virtual.Config {
			return hostDoesAll(tpduT1(), func(d *ccid.ClassDescriptor) { d.DwMaxIFSD = 0 })
		},
		see:     func(t *testing.T, r *quirkRun) any { return parameters(t, r.slot).IFSD },
		without: 32, with: 254,
	}, {
		keys: "descriptor.max_message_length", id: "message-length-263", vid: 0x1234, pid: 0x5678,
		config: func() virtual.Config {
			return virtual.Config{Override: func(d *ccid.ClassDescriptor) { d.DwMaxCCIDMessageLength = 263 }}
		},
		see:     func(_ *testing.T, r *quirkRun) any { return r.reader.MaxCommand() },
		without: 253, with: 261,
	}, {
		keys: "descriptor.level", id: "pn7362-chaining", vid: 0x2F7C, pid: 0x6007,
		config: func() virtual.Config { return withCards(ccid.LevelShortAPDU, card.NewT1()) },
		peculiar: func() func(ccid.Command) (ccid.Response, bool) {
			return func(c ccid.Command) (ccid.Response, bool) {
				r := ccid.Response{Type: ccid.TypeDataBlock, Slot: c.Slot, Seq: c.Seq, Specific: 1, Data: pattern(4)}
				if len(c.Data) == 0 {
					r.Specific, r.Data = 2, []byte{0x90, 0x00}
				}
				return r, c.Type == ccid.TypeXfrBlock
			}
		},
		see: func(t *testing.T, r *quirkRun) any {
			r.connect(t)
			answer, err := r.slot.Transmit(t.Context(), produce(t, 4, false))
			require.NoError(t, err)
			return len(answer)
		},
		without: 4, with: 6,
	}, {
		keys: "descriptor.set_features", id: "sets-parameters", text: "set.descriptor.set_features = 0x40",
		config: func() virtual.Config { return fastT1(ccid.LevelTPDU, 1) },
		see: func(t *testing.T, r *quirkRun) any {
			// This reader can't do what the row claims; that it is believed is what counts.
			_, _ = r.slot.Connect(t.Context())
			return len(r.commands(ccid.TypeSetParameters))
		},
		without: 1, with: 0,
	}, {
		keys: "descriptor.clear_features", id: "no-automatic-voltage", text: "set.descriptor.clear_features = 0x0C",
		config: func() virtual.Config {
			c := tpduT1()
			c.Override = func(d *ccid.ClassDescriptor) { d.DwFeatures |= ccid.FeatureAutoVoltage; d.BVoltageSupport = 7 }
			return c
		},
		see:     firstVoltage,
		without: ccid.PowerAutomatic, with: ccid.Power5V,
	}, {
		keys: "usb.swallow_zlp", id: "spurious-zlp", vid: 0x08E6, pid: 0x3437, version: 0x0200,
		see:     func(_ *testing.T, r *quirkRun) any { return slices.Contains(r.reads, virtual.BulkInTransfer) },
		without: false, with: true,
	}, {
		keys: "usb.interrupt_first", id: "interrupt-first", text: `set.usb.interrupt_first = "10ms"`,
		see: func(_ *testing.T, r *quirkRun) any {
			return len(slices.DeleteFunc(r.reads, func(k virtual.TransferKind) bool { return k != virtual.InterruptInTransfer }))
		},
		without: 1, with: 2,
	}, {
		keys: "usb.poll", id: "poll", text: "set.usb.poll = true",
		see: func(t *testing.T, r *quirkRun) any { return asksFor(t, r, 10*time.Second) > 20 }, without: false, with: true,
	}, {
		keys: "timing.poll", id: "poll-slowly", text: "set.usb.poll = true\nset.timing.poll = \"5s\"",
		see: func(t *testing.T, r *quirkRun) any {
			n := asksFor(t, r, 11*time.Second)
			return n >= 3 && n <= 4
		},
		without: false, with: true,
	}, {
		keys: "timing.warm_up_delay", id: "cl1356d-boot", vid: 0x0B81, pid: 0x0200,
		see: func(_ *testing.T, r *quirkRun) any { return r.times[0] >= time.Second }, without: false, with: true,
	}, {
		keys: "timing.warm_up_timeout", id: "slow-start", text: `set.timing.warm_up_timeout = "20s"`,
		late: map[int]time.Duration{0: 10 * time.Second},
		see:  func(_ *testing.T, r *quirkRun) any { return r.opened == nil && statusesSent(r) == 1 }, without: false, with: true,
	}, {
		keys: "timing.status_timeout", id: "slow-status", text: `set.timing.status_timeout = "20s"`,
		late: map[int]time.Duration{1: 10 * time.Second},
		see: func(t *testing.T, r *quirkRun) any {
			require.NoError(t, r.opened)
			_, err := r.slot.Status(t.Context())
			return err == nil
		},
		without: false, with: true,
	}, {
		keys: "timing.t1_allowance", id: "fusion-key-generation", vid: 0x08E6, pid: 0x34D2,
		config: func() virtual.Config {
			c := withCards(ccid.LevelExtendedAPDU, workingFor(4*time.Minute))
			c.WaitingTime = 10 * time.Minute
			return c
		},
		see: func(t *testing.T, r *quirkRun) any {
			r.connect(t)
			_, err := r.slot.Transmit(t.Context(), produce(t, 4, false))
			return err == nil
		},
		without: false, with: true,
	}, {
		keys: "timing.silence", id: "impatient", text: `set.timing.silence = "5s"`,
		config: func() virtual.Config {
			c := withCards(ccid.LevelExtendedAPDU, workingFor(time.Hour))
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
		keys: "timing.exchange", id: "patient", text: `set.timing.exchange = "20m"`,
		config: func() virtual.Config {
			c := withCards(ccid.LevelExtendedAPDU, card.New(card.NewISO(), card.Options{
				Protocol: 1, Patience: 10 * time.Second, Behave: func([]byte) card.Behaviour { return card.Behaviour{Delay: 10 * time.Minute} },
			}))
			c.WaitingTime = time.Hour
			return c
		},
		see: func(t *testing.T, r *quirkRun) any {
			r.connect(t)
			_, err := r.slot.Transmit(t.Context(), produce(t, 4, false))
			return err == nil
		},
		without: false, with: true,
	}, {
		keys: "power.voltage", id: "three-volts", text: `set.power.voltage = "3 V"`,
		config:  func() virtual.Config { return fastT1(ccid.LevelTPDU, 1) },
		see:     firstVoltage,
		without: ccid.Power5V, with: ccid.Power3V,
	}, {
		keys: "power.off_before_on", id: "idtoken-power", vid: 0x0D46, pid: 0x301D,
		config: tpduT1,
		see: func(t *testing.T, r *quirkRun) any {
			r.connect(t)
			r.forget()
			_, err := r.slot.PowerOn(t.Context(), host.WarmReset)
			require.NoError(t, err)
			return r.powers()
		},
		without: "on", with: "off on",
	}, {
		keys: "power.retry_escape power.retry_on", id: "emv-to-iso", vid: 0x08E6, pid: 0x4433,
		config: tpduT1,
		peculiar: func() func(ccid.Command) (ccid.Response, bool) {
			iso, refuse := false, failing(ccid.TypeIccPowerOn, 0xBB, ccid.ICCInactive)()
			return func(c ccid.Command) (ccid.Response, bool) {
				iso = iso || c.Type == ccid.TypeEscape && slices.Equal(c.Data, []byte{0x1F, 0x01})
				if iso {
					return ccid.Response{}, false
				}
				return refuse(c)
			}
		},
		see: func(t *testing.T, r *quirkRun) any {
			_, err := r.slot.PowerOn(t.Context(), host.ColdReset)
			return err == nil
		},
		without: false, with: true,
	}, {
		keys: "power.presence_by_power_on", id: "simpro-presence", vid: 0x08E6, pid: 0x3480, version: 0x0100,
		config:   tpduT1,
		peculiar: failing(ccid.TypeIccPowerOn, ccid.ErrorICCMute, ccid.ICCInactive),
		see: func(t *testing.T, r *quirkRun) any {
			require.True(t, r.slot.State().Present, "before power on")
			_, err := r.slot.PowerOn(t.Context(), host.ColdReset)
			require.Error(t, err)
			_, err = r.slot.Status(t.Context())
			require.NoError(t, err)
			return r.slot.State().Present
		},
		without: true, with: false,
	}, {
		keys: "protocol.max_data_rate", id: "au9540-rates", vid: 0x058F, pid: 0x9540,
		config:  func() virtual.Config { return fastT1(ccid.LevelTPDU, 1) },
		see:     func(t *testing.T, r *quirkRun) any { return parameters(t, r.slot).FD },
		without: byte(0x96), with: byte(0x95),
	}, {
		keys: "protocol.secondary_slot_data_rates", id: "pospro-secondary-rates", vid: 0x08E6, pid: 0x3479,
		config: func() virtual.Config { return fastT1(ccid.LevelTPDU, 2) },
		see: func(t *testing.T, r *quirkRun) any {
			return [2]byte{parameters(t, r.slot).FD, parameters(t, r.reader.Slot(1)).FD}
		},
		without: [2]byte{0x96, 0x96}, with: [2]byte{0x96, 0x95},
	}, {
		keys: "protocol.no_pps", id: "oz776-pps", vid: 0x0B97, pid: 0x7772,
		config: func() virtual.Config {
			// It is only T=1 that it would take a PPS for: at this rate limit the default rate is used anyway.
			return hostDoesAll(withCards(ccid.LevelTPDU, card.New(card.NewISO(), card.Options{ATR: []byte{0x3B, 0x80, 0x80, 0x01, 0x01}})),
				func(d *ccid.ClassDescriptor) { d.DwProtocols = 3 })
		},
		see: func(t *testing.T, r *quirkRun) any {
			_, err := r.slot.PowerOn(t.Context(), host.ColdReset)
			require.NoError(t, err)
			err = r.slot.SetProtocol(t.Context(), 1, host.MapAPDU)
			if err != nil {
				require.ErrorIs(t, err, host.ErrProtocol)
			}
			return len(r.commands(ccid.TypeXfrBlock)) > 0
		},
		without: true, with: false,
	}, {
		keys: "protocol.set_parameters_may_fail", id: "au9540-set-parameters", vid: 0x058F, pid: 0x9540,
		config:   func() virtual.Config { return withoutRates(fastT1(ccid.LevelTPDU, 1)) },
		peculiar: failing(ccid.TypeSetParameters, ccid.ErrorHardware, ccid.ICCActive),
		see: func(t *testing.T, r *quirkRun) any {
			// This reader takes nothing by itself; real ones of this kind do after the warm reset.
			_, _ = r.slot.Connect(t.Context())
			return strings.Contains(r.powers(), "off on on")
		},
		without: false, with: true,
	}, {
		keys: "protocol.no_ifsd", id: "etoken-ifsd", vid: 0x0529, pid: 0x0620, version: 0x0012,
		config: func() virtual.Config { return fastT1(ccid.LevelTPDU, 1) },
		see: func(t *testing.T, r *quirkRun) any {
			require.Equal(t, 254, parameters(t, r.slot).IFSD)
			return slices.ContainsFunc(r.commands(ccid.TypeXfrBlock), func(c ccid.Command) bool {
				const ifsRequest = 0xC1
				return len(c.Data) > 1 && c.Data[0] == 0 && c.Data[1] == ifsRequest
			})
		},
		without: true, with: false,
	}, {
		keys: "protocol.min_bwi", id: "openpgp-v1-bwi", vid: 0x1234, pid: 0x5678,
		config: func() virtual.Config {
			return hostDoesAll(withCards(ccid.LevelTPDU, card.New(card.NewISO(), card.Options{ATR: openPGP})), nil)
		},
		see: func(t *testing.T, r *quirkRun) any {
			_, err := r.slot.Connect(t.Context())
			require.NoError(t, err)
			sent := r.commands(ccid.TypeSetParameters)
			require.NotEmpty(t, sent)
			return sent[0].Data[3]
		},
		without: byte(0x45), with: byte(0x75),
	}, {
		keys: "exchange.avoid_multiple_of", id: "oz776-block-size", vid: 0x1234, pid: 0x5678,
		config: func() virtual.Config { return withCards(ccid.LevelCharacter, card.NewT1()) },
		see: func(t *testing.T, r *quirkRun) any {
			r.connect(t)
			answer, err := r.slot.Transmit(t.Context(), produce(t, 51, false))
			require.NoError(t, err)
			require.Len(t, answer, 53)
			return slices.ContainsFunc(r.commands(ccid.TypeXfrBlock), func(c ccid.Command) bool {
				return (ccid.HeaderLength+int(c.Specific[1])+int(c.Specific[2])<<8)%64 == 0
			})
		},
		without: true, with: false,
	}, {
		keys: "exchange.identity_apdus", id: "idtoken-identity", vid: 0x0D46, pid: 0x301D, version: 0x0123,
		config: tpduT1,
		see: func(t *testing.T, r *quirkRun) any {
			r.connect(t)
			answer, err := r.slot.Transmit(t.Context(), []byte{0xFF, 0x9A, 0x01, 0x06, 0x00})
			require.NoError(t, err)
			return string(answer)
		},
		without: "\x90\x00", with: "1.23\x90\x00",
	}, {
		keys: "pin_pad.off", id: "ltc31-no-pin-pad", vid: 0x0783, pid: 0x0006,
		config: func() virtual.Config {
			return virtual.Config{Override: func(d *ccid.ClassDescriptor) { d.BPINSupport = 3 }}
		},
		see:     func(_ *testing.T, r *quirkRun) any { return r.reader.Class().BPINSupport != 0 },
		without: true, with: false,
	}, {
		keys: "escape.at_open", id: "gempc-pinpad-retries", vid: 0x08E6, pid: 0x3478,
		see: func(_ *testing.T, r *quirkRun) any {
			var list []string
			for _, c := range r.commands(ccid.TypeEscape) {
				list = append(list, hex.EncodeToString(c.Data))
			}
			return slices.Contains(list, "b500")
		},
		without: false, with: true,
	}}
}

// withoutRates is for readers whose limit on the data rate is not what a case is about.
func withoutRates(c virtual.Config) virtual.Config {
	change := c.Override
	c.Override = func(d *ccid.ClassDescriptor) { change(d); d.DwMaxDataRate = 10753 }
	return c
}

func firstVoltage(t *testing.T, r *quirkRun) any {
	t.Helper()
	// Whether a reader likes it is not what this is about.
	_, _ = r.slot.PowerOn(t.Context(), host.ColdReset)
	return ccid.PowerSelect(r.commands(ccid.TypeIccPowerOn)[0].Specific[0])
}

// asksFor returns how often the reader is asked for the slot's state while somebody waits for a card.
func asksFor(t *testing.T, r *quirkRun, d time.Duration) int {
	t.Helper()
	r.forget()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	_, err := r.slot.WaitChange(ctx, r.slot.State())
	require.Error(t, err)
	return statusesSent(r)
}

// TestQuirksChangeWhatTheDriverDoes opens the same reader without and with a row of each kind.
func TestQuirksChangeWhatTheDriverDoes(t *testing.T) {
	for _, c := range append(quirkCases(), pinQuirkCases()...) {
		bubble(t, c.keys+" by "+c.id, func(t *testing.T) {
			without, with := c.tables(t)
			require.Equal(t, c.without, c.run(t, without), "without the row")
			require.Equal(t, c.with, c.run(t, with), "with the row")
		})
	}
}

// elsewhere are settings that other code acts on, with tests of its own.
var elsewhere = []string{"pin_pad.mct", "escape.always", "escape.allow"}

func TestEveryKindOfQuirkIsTested(t *testing.T) {
	tested := map[string]bool{}
	for _, c := range append(quirkCases(), pinQuirkCases()...) {
		for _, key := range strings.Fields(c.keys) {
			tested[key] = true
		}
	}
	var walk func(v reflect.Type, path string)
	walk = func(v reflect.Type, path string) {
		for i := range v.NumField() {
			f := v.Field(i)
			key := path + f.Tag.Get("toml")
			if f.Type.Kind() == reflect.Struct && f.Type.NumField() > 0 {
				walk(f.Type, key+".")
				continue
			}
			if !tested[key] && !slices.ContainsFunc(elsewhere, func(prefix string) bool { return strings.HasPrefix(key, prefix) }) {
				t.Errorf("no case for %s", key)
			}
		}
	}
	walk(reflect.TypeFor[quirks.Settings](), "")
}
