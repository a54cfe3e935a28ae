package host_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/apdu"
	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/internal/pintest"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/virtual"
	"github.com/goccid/goccid/virtual/card"
)

// pinSetting is a level of exchange and a card.
type pinSetting struct {
	name  string
	level ccid.ExchangeLevel
	card  card.Options
}

var pinSettings = []pinSetting{
	{"TPDU T=0", ccid.LevelTPDU, card.Options{}},
	{"TPDU T=1 LRC", ccid.LevelTPDU, card.Options{Protocol: 1}},
	{"TPDU T=1 CRC", ccid.LevelTPDU, card.Options{Protocol: 1, CRC: true}},
	{"short APDU T=0", ccid.LevelShortAPDU, card.Options{}},
	{"short APDU T=1", ccid.LevelShortAPDU, card.Options{Protocol: 1}},
	{"extended APDU T=0", ccid.LevelExtendedAPDU, card.Options{}},
	{"extended APDU T=1", ccid.LevelExtendedAPDU, card.Options{Protocol: 1}},
}

func (s pinSetting) isT1TPDU() bool { return s.level == ccid.LevelTPDU && s.card.Protocol == 1 }

// rig makes a reader with a PIN pad, and a card in it that is ready.
func (s pinSetting) rig(t testing.TB, change func(*virtual.Config)) *rig {
	t.Helper()
	c := virtual.Config{
		Level: &s.level, Cards: []card.Card{card.New(card.NewISO(), s.card)},
		Override: func(d *ccid.ClassDescriptor) { d.BPINSupport = ccid.PINVerification | ccid.PINModification },
	}
	if change != nil {
		change(&c)
	}
	r := newRig(t, c, host.Options{})
	r.connect(t)
	return r
}

// ready makes a new session where the last one is lost, and then proves that it goes on.
func (r *rig) ready(t testing.TB) {
	t.Helper()
	if !r.slot.State().Powered {
		_, err := r.slot.Transmit(t.Context(), produce(t, 5, false))
		require.ErrorIs(t, err, host.ErrNotPowered)
		r.connect(t)
	}
	r.alive(t)
}

// alive proves that the card's session goes on.
func (r *rig) alive(t testing.TB) {
	t.Helper()
	for _, n := range []int{5, 6} {
		got, err := r.slot.Transmit(t.Context(), produce(t, n, false))
		require.NoError(t, err)
		require.Equal(t, append(pattern(n), 0x90, 0x00), got)
	}
	r.requireNoViolations(t)
}

// pinOperation is VerifyPIN or ModifyPIN, with the keys that they need.
type pinOperation struct {
	name string
	do   func(context.Context, *host.Slot) ([]byte, error)
	keys string
}

var (
	verification = ccid.PINVerificationData{
		BTimeOut: 30, BmFormatString: 0x82, BmPINBlockString: 0x04, WPINMaxExtraDigit: 0x0404, BEntryValidationCondition: ccid.PINKeyPressed,
		BNumberMessage: 1, WLangID: 0x0409, PINAPDU: []byte{0x00, 0x20, 0x00, 0x01, 4, 0xFF, 0xFF, 0xFF, 0xFF},
	}
	growing = ccid.PINVerificationData{
		BTimeOut: 30, BmFormatString: 0x82, WPINMaxExtraDigit: 0x0408, BEntryValidationCondition: ccid.PINKeyPressed,
		BNumberMessage: 0xFF, PINAPDU: []byte{0x00, 0x20, 0x00, 0x01},
	}
	modification = ccid.PINModificationData{
		BTimeOut: 30, BmFormatString: 0x82, BmPINBlockString: 0x04, WPINMaxExtraDigit: 0x0404, BInsertionOffsetNew: 4,
		BConfirmPIN: 3, BEntryValidationCondition: ccid.PINKeyPressed, BNumberMessage: 3, WLangID: 0x0409, BMsgIndex: [3]uint8{0, 1, 2},
		PINAPDU: []byte{0x00, 0x24, 0x00, 0x01, 8, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF},
	}
	pinOperations = []pinOperation{
		{"verify", func(ctx context.Context, s *host.Slot) ([]byte, error) { return s.VerifyPIN(ctx, verification) }, "1234#"},
		{"verify, length by the reader", func(ctx context.Context, s *host.Slot) ([]byte, error) { return s.VerifyPIN(ctx, growing) }, "1234#"},
		{"modify", func(ctx context.Context, s *host.Slot) ([]byte, error) { return s.ModifyPIN(ctx, modification) }, "1234#5678#5678#"},
	}
)

