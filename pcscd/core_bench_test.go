package pcscd_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/pcscd"
	"github.com/goccid/goccid/pcscd/pcscdtest"
	"github.com/goccid/goccid/pcscd/wire"
)

// benchmark runs do in sessions at once, each of which has a handle.
func benchmark(b *testing.B, sessions int, do func(context.Context, *pcscd.Session, int32)) {
	b.Helper()
	d := pcscdtest.NewDriver()
	m := pcscd.NewManager(pcscd.Options{Driver: d})
	d.Open(alphaLun, &pcscdtest.Card{ATR: atrT1, Answer: func([]byte) []byte { return []byte{0x90, 0x00} }})
	require.NoError(b, m.AddReader(pcscd.Reader{Name: alpha, Lun: alphaLun}))
	ctx := context.Background()
	defer func() { require.NoError(b, m.Close(ctx)) }()
	var all sync.WaitGroup
	turns := make(chan struct{})
	for range sessions {
		s := m.NewSession(pcscd.Client{})
		defer s.Close(ctx)
		hContext, _ := s.Establish(wire.ScopeUser)
		h, _, code := s.Connect(ctx, hContext, alpha, wire.Shared, wire.ProtocolAny)
		require.Equal(b, wire.Success, code)
		all.Go(func() {
			for range turns {
				do(ctx, s, h)
			}
		})
	}
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		turns <- struct{}{}
	}
	close(turns)
	all.Wait()
}

func BenchmarkTransmit(b *testing.B) {
	for _, n := range []int{1, 4, 16, 64} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			benchmark(b, n, func(ctx context.Context, s *pcscd.Session, h int32) {
				s.Transmit(ctx, h, wire.ProtocolT1, []byte{0, 0xA4, 0, 0})
			})
		})
	}
}

// BenchmarkTransaction is Begin, Transmit and End, with a client library that sleeps 100 ms when it does not get the lock.
func BenchmarkTransaction(b *testing.B) {
	for _, n := range []int{1, 4, 16, 64} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			benchmark(b, n, func(ctx context.Context, s *pcscd.Session, h int32) {
				for s.Begin(ctx, h) == wire.ErrSharingViolation {
					time.Sleep(100 * time.Millisecond)
				}
				s.Transmit(ctx, h, wire.ProtocolT1, []byte{0, 0xA4, 0, 0})
				s.End(ctx, h, wire.LeaveCard)
			})
		})
	}
}

func BenchmarkConnect(b *testing.B) {
	benchmark(b, 1, func(ctx context.Context, s *pcscd.Session, _ int32) {
		hContext, _ := s.Establish(wire.ScopeUser)
		h, _, _ := s.Connect(ctx, hContext, alpha, wire.Shared, wire.ProtocolAny)
		s.Disconnect(ctx, h, wire.LeaveCard)
	})
}
