package sweep

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing/synctest"
	"time"

	"github.com/goccid/goccid/apdu"
	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/virtual"
	"github.com/goccid/goccid/virtual/card"
)

// scenario is one thing that a host does with a reader.
type scenario struct {
	name   string
	config func() virtual.Config
	// prepare comes before the transfers that are counted, nil for nothing.
	prepare func(context.Context, *rig) error
	// run makes the transfers that are counted. It returns errWrong for an answer that is not the one to its command.
	run func(context.Context, *rig) error
	// aside: some transfers are made by other goroutines than the one that runs, so that their order varies, and the
	// scenario may succeed though the last of them fail.
	aside int
	// closes: the scenario closes the reader, which does not fail because the reader is gone.
	closes bool
	// opens: the scenario opens the reader itself.
	opens bool
	// holder is how long a card's holder may take, which nobody can tell from a reader that is mute.
	holder time.Duration
	// token: messages travel as ICCD has it, without number and length, so that faults which damage them can't be told.
	token bool
}

var errWrong = errors.New("wrong answer")

// scenarios are all.
var scenarios = []scenario{
	{name: "open", config: one(1, nil), opens: true, aside: 1, run: func(ctx context.Context, r *rig) error { return r.open(ctx) }},
	{name: "power-on", config: one(1, nil), prepare: opened, run: powerOn},
	{name: "PPS", config: one(1, level(ccid.LevelTPDU)), prepare: powered, run: protocol(1)},
	{name: "parameters", config: one(0, level(ccid.LevelTPDU, ccid.FeatureAutoPPS)), prepare: powered, run: protocol(0)},
	{name: "T=0", config: one(0, level(ccid.LevelTPDU)), prepare: connected, run: echoes(1, 120)},
	{name: "T=0 characters", config: one(0, level(ccid.LevelCharacter)), prepare: connected, run: echoes(3)},
	{name: "T=1 chained, WTX", config: one(1, level(ccid.LevelTPDU)), prepare: connected, run: echoes(1, slow, 600)},
	{name: "T=1 characters", config: one(1, level(ccid.LevelCharacter)), prepare: connected, run: echoes(3)},
	{name: "short APDU", config: one(1, level(ccid.LevelShortAPDU)), prepare: connected, run: echoes(1, slow)},
	{name: "extended, chained", config: one(1, level(ccid.LevelExtendedAPDU)), prepare: connected, run: echoes(slow, 700)},
	{name: "ICCD A, open", config: token("e-gate", 0), token: true, opens: true, run: func(ctx context.Context, r *rig) error { return r.open(ctx) }},
	{name: "ICCD A", config: token("e-gate", 0), token: true, prepare: opened, run: connectAndEcho(1, slow, 120)},
	{name: "ICCD B, short APDU", config: token("gemalto-pdt", 1), token: true, prepare: opened, run: connectAndEcho(1, slow)},
	{name: "ICCD B, chained", config: token("gemalto-pdt", 1, level(ccid.LevelExtendedAPDU)), token: true, prepare: opened, run: connectAndEcho(slow, 700)},
	{name: "ICCD B, notifies", config: token("gnd-starsigncardtoken350", 1), token: true, prepare: opened, run: connectAndEcho(1)},
	{name: "PIN entry", config: one(1, pinPad), prepare: connected, run: enterPIN, holder: 30 * time.Second},
	{name: "escape", config: one(1, nil), prepare: opened, run: escape},
	{name: "interrupt wait", config: one(1, nil), prepare: cardInserted, run: exchangeCards, aside: 4},
	{name: "multi-slot", config: several, prepare: connected, run: parallel, aside: 12},
	{name: "close", config: one(1, nil), prepare: connected, closes: true, aside: 1, run: func(_ context.Context, r *rig) error { return r.closeReader() }},
}

// slow is the length of an echo for which the card asks for more time.
const slow = 200