// eachPIN runs f in a bubble for each setting and operation.
func eachPIN(t *testing.T, f func(t *testing.T, s pinSetting, o pinOperation)) {
	t.Helper()
	for _, s := range pinSettings {
		for _, o := range pinOperations {
			bubble(t, s.name+", "+o.name, func(t *testing.T) { f(t, s, o) })
		}
	}
}

func TestPINIsEntered(t *testing.T) {
	eachPIN(t, func(t *testing.T, s pinSetting, o pinOperation) {
		r := s.rig(t, nil)
		r.alive(t)
		require.NoError(t, r.device.Press(o.keys))
		got, err := o.do(t.Context(), r.slot)
		require.NoError(t, err)
		require.Equal(t, []byte{0x90, 0x00}, got)
		r.alive(t)
		require.NoError(t, r.device.Press("9876#5555#5555#"))
		got, err = o.do(t.Context(), r.slot)
		require.NoError(t, err)
		require.Equal(t, []byte{0x63, 0xC2}, got, "the card's answer to a wrong PIN")
		r.alive(t)
	})
}

// TestPINIsEnteredSlowly has a holder who takes 5 s for a key, and a card that asks for more time, too.
func TestPINIsEnteredSlowly(t *testing.T) {
	eachPIN(t, func(t *testing.T, s pinSetting, o pinOperation) {
		s.card.Patience = -1
		s.card.Behave = func(command []byte) card.Behaviour {
			if command[1] == 0x20 || command[1] == 0x24 {
				return card.Behaviour{Extensions: []byte{2, 5}, Delay: 2 * time.Second}
			}
			return card.Behaviour{}
		}
		r := s.rig(t, nil)
		go func() {
			for _, key := range o.keys {
				time.Sleep(5 * time.Second)
				_ = r.device.Press(string(key))
			}
		}()
		begun := time.Now()
		got, err := o.do(t.Context(), r.slot)
		require.NoError(t, err)
		require.Equal(t, []byte{0x90, 0x00}, got)
		require.Greater(t, time.Since(begun), time.Duration(len(o.keys))*5*time.Second)
		r.alive(t)
	})
}

// TestPINEntryMayTakeLongerThanOtherOperations has a holder who takes 20 s for a key, at a reader that has time, and says so.
func TestPINEntryMayTakeLongerThanOtherOperations(t *testing.T) {
	own := verification
	own.BTimeOut = 0
	change := modification
	change.BTimeOut = 0
	for _, o := range []pinOperation{
		{"verify", func(ctx context.Context, s *host.Slot) ([]byte, error) { return s.VerifyPIN(ctx, own) }, "1234#"},
		{"modify", func(ctx context.Context, s *host.Slot) ([]byte, error) { return s.ModifyPIN(ctx, change) }, "1234#5678#5678#"},
	} {
		for _, s := range pinSettings {
			bubble(t, s.name+", "+o.name, func(t *testing.T) {
				r := s.rig(t, func(c *virtual.Config) { c.PINPad.TimeOut = 2 * time.Minute })
				go func() {
					for _, key := range o.keys {
						time.Sleep(20 * time.Second)
						_ = r.device.Press(string(key))
					}
				}()
				begun := time.Now()
				got, err := o.do(t.Context(), r.slot)
				require.NoError(t, err)
				require.Equal(t, []byte{0x90, 0x00}, got)
				require.GreaterOrEqual(t, time.Since(begun), time.Duration(len(o.keys))*20*time.Second)
				r.alive(t)
			})
		}
	}
}

// TestPINEntryThatTheHolderEnds has both ways in which readers tell of it.
func TestPINEntryThatTheHolderEnds(t *testing.T) {
	for _, answers := range []virtual.PINAnswers{virtual.PINErrors, virtual.PINStatusWords} {
		for keys, want := range map[string][]byte{"12c": {0x64, 0x01}, "12": {0x64, 0x00}, "": {0x64, 0x00}} {
			t.Run(fmt.Sprintf("keys %q, answers %d", keys, answers), func(t *testing.T) {
				t.Parallel()
				eachPIN(t, func(t *testing.T, s pinSetting, o pinOperation) {
					r := s.rig(t, func(c *virtual.Config) { c.PINPad.Answers = answers })
					r.alive(t)
					require.NoError(t, r.device.Press(keys))
					got, err := o.do(t.Context(), r.slot)
					require.NoError(t, err)
					require.Equal(t, want, got)
					r.alive(t)
					require.NoError(t, r.device.Press("<<<<"+o.keys))
					got, err = o.do(t.Context(), r.slot)
					require.NoError(t, err)
					require.Equal(t, []byte{0x90, 0x00}, got)
					r.alive(t)
				})
			})
		}
	}
}

