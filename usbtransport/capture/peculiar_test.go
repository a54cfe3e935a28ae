package capture_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/usbtransport/capture"
	"github.com/goccid/goccid/virtual"
	"github.com/goccid/goccid/virtual/card"
)

// peculiar is a kind of virtual reader that is more, or less, than one slot with bulk endpoints, and a session that shows it.
type peculiar struct {
	config virtual.Config
	use    func(*testing.T, *host.Reader) [][]byte
}

// peculiarReaders are those of testdata/traces, by the names of their files. The reader is a new one each time: what is entered on its
// keys, and what is written to its card, is gone afterwards.
func peculiarReaders() map[string]peculiar {
	level := ccid.LevelTPDU
	return map[string]peculiar{
		"virtual-iccd-a": {virtual.Config{Model: "e-gate", Cards: []card.Card{newCard(0)}}, useFirstSlot},
		"virtual-iccd-b": {virtual.Config{Model: "gemalto-pdt", Cards: []card.Card{newCard(1)}}, useFirstSlot},
		"virtual-two-slots": {
			virtual.Config{
				Level: &level, Slots: 2, Cards: []card.Card{newCard(0), newCard(1)},
				Override: func(d *ccid.ClassDescriptor) { d.BMaxCCIDBusySlots = 2 },
			}, useBothSlots,
		},
		"virtual-pin-pad": {
			virtual.Config{
				Level: &level, Cards: []card.Card{newCard(1)}, PINPad: virtual.PINPad{Keys: "7391#"},
				Override: func(d *ccid.ClassDescriptor) { d.BPINSupport = ccid.PINVerification },
			}, enterPIN,
		},
	}
}

// useFirstSlot sends what commands has, where a short APDU can.
func useFirstSlot(t *testing.T, r *host.Reader) [][]byte { return useSlot(t, r.Slot(0)) }

func useSlot(t *testing.T, s *host.Slot) [][]byte {
	atr, err := s.Connect(t.Context())
	require.NoError(t, err)
	answers := [][]byte{atr}
	for _, c := range commands() {
		answer, err := s.Transmit(t.Context(), c)
		require.NoError(t, err, "% X", c)
		answers = append(answers, answer)
	}
	return answers
}

// useBothSlots has the sessions of both cards overlap.
func useBothSlots(t *testing.T, r *host.Reader) [][]byte {
	var answers [][]byte
	for _, s := range r.Slots() {
		atr, err := s.Connect(t.Context())
		require.NoError(t, err)
		answers = append(answers, atr)
	}
	for _, c := range commands() {
		for _, s := range r.Slots() {
			answer, err := s.Transmit(t.Context(), c)
			require.NoError(t, err, "% X", c)
			answers = append(answers, answer)
		}
	}
	return answers
}

// enterPIN has a PIN entered on the reader's keys.
func enterPIN(t *testing.T, r *host.Reader) [][]byte {
	s := r.Slot(0)
	atr, err := s.Connect(t.Context())
	require.NoError(t, err)
	answer, err := s.VerifyPIN(t.Context(), ccid.PINVerificationData{
		BTimeOut: 30, BmFormatString: 0x82, BmPINBlockString: 0x04, WPINMaxExtraDigit: 0x0404, BEntryValidationCondition: ccid.PINKeyPressed,
		BNumberMessage: 1, WLangID: 0x0409, PINAPDU: []byte{0x00, 0x20, 0x00, 0x01, 4, 0xFF, 0xFF, 0xFF, 0xFF},
	})
	require.NoError(t, err)
	return [][]byte{atr, answer}
}

// TestTracesOfPeculiarReaders plays the recordings of tokens, of a reader with two slots and of one with a PIN pad against the driver of
// today, as TestTracesOfVirtualReaders does with those of ordinary ones. With -update they are recorded first.
func TestTracesOfPeculiarReaders(t *testing.T) {
	for name := range peculiarReaders() {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(traces, name+".pcapng")
			if *update {
				require.NoError(t, os.WriteFile(path, recordPeculiar(t, name), 0o644))
			}
			bus, p := plugPeculiar(t, name)
			want := p.session(t, bus)
			c := readTrace(t, path)
			require.True(t, c.Redacted)
			replay, err := capture.NewReplay(c, capture.Lenient{}, capture.AtOnce)
			require.NoError(t, err)
			require.Equal(t, want, p.session(t, replay))
			require.NoError(t, replay.Close())
		})
	}
}

// plugPeculiar plugs in a new reader of a kind.
func plugPeculiar(t *testing.T, name string) (*virtual.Bus, peculiar) {
	t.Helper()
	p := peculiarReaders()[name]
	reader, err := virtual.NewReader(p.config)
	require.NoError(t, err)
	bus := virtual.NewBus()
	_, err = bus.Plug(reader)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, bus.Close())
		require.NoError(t, reader.Close())
	})
	return bus, p
}

func recordPeculiar(t *testing.T, name string) []byte {
	t.Helper()
	bus, p := plugPeculiar(t, name)
	var f file
	recorder, err := capture.NewRecorder(bus, &f, capture.Options{})
	require.NoError(t, err)
	p.session(t, recorder)
	require.NoError(t, recorder.Err())
	return f.bytes()
}

// session opens the reader, and returns ATRs and answers.
func (p peculiar) session(t *testing.T, backend usbtransport.Backend) [][]byte {
	t.Helper()
	reader, err := host.OpenFirst(t.Context(), backend, host.Options{})
	require.NoError(t, err)
	answers := p.use(t, reader)
	require.NoError(t, reader.Close())
	return answers
}