func newCard(protocol uint8) card.Card {
	return card.New(card.NewISO(), card.Options{Protocol: protocol, IFSC: 128, Behave: func(command []byte) card.Behaviour {
		if len(command) > 4 && command[1] == insEcho && command[4] == slow {
			return card.Behaviour{Extensions: []byte{2, 1}}
		}
		return card.Behaviour{}
	}})
}

// one has one slot with a card of the protocol.
func one(protocol uint8, change func(*virtual.Config)) func() virtual.Config {
	return func() virtual.Config {
		c := virtual.Config{Cards: []card.Card{newCard(protocol)}}
		if change != nil {
			change(&c)
		}
		return c
	}
}

// token is a reader and card in one.
func token(model string, protocol uint8, changes ...func(*virtual.Config)) func() virtual.Config {
	return one(protocol, func(c *virtual.Config) {
		c.Model = model
		for _, change := range changes {
			change(c)
		}
	})
}

func level(l ccid.ExchangeLevel, more ...ccid.Features) func(*virtual.Config) {
	return func(c *virtual.Config) {
		c.Level = &l
		c.Override = func(d *ccid.ClassDescriptor) {
			for _, f := range more {
				d.DwFeatures |= f
			}
		}
	}
}

func pinPad(c *virtual.Config) {
	level(ccid.LevelTPDU)(c)
	c.Override = func(d *ccid.ClassDescriptor) { d.BPINSupport = ccid.PINVerification }
}

// several has three slots that work at the same time.
func several() virtual.Config {
	return virtual.Config{
		Slots: 3, Cards: []card.Card{newCard(0), newCard(1), newCard(1)},
		Override: func(d *ccid.ClassDescriptor) { d.BMaxCCIDBusySlots = 3 },
	}
}

// opened leaves a reader open that is open, and all cards without power.
func opened(ctx context.Context, r *rig) error {
	if r.reader == nil {
		return r.open(ctx)
	}
	for _, s := range r.reader.Slots() {
		if err := s.PowerOff(ctx); err != nil {
			return err
		}
	}
	return nil
}

// cardInserted leaves a card in the first slot, that is known.
func cardInserted(ctx context.Context, r *rig) error {
	if err := r.setCard(true); err != nil {
		return err
	}
	if err := opened(ctx, r); err != nil {
		return err
	}
	_, err := r.reader.Slot(0).Status(ctx)
	return err
}

func powered(ctx context.Context, r *rig) error {
	if err := opened(ctx, r); err != nil {
		return err
	}
	return powerOn(ctx, r)
}

func connected(ctx context.Context, r *rig) error {
	if err := opened(ctx, r); err != nil {
		return err
	}
	for _, s := range r.reader.Slots() {
		if _, err := s.Connect(ctx); err != nil {
			return err
		}
	}
	return nil
}

// powerOn has more than one transfer: power off, for the cold reset, and power on.
func powerOn(ctx context.Context, r *rig) error {
	for range 2 {
		if _, err := r.reader.Slot(0).PowerOn(ctx, host.ColdReset); err != nil {
			return err
		}
	}
	return nil
}

func protocol(t uint8) func(context.Context, *rig) error {
	return func(ctx context.Context, r *rig) error { return r.reader.Slot(0).SetProtocol(ctx, t, host.MapAPDU) }
}

const insEcho = 0xEC

// echo has the card send back n bytes, which no other command has.
func echo(ctx context.Context, s *host.Slot, number, n int) error {
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(number*31 + i)
	}
	command, err := apdu.Command{CLA: 0x80, INS: insEcho, P1: byte(n >> 8), P2: byte(n), Data: data, Ne: n, Extended: n > 255}.Bytes()
	if err != nil {
		return err
	}
	got, err := s.Transmit(ctx, command)
	if err == nil && !bytes.Equal(got, append(data, 0x90, 0x00)) {
		return fmt.Errorf("%w: % X to echo %d of %d bytes", errWrong, got[:min(len(got), 16)], number, n)
	}
	return err
}