func TestNewPINThatIsNotConfirmed(t *testing.T) {
	for _, s := range pinSettings {
		bubble(t, s.name, func(t *testing.T) {
			r := s.rig(t, nil)
			require.NoError(t, r.device.Press("1234#5678#5679#"))
			got, err := r.slot.ModifyPIN(t.Context(), modification)
			require.NoError(t, err)
			require.Equal(t, []byte{0x64, 0x02}, got)
			r.alive(t)
		})
	}
}

// TestPINEntryIsAbortedWithItsCaller cancels before a key, in the middle, and while the card works on the command.
func TestPINEntryIsAbortedWithItsCaller(t *testing.T) {
	eachPIN(t, func(t *testing.T, s pinSetting, o pinOperation) {
		for _, keys := range []string{"", "12", o.keys} {
			busy := false
			options := s.card
			options.Patience = -1
			options.Behave = func(command []byte) card.Behaviour {
				if busy && (command[1] == 0x20 || command[1] == 0x24) {
					return card.Behaviour{Delay: 3 * time.Second}
				}
				return card.Behaviour{}
			}
			setting := pinSetting{s.name, s.level, options}
			r := setting.rig(t, nil)
			r.alive(t)
			busy = true
			require.NoError(t, r.device.Press(keys))
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errors.New("client left"))
			begun := time.Now()
			_, err := o.do(ctx, r.slot)
			cancel()
			require.ErrorIs(t, err, usbtransport.ErrTimedOut)
			require.Less(t, time.Since(begun), 3*time.Second)
			busy = false
			if s.level == ccid.LevelTPDU && s.card.Protocol == 0 {
				require.False(t, r.slot.State().Powered, "nobody knows whether the card is at the command")
				r.ready(t)
				continue
			}
			if len(keys) < len(o.keys) {
				require.NoError(t, r.device.Press("c"))
				got, err := o.do(t.Context(), r.slot)
				require.NoError(t, err, "%q", keys)
				require.Equal(t, []byte{0x64, 0x01}, got)
				r.alive(t)
				continue
			}
			// The card was given up in the middle of a command: what it said of that must not pass for an answer to the
			// next one.
			for range 2 {
				got, err := r.slot.Transmit(t.Context(), produce(t, 7, false))
				if err == nil {
					require.Equal(t, append(pattern(7), 0x90, 0x00), got)
				}
			}
			r.requireNoViolations(t)
		}
	})
}

func TestPINEntryEndsWithCardOrReader(t *testing.T) {
	eachPIN(t, func(t *testing.T, s pinSetting, o pinOperation) {
		for _, gone := range []struct {
			what func(r *rig)
			want error
		}{
			{func(r *rig) {
				if c, err := r.device.SetCard(0, nil); err == nil {
					_ = c.Close()
				}
			}, host.ErrNoCard},
			{func(r *rig) { r.bus.Unplug(r.device) }, usbtransport.ErrRemoved},
			{func(r *rig) { r.reader.SetRemoved() }, usbtransport.ErrRemoved},
			{func(r *rig) { _ = r.reader.Close() }, usbtransport.ErrClosed},
		} {
			r := s.rig(t, nil)
			require.NoError(t, r.device.Press("12"))
			done := make(chan struct{})
			go func() {
				defer close(done)
				time.Sleep(3 * time.Second)
				gone.what(r)
			}()
			begun := time.Now()
			_, err := o.do(t.Context(), r.slot)
			require.ErrorIs(t, err, gone.want)
			require.Less(t, time.Since(begun), 5*time.Second)
			<-done
			r.requireNoViolations(t)
		}
	})
}

// TestShortAnswersToPINEntry has readers that answer with less than a response, or a block, can be.
func TestShortAnswersToPINEntry(t *testing.T) {
	for n := range 8 {
		for _, first := range []byte{0x00, 0x64, 0x6B, 0x90} {
			t.Run(fmt.Sprintf("%d bytes from %02X", n, first), func(t *testing.T) {
				t.Parallel()
				eachPIN(t, func(t *testing.T, s pinSetting, o pinOperation) {
					answer := slices.Repeat([]byte{first}, n)
					r := s.rig(t, func(c *virtual.Config) {
						c.Answer = func(command ccid.Command) (ccid.Response, bool) {
							return ccid.Response{Type: ccid.TypeDataBlock, Slot: command.Slot, Seq: command.Seq, Data: answer}, command.Type == ccid.TypeSecure
						}
					})
					r.alive(t)
					got, err := o.do(t.Context(), r.slot)
					switch {
					case !s.isT1TPDU() && n >= 2, n == 2 && (first == 0x64 || first == 0x6B):
						require.NoError(t, err)
						require.Equal(t, answer, got)
					default:
						require.Error(t, err)
						require.Empty(t, got)
					}
					r.ready(t)
				})
			})
		}
	}
}

