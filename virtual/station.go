package virtual

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/goccid/goccid/virtual/card"
)

// Station is a reader with somebody who puts cards into it and takes them out, as Specs say. All methods may be called from
// several goroutines at once.
type Station struct {
	*Reader

	// turn is held by who puts cards in or takes them out. It guards the fields below.
	turn   sync.Mutex
	slots  []occupant
	closed bool
}

// occupant is what a Station has put into a slot; its Kind is NoCard for nothing.
type occupant struct {
	CardSpec
	keeper *keeper // of cards from outside
}

// keeper keeps a slot filled with cards from outside.
type keeper struct {
	listener net.Listener // nil where we connect to the card
	cancel   context.CancelFunc
	ended    chan struct{}
}

// What a Station refuses, to be tested with errors.Is.
var (
	// ErrNoSlot: the reader has no such slot.
	ErrNoSlot = errors.New("virtual: the reader has no such slot")
	// ErrOccupied: there is a card in the slot, or one is waited for.
	ErrOccupied = errors.New("virtual: the slot has a card already")
	// ErrEmpty: there is no card in the slot to be taken out.
	ErrEmpty = errors.New("virtual: the slot has no card")

	errStationClosed = errors.New("virtual: the reader is closed")
)

// Start makes the reader. Cards that have to be connected to must be there within ctx; cards that connect to us may
// come, go and come again until they are removed.
func (s Spec) Start(ctx context.Context) (*Station, error) {
	r, err := NewReader(s.Config)
	if err != nil {
		return nil, err
	}
	station := &Station{Reader: r, slots: make([]occupant, r.Slots())}
	for slot, c := range s.Cards {
		if err := station.Insert(ctx, slot, c); err != nil {
			return nil, errors.Join(err, station.Close())
		}
	}
	return station, nil
}

// Insert puts a card into a slot that has none; one of kind NoCard changes nothing. A card that has to be connected to
// must be there within ctx. Slots count over all interfaces of the reader, from 0. The error is ErrNoSlot or ErrOccupied, or
// says why a card from outside can't be had.
func (s *Station) Insert(ctx context.Context, slot int, c CardSpec) error {
	s.turn.Lock()
	defer s.turn.Unlock()
	switch {
	case s.closed:
		return errStationClosed
	case slot < 0 || slot >= len(s.slots):
		return fmt.Errorf("%w: %d", ErrNoSlot, slot)
	case s.slots[slot].Kind != NoCard:
		return fmt.Errorf("%w: slot %d", ErrOccupied, slot)
	}
	var err error
	next := occupant{CardSpec: c}
	switch c.Kind {
	case CardT0:
		s.replace(slot, card.NewT0())
	case CardT1:
		s.replace(slot, card.NewT1())
	case CardVPCD:
		next.keeper, err = s.keepCalling(ctx, slot, c.Address)
	case CardVPCDListen:
		next.keeper, err = s.keepListening(ctx, slot, c.Address)
	}
	if err == nil {
		s.slots[slot] = next
	}
	return err
}

// Remove takes out what Insert has put into a slot, and ends it. The error is ErrNoSlot or ErrEmpty, or that of a
// connection to a card outside.
func (s *Station) Remove(slot int) error {
	s.turn.Lock()
	defer s.turn.Unlock()
	if slot < 0 || slot >= len(s.slots) {
		return fmt.Errorf("%w: %d", ErrNoSlot, slot)
	}
	if s.slots[slot].Kind == NoCard {
		return fmt.Errorf("%w: slot %d", ErrEmpty, slot)
	}
	return s.empty(slot)
}

// empty wants turn held.
func (s *Station) empty(slot int) error {
	before := s.slots[slot]
	s.slots[slot] = occupant{}
	if before.keeper != nil {
		before.keeper.end()
		return nil
	}
	// The slot exists: Insert has used it.
	if c, _ := s.SetCard(slot, nil); c != nil {
		return c.Close()
	}
	return nil
}

// Inserted tells what has been put into each slot.
func (s *Station) Inserted() []CardSpec {
	s.turn.Lock()
	defer s.turn.Unlock()
	list := make([]CardSpec, len(s.slots))
	for i, o := range s.slots {
		list[i] = o.CardSpec
	}
	return list
}

// Listeners are the addresses at which cards are waited for, in the order of their slots.
func (s *Station) Listeners() []net.Addr {
	s.turn.Lock()
	defer s.turn.Unlock()
	var list []net.Addr
	for _, o := range s.slots {
		if o.keeper != nil && o.keeper.listener != nil {
			list = append(list, o.keeper.listener.Addr())
		}
	}
	return list
}

// Close takes all cards out and ends them. A reader that is plugged in has to be unplugged first.
func (s *Station) Close() error {
	s.turn.Lock()
	defer s.turn.Unlock()
	s.closed = true
	var list []error
	for i := range s.slots {
		list = append(list, s.empty(i))
	}
	return errors.Join(append(list, s.Reader.Close())...)
}

// keepCalling connects to a card, and again whenever it has gone.
func (s *Station) keepCalling(ctx context.Context, slot int, address string) (*keeper, error) {
	remote, err := card.DialVPCD(ctx, address)
	if err != nil {
		return nil, err
	}
	return s.keep(slot, nil, remote, func(ctx context.Context) (*card.Remote, error) { return redial(ctx, address) }), nil
}

// keepListening waits for cards that connect to us.
func (s *Station) keepListening(ctx context.Context, slot int, address string) (*keeper, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("virtual: wait for a card: %w", err)
	}
	return s.keep(slot, l, nil, func(ctx context.Context) (*card.Remote, error) { return card.AcceptVPCD(ctx, l.(*net.TCPListener)) }), nil
}

// keep starts to keep a slot filled: with first, unless that is nil, and then with what next returns.
func (s *Station) keep(slot int, l net.Listener, first *card.Remote, next func(context.Context) (*card.Remote, error)) *keeper {
	life, cancel := context.WithCancel(context.Background())
	k := &keeper{listener: l, cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(k.ended)
		s.attend(life, slot, first, next)
	}()
	return k
}

// end takes out the card that is there, and waits until nothing more comes.
func (k *keeper) end() {
	k.cancel()
	<-k.ended
	if k.listener != nil {
		_ = k.listener.Close() // nobody was left waiting
	}
}

// redialInterval is how long to wait before a card that went is called again.
const redialInterval = time.Second

func redial(ctx context.Context, address string) (*card.Remote, error) {
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(redialInterval):
		}
		if remote, err := card.DialVPCD(ctx, address); err == nil {
			return remote, nil
		}
	}
}

// attend keeps a slot filled with cards from outside, one after another, until ctx ends.
func (s *Station) attend(ctx context.Context, slot int, remote *card.Remote, next func(context.Context) (*card.Remote, error)) {
	for {
		if remote == nil {
			var err error
			if remote, err = next(ctx); err != nil {
				return
			}
		}
		icc := card.New(remote, card.Options{})
		s.replace(slot, icc)
		select {
		case <-remote.Gone():
		case <-ctx.Done():
		}
		s.replace(slot, nil)
		_ = icc.Close() // a connection that is at its end
		remote = nil
	}
}

// replace puts a card in, and leaves the one that was there to its owner.
func (s *Station) replace(slot int, c card.Card) {
	// The slot exists: Insert has checked it.
	_, _ = s.SetCard(slot, c)
}