func echoes(lengths ...int) func(context.Context, *rig) error {
	return func(ctx context.Context, r *rig) error {
		for _, n := range lengths {
			r.commands++
			if err := echo(ctx, r.reader.Slot(0), r.commands, n); err != nil {
				return err
			}
		}
		return nil
	}
}

// connectAndEcho begins with the power on.
func connectAndEcho(lengths ...int) func(context.Context, *rig) error {
	return func(ctx context.Context, r *rig) error {
		if _, err := r.reader.Slot(0).Connect(ctx); err != nil {
			return err
		}
		return echoes(lengths...)(ctx, r)
	}
}

// enterPIN has the PIN entered, and then proves that card and host agree on where they are.
func enterPIN(ctx context.Context, r *rig) error {
	// What an entry that was broken off has left is taken back first.
	if err := r.device.Press("<<<<" + card.DefaultPIN + "#"); err != nil {
		return err
	}
	got, err := r.reader.Slot(0).VerifyPIN(ctx, ccid.PINVerificationData{
		BTimeOut: 30, BmFormatString: 0x82, BmPINBlockString: 0x04, WPINMaxExtraDigit: 0x0404, BEntryValidationCondition: ccid.PINKeyPressed,
		BNumberMessage: 1, WLangID: 0x0409, PINAPDU: []byte{0x00, 0x20, 0x00, 0x01, 4, 0xFF, 0xFF, 0xFF, 0xFF},
	})
	if err != nil {
		return err
	}
	if !bytes.Equal(got, []byte{0x90, 0x00}) {
		return fmt.Errorf("%w: % X to VERIFY", errWrong, got)
	}
	return echoes(1)(ctx, r)
}

func escape(ctx context.Context, r *rig) error {
	for _, n := range []int{0, 5, 100} {
		r.commands++
		data := bytes.Repeat([]byte{byte(r.commands)}, n)
		got, err := r.reader.Slot(0).Escape(ctx, data)
		if err != nil {
			return err
		}
		if !bytes.Equal(got, data) {
			return fmt.Errorf("%w: % X to escape % X", errWrong, got, data)
		}
	}
	return nil
}

// patience is for a notification that a fault took away: nobody can know that it is missing.
const patience = 10 * time.Second

// exchangeCards takes the card out while somebody waits for that, and puts one in.
func exchangeCards(ctx context.Context, r *rig) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	s := r.reader.Slot(0)
	for range 2 {
		state := s.State()
		waited := make(chan error, 1)
		go func() { waited <- awaitPresence(ctx, s, state, !state.Present) }()
		synctest.Wait()
		if err := r.setCard(!state.Present); err != nil {
			return err
		}
		if err := <-waited; err != nil {
			return err
		}
	}
	return nil
}

// awaitPresence waits for a card to come or go. What is told of cards before is passed over.
func awaitPresence(ctx context.Context, s *host.Slot, state host.CardState, present bool) error {
	for state.Present != present {
		next, err := s.WaitChange(ctx, state)
		if err != nil {
			return err
		}
		if next == state {
			return fmt.Errorf("%w: no change of %+v", errWrong, state)
		}
		state = next
	}
	return nil
}

// setCard puts a card into the first slot, or takes it out.
func (r *rig) setCard(in bool) error {
	var next card.Card
	if in {
		next = newCard(1)
	}
	last, err := r.device.SetCard(0, next)
	if err != nil || last == nil {
		return err
	}
	return last.Close()
}

// parallel uses all slots at the same time.
func parallel(ctx context.Context, r *rig) error {
	var group sync.WaitGroup
	slots := r.reader.Slots()
	errs := make([]error, len(slots))
	for i, s := range slots {
		number := r.commands + 2*i
		group.Go(func() {
			if errs[i] = echo(ctx, s, number+1, 1+i); errs[i] == nil {
				errs[i] = echo(ctx, s, number+2, 60+i)
			}
		})
	}
	r.commands += 2 * len(slots)
	group.Wait()
	return errors.Join(errs...)
}