// TestPINEntryThatTheReaderRefuses has errors after which the card has seen nothing, and others.
func TestPINEntryThatTheReaderRefuses(t *testing.T) {
	for _, code := range []ccid.ErrorCode{0, 1, 13, 0x7F, ccid.ErrorHardware, ccid.ErrorCommandAborted, ccid.ErrorICCMute, ccid.ErrorXfrParity, 0xC0} {
		t.Run(code.String(), func(t *testing.T) {
			t.Parallel()
			eachPIN(t, func(t *testing.T, s pinSetting, o pinOperation) {
				refused := 0
				r := s.rig(t, func(c *virtual.Config) {
					c.Answer = func(command ccid.Command) (ccid.Response, bool) {
						if command.Type == ccid.TypeSecure {
							refused++
						}
						return ccid.Response{
							Type: ccid.TypeDataBlock, Slot: command.Slot, Seq: command.Seq, Status: ccid.NewStatus(ccid.ICCActive, ccid.CommandFailed), Error: code,
						}, command.Type == ccid.TypeSecure && refused == 1
					}
				})
				r.alive(t)
				_, err := o.do(t.Context(), r.slot)
				require.Error(t, err)
				if code != ccid.ErrorICCMute && code != ccid.ErrorXfrParity || !s.isT1TPDU() {
					require.ErrorIs(t, err, code)
				}
				r.alive(t)
				require.NoError(t, r.device.Press(o.keys))
				got, err := o.do(t.Context(), r.slot)
				require.NoError(t, err)
				require.Equal(t, []byte{0x90, 0x00}, got)
				r.alive(t)
			})
		})
	}
}

// TestPINOnABusySlotIsAskedForAgain has a reader that is at something else for a while.
func TestPINOnABusySlotIsAskedForAgain(t *testing.T) {
	eachPIN(t, func(t *testing.T, s pinSetting, o pinOperation) {
		busy := 3
		r := s.rig(t, func(c *virtual.Config) {
			c.Answer = func(command ccid.Command) (ccid.Response, bool) {
				if command.Type == ccid.TypeSecure {
					busy--
				}
				return ccid.Response{
					Type: ccid.TypeDataBlock, Slot: command.Slot, Seq: command.Seq, Status: ccid.NewStatus(ccid.ICCActive, ccid.CommandFailed), Error: ccid.ErrorSlotBusy,
				}, command.Type == ccid.TypeSecure && busy > 0
			}
		})
		require.NoError(t, r.device.Press(o.keys))
		got, err := o.do(t.Context(), r.slot)
		require.NoError(t, err)
		require.Equal(t, []byte{0x90, 0x00}, got)
		r.alive(t)
	})
}

// TestReaderThatNeverEndsAPINEntry says nothing, or asks for time for ever.
func TestReaderThatNeverEndsAPINEntry(t *testing.T) {
	eachPIN(t, func(t *testing.T, s pinSetting, o pinOperation) {
		r := s.rig(t, func(c *virtual.Config) { c.PINPad.TimeOut = 24 * time.Hour })
		r.bus.Inject(func(transfer virtual.Transfer) virtual.Fault {
			if transfer.Kind == virtual.BulkOutTransfer && transfer.Data[0] == byte(ccid.TypeSecure) {
				return virtual.Fault{Kind: virtual.Drop}
			}
			return virtual.Fault{}
		})
		begun := time.Now()
		_, err := o.do(t.Context(), r.slot)
		var none *host.NoAnswerError
		require.ErrorAs(t, err, &none)
		require.True(t, none.Recovery.Recovered)
		require.Greater(t, time.Since(begun), 90*time.Second)
		require.Less(t, time.Since(begun), 5*time.Minute)
		r.bus.Inject(nil)
		r.ready(t)
	})
	for _, s := range pinSettings {
		bubble(t, s.name+", time extensions", func(t *testing.T) {
			r := s.rig(t, func(c *virtual.Config) { c.PINPad.TimeOut = 24 * time.Hour })
			forever := verification
			forever.BTimeOut = 0
			begun := time.Now()
			_, err := r.slot.VerifyPIN(t.Context(), forever)
			var none *host.NoAnswerError
			require.ErrorAs(t, err, &none)
			require.Greater(t, none.Ceiling, 2*time.Minute)
			require.Less(t, time.Since(begun), 3*time.Minute)
			r.ready(t)
		})
	}
}

