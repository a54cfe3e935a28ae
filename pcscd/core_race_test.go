package pcscd_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ifdhandler"
	"github.com/goccid/goccid/pcscd"
	"github.com/goccid/goccid/pcscd/pcscdtest"
	"github.com/goccid/goccid/pcscd/wire"
)

// TestHammer lets clients, cards, readers and the power-off of unused cards meet in real time, for the race detector. Each
// function must work now and then, an answer is the right one, and nothing is left in the end.
func TestHammer(t *testing.T) {
	const (
		clients = 6
		howLong = 2 * time.Second
	)
	w := newWorld(t, card(), pcscd.Options{PowerOffGrace: 50 * time.Microsecond})
	var done [8]atomic.Int64 // how often each function worked, and the driver took power
	w.driver.Hook(func(_ context.Context, c pcscdtest.Call) error {
		if c.Action == ifdhandler.PowerDown {
			done[len(done)-1].Add(1)
		}
		return nil
	})
	stop := make(chan struct{})
	var others, all sync.WaitGroup
	others.Go(func() { w.shuffleCards(stop) })
	others.Go(func() { w.shuffleReaders(stop) })
	others.Go(func() { w.readTables(stop) })
	for i := range clients {
		all.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 0))
			for start := time.Now(); time.Since(start) < howLong; {
				w.useCard(random, done[:])
			}
		})
	}
	all.Wait()
	close(stop)
	others.Wait()
	for _, i := range []int{0, 1, 2, 3, 4, 5, 6, len(done) - 1} {
		require.Positive(t, done[i].Load(), "function %d never worked", i)
	}
	require.NoError(t, w.RemoveReader(context.Background(), alphaLun))
	w.add(alpha, alphaLun, card())
	c := w.client()
	h := c.open(wire.Exclusive)
	require.Equal(t, wire.Success, c.transmit(h, wire.ProtocolT1))
	c.Close(context.Background())
	report := w.Report()
	require.Zero(t, report.Handles)
	require.Zero(t, report.Sessions)
	require.Nil(t, report.Readers[0].Lock)
	require.Empty(t, report.Readers[0].Queue)
}

// useCard is the life of one client: it may end anywhere.
func (w *world) useCard(random *rand.Rand, done []atomic.Int64) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(random.IntN(3000))*time.Microsecond)
	defer cancel()
	s := w.NewSession(pcscd.Client{PID: 1})
	defer s.Close(ctx)
	hContext, _ := s.Establish(wire.ScopeUser)
	for range 3 {
		h, active, code := s.Connect(ctx, hContext, alpha, pick(modelModes, byte(random.IntN(5))), wire.ProtocolAny)
		if code != wire.Success {
			continue
		}
		done[6].Add(1)
		for range random.IntN(4) {
			call := random.IntN(6)
			if w.use(ctx, s, h, active, call, wire.Disposition(random.IntN(3))) == wire.Success {
				done[call].Add(1)
			}
		}
		if random.IntN(2) == 0 {
			s.Disconnect(ctx, h, wire.Disposition(random.IntN(4)))
		}
	}
}

func (w *world) use(ctx context.Context, s *pcscd.Session, h int32, active wire.Protocol, call int, d wire.Disposition) wire.Code {
	switch call {
	case 0:
		return s.Begin(ctx, h)
	case 1:
		return s.End(ctx, h, d)
	case 2:
		answer, code := s.Transmit(ctx, h, active, []byte{7})
		if code == wire.Success {
			assert.Equal(w, []byte{7, 0x90, 0x00}, answer)
		}
		return code
	case 3:
		_, code := s.Reconnect(ctx, h, wire.Shared, wire.ProtocolAny, d)
		return code
	case 4:
		_, code := s.Control(ctx, h, ifdhandler.ControlEscape, nil)
		return code
	}
	return s.Status(h)
}

func (w *world) shuffleCards(stop <-chan struct{}) {
	cards := append(modelCards(), nil, card())
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(i%7) * 500 * time.Microsecond):
			w.driver.Insert(alphaLun, pick(cards, byte(i)))
		}
	}
}

// shuffleReaders leaves the reader in its place most of the time, and at the end.
func (w *world) shuffleReaders(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(20 * time.Millisecond):
		}
		assert.NoError(w, w.RemoveReader(context.Background(), alphaLun))
		w.driver.Open(alphaLun, card())
		assert.NoError(w, w.AddReader(pcscd.Reader{Name: alpha, Lun: alphaLun}))
	}
}

// readTables looks at everything that clients and people see, and checks what must always hold.
func (w *world) readTables(stop <-chan struct{}) {
	for {
		states, generation := w.States()
		for _, s := range states {
			present := s.State&wire.StatePresent != 0
			if s.State&wire.StatePowered != 0 {
				assert.NotEmpty(w, s.ATR)
			}
			assert.False(w, present && s.State&wire.StateAbsent != 0)
			assert.LessOrEqual(w, len(s.ATR), wire.MaxATR)
			assert.GreaterOrEqual(w, s.Sharing, wire.SharingExclusive)
		}
		w.Report()
		select {
		case <-stop:
			return
		case <-w.Changed(generation):
		}
	}
}

// TestNoWakeUpIsLost counts a card in and out, and has waiters that must see the last state.
func TestNoWakeUpIsLost(t *testing.T) {
	w := newWorld(t, nil, pcscd.Options{})
	const cycles = 200
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			w.until(alpha, func(s wire.ReaderState) bool { return s.EventCounter == 2*cycles })
		})
	}
	for range cycles {
		w.driver.Insert(alphaLun, &pcscdtest.Card{ATR: atrT0})
		w.untilState(alpha, 0x34)
		w.driver.Insert(alphaLun, nil)
		w.untilState(alpha, wire.StateAbsent)
	}
	all.Wait()
}