func TestPINPadThatIsNotThere(t *testing.T) {
	for _, s := range pinSettings {
		t.Run(s.name, func(t *testing.T) {
			r := s.rig(t, func(c *virtual.Config) {
				c.Override = func(d *ccid.ClassDescriptor) { d.BPINSupport = ccid.PINVerification }
			})
			require.Equal(t, ccid.PINVerification, r.reader.PINSupport())
			_, err := r.slot.ModifyPIN(t.Context(), modification)
			require.ErrorIs(t, err, host.ErrNoPINPad)
			r.alive(t)
		})
	}
	t.Run("character", func(t *testing.T) {
		r := pinSetting{level: ccid.LevelCharacter}.rig(t, nil)
		require.Zero(t, r.reader.PINSupport())
		_, err := r.slot.VerifyPIN(t.Context(), verification)
		require.ErrorIs(t, err, host.ErrNoPINPad)
		r.alive(t)
	})
}

func TestPINEntryWithoutAReadyCard(t *testing.T) {
	s := pinSettings[0]
	r := newRig(t, virtual.Config{
		Level: &s.level, Cards: []card.Card{card.NewT0()}, Override: func(d *ccid.ClassDescriptor) { d.BPINSupport = 3 },
	}, host.Options{})
	_, err := r.slot.VerifyPIN(t.Context(), verification)
	require.ErrorIs(t, err, host.ErrNotPowered)
	_, err = r.slot.PowerOn(t.Context(), host.ColdReset)
	require.NoError(t, err)
	_, err = r.slot.VerifyPIN(t.Context(), verification)
	require.ErrorIs(t, err, host.ErrNoProtocol)
	r.requireNoViolations(t)
}

func TestPINStructuresThatCannotBeSent(t *testing.T) {
	for _, s := range pinSettings {
		t.Run(s.name, func(t *testing.T) {
			r := s.rig(t, nil)
			none, long, number := verification, verification, modification
			none.PINAPDU, long.PINAPDU, number.BNumberMessage = []byte{0, 0x20, 0}, make([]byte, 300), 4
			_, err := r.slot.VerifyPIN(t.Context(), none)
			require.ErrorIs(t, err, ccid.ErrMessage)
			_, err = r.slot.VerifyPIN(t.Context(), long)
			require.ErrorIs(t, err, host.ErrTooLong)
			_, err = r.slot.ModifyPIN(t.Context(), number)
			require.ErrorIs(t, err, ccid.ErrMessage)
			r.alive(t)
		})
	}
	t.Run("card with a small IFSC", func(t *testing.T) {
		r := pinSetting{"", ccid.LevelTPDU, card.Options{Protocol: 1, IFSC: 8}}.rig(t, nil)
		_, err := r.slot.VerifyPIN(t.Context(), verification)
		require.ErrorIs(t, err, host.ErrTooLong)
		r.alive(t)
	})
}

// TestConditionsThatDoNotExistAreReplaced has what applications send in the field.
func TestConditionsThatDoNotExistAreReplaced(t *testing.T) {
	for _, condition := range []ccid.PINCondition{0, 8, 0xFF} {
		r := pinSettings[0].rig(t, nil)
		v, m := verification, modification
		v.BEntryValidationCondition, m.BEntryValidationCondition = condition, condition
		require.NoError(t, r.device.Press("1234#1234#5678#5678#"))
		for _, do := range []func() ([]byte, error){
			func() ([]byte, error) { return r.slot.VerifyPIN(t.Context(), v) },
			func() ([]byte, error) { return r.slot.ModifyPIN(t.Context(), m) },
		} {
			got, err := do()
			require.NoError(t, err)
			require.Equal(t, []byte{0x90, 0x00}, got)
		}
		r.requireNoViolations(t)
	}
}

// TestPINAnswersOfSeveralBlocks has a card whose answer to the command with the PIN is chained.
func TestPINAnswersOfSeveralBlocks(t *testing.T) {
	for _, s := range pinSettings {
		if s.card.Protocol == 0 {
			continue // T=0 has GET RESPONSE for it, which is the application's
		}
		t.Run(s.name, func(t *testing.T) {
			r := s.rig(t, nil)
			p := growing
			p.PINAPDU = []byte{0x80, 0xEC, 0x00, 0xFA, 4, 0xFF, 0xFF, 0xFF, 0xFF, 0x00} // echo, 250 bytes
			p.BmPINBlockString, p.WPINMaxExtraDigit = 4, 0x0404
			require.NoError(t, r.device.Press("1234#"))
			got, err := r.slot.VerifyPIN(t.Context(), p)
			require.NoError(t, err)
			response, err := apdu.ParseResponse(got)
			require.NoError(t, err)
			require.Len(t, response.Data, 250)
			require.Equal(t, apdu.StatusWord(0x9000), response.SW)
			r.alive(t)
		})
	}
}

// FuzzPINEntry has a reader that answers a Secure message, and what follows it, as it likes. Nothing but an error or a
// response may come of it, in time.
func FuzzPINEntry(f *testing.F) {
	f.Add(uint8(1), true, []byte{0, 0, 6, 0x00, 0x00, 0x02, 0x90, 0x00, 0x92})
	f.Add(uint8(1), false, []byte{0x40, 0xEF, 0})
	f.Add(uint8(2), true, []byte{0, 0, 2, 0x64, 0x01})
	f.Add(uint8(1), true, []byte{0x80, 1, 0, 0, 0, 5, 0x00, 0xC3, 0x01, 0x05, 0xC7, 0, 0, 1, 0})
	f.Add(uint8(5), false, []byte{0, 0, 1, 0x90})
	f.Add(uint8(0), true, []byte{0x42, 0xFE, 0})
	f.Fuzz(func(t *testing.T, setting uint8, verify bool, tape []byte) {
		if len(tape) > 1<<10 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			s, lying := pinSettings[int(setting)%len(pinSettings)], false
			take := func() (b byte) {
				if len(tape) > 0 {
					b, tape = tape[0], tape[1:]
				}
				return b
			}
			r := s.rig(t, func(c *virtual.Config) {
				c.Answer = func(command ccid.Command) (ccid.Response, bool) {
					if !lying || len(tape) == 0 || command.Type != ccid.TypeSecure && command.Type != ccid.TypeXfrBlock {
						return ccid.Response{}, false
					}
					answer := ccid.Response{Type: ccid.TypeDataBlock, Slot: command.Slot, Seq: command.Seq}
					answer.Status, answer.Error = ccid.Status(take()), ccid.ErrorCode(take())
					for range min(int(take()), len(tape)) {
						answer.Data = append(answer.Data, take())
					}
					return answer, true
				}
			})
			lying = true
			operation := pinOperations[2]
			if verify {
				operation = pinOperations[0]
			}
			require.NoError(t, r.device.Press("c"))
			begun := time.Now()
			got, err := operation.do(t.Context(), r.slot)
			require.Less(t, time.Since(begun), 20*time.Minute)
			if err != nil {
				require.Nil(t, got)
			} else {
				require.GreaterOrEqual(t, len(got), 2)
			}
			lying = false
			_, _ = r.slot.Transmit(t.Context(), produce(t, 5, false))
		})
	})
}

// TestTraceHasNothingOfAPINEntry looks for the command and for what the card answers, here the PIN itself.
func TestTraceHasNothingOfAPINEntry(t *testing.T) {
	for _, s := range pinSettings {
		t.Run(s.name, func(t *testing.T) {
			logger, hook := logtest.NewNullLogger()
			logger.SetLevel(logrus.TraceLevel)
			r := newRig(t, virtual.Config{
				Level: &s.level, Cards: []card.Card{card.New(card.NewISO(), s.card)}, Override: func(d *ccid.ClassDescriptor) { d.BPINSupport = 3 },
			}, host.Options{Logger: logger})
			r.connect(t)
			p := growing
			p.PINAPDU = []byte{0x80, 0xEC, 0x00, 0x00}
			require.NoError(t, r.device.Press("1234#"))
			_, err := r.slot.VerifyPIN(t.Context(), p)
			require.NoError(t, err)
			frames := 0
			for _, e := range hook.AllEntries() {
				if strings.Contains(e.Message, "Secure") {
					frames++
				}
				require.Empty(t, pintest.FindPIN([]byte(e.Message), "1234"), e.Message)
				require.NotContains(t, e.Message, "80 EC")
			}
			require.NotZero(t, frames)
			r.alive(t)
		})
	}
}
