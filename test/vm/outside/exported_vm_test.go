package outside

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/test/vm/hotplug"
	"github.com/goccid/goccid/test/vm/vmtest"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/usbtransport/usbip"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// watchdog ends whatever hangs.
const watchdog = 60 * time.Second

// APDUs for the emulated CAC card (GSC-IS 2.1 §5).
const (
	selectCAC       = "00A4040007A0000000790100"
	readCertificate = "005200020202C800" // 200 bytes in four packets, once the CAC is selected
)

// maxSilent is how often in a row the emulated card may fail to answer.
const maxSilent = 3

// station is our client of the guest's usbipd, with the driver on top.
type station struct {
	monitor *host.Monitor
	log     *test.Hook
}

func start(t *testing.T) *station {
	t.Helper()
	address := vmtest.Outside(t)
	logger, log := test.NewNullLogger()
	logger.SetLevel(logrus.InfoLevel)
	ctx, cancel := context.WithTimeout(t.Context(), watchdog)
	defer cancel()
	backend := usbip.New(usbip.Options{Address: address, PollInterval: 100 * time.Millisecond, Logger: logger})
	monitor, err := host.NewMonitor(ctx, backend, host.Options{Logger: logger})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, monitor.Close()) })
	return &station{monitor: monitor, log: log}
}

func (s *station) next(t *testing.T, kind host.EventKind) *host.Reader {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), watchdog)
	defer cancel()
	e, err := s.monitor.Next(ctx)
	require.NoError(t, err, "waiting for a reader that has %v", kind)
	require.Equal(t, kind, e.Kind, "%v", e.Err)
	return e.Reader
}

// connect waits for the card and activates it.
func connect(ctx context.Context, slot *host.Slot) error {
	for silent := 0; ; {
		state := slot.State()
		answer, err := slot.Connect(ctx)
		var silence *host.NoAnswerError
		switch {
		case errors.Is(err, host.ErrNoCard):
			if _, err := slot.WaitChange(ctx, state); err != nil {
				return err
			}
		case errors.As(err, &silence) && silent < maxSilent:
			silent++
		case err != nil:
			return err
		case !bytes.Equal(answer, fromHex(vmtest.ATR)):
			return fmt.Errorf("the ATR is % X", answer)
		default:
			return nil
		}
	}
}

// transmit exchanges APDUs, all of which must be answered rightly.
func transmit(ctx context.Context, slot *host.Slot) error {
	for silent := 0; ; {
		err := exchange(ctx, slot)
		var silence *host.NoAnswerError
		if !errors.As(err, &silence) || silent == maxSilent {
			return err
		}
		silent++
		if err := connect(ctx, slot); err != nil {
			return err
		}
	}
}

func exchange(ctx context.Context, slot *host.Slot) error {
	response, err := slot.Transmit(ctx, fromHex(selectCAC))
	if err != nil {
		return err
	}
	if !bytes.Equal(response, []byte{0x61, 0x0D}) {
		return fmt.Errorf("SELECT is answered by % X", response)
	}
	response, err = slot.Transmit(ctx, fromHex(readCertificate))
	if err != nil {
		return err
	}
	if len(response) != 202 || !bytes.HasSuffix(response, []byte{0x90, 0x00}) {
		return fmt.Errorf("READ BUFFER is answered by % X", response)
	}
	return nil
}

func fromHex(text string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

// TestVMExportedReader drives QEMU's reader through the guest kernel's usbip-host, from outside the guest.
func TestVMExportedReader(t *testing.T) {
	s := start(t)
	r := s.next(t, host.ReaderArrived)
	info := r.Device().Info()
	assert.EqualValues(t, vmtest.IDVendor, info.IDVendor)
	assert.EqualValues(t, vmtest.IDProduct, info.IDProduct)
	assert.Equal(t, "QEMU", info.Manufacturer, "the strings are read over the network")

	ctx, cancel := context.WithTimeout(t.Context(), watchdog)
	defer cancel()
	require.NoError(t, connect(ctx, r.Slot(0)))
	for range 50 {
		require.NoError(t, transmit(ctx, r.Slot(0)))
	}
	assert.Empty(t, s.log.AllEntries())
}

// TestVMExportedReaderUnplugged pulls the reader out of the guest while APDUs run, at random moments: that is a removal
// here too, with one line in the log, and plugged in again it works.
func TestVMExportedReaderUnplugged(t *testing.T) {
	const rounds = 3
	s := start(t)
	for range rounds {
		r := s.next(t, host.ReaderArrived)
		s.log.Reset()
		ctx, cancel := context.WithTimeout(t.Context(), watchdog)
		defer cancel()
		require.NoError(t, connect(ctx, r.Slot(0)))
		require.NoError(t, transmit(ctx, r.Slot(0)))
		ended := make(chan error, 1)
		go func() {
			for {
				if err := transmit(ctx, r.Slot(0)); err != nil {
					ended <- err
					return
				}
			}
		}()
		time.Sleep(rand.N(50 * time.Millisecond)) // any moment will do

		ask(t, hotplug.Unplug)
		require.ErrorIs(t, <-ended, usbtransport.ErrRemoved)
		require.Same(t, r, s.next(t, host.ReaderRemoved))
		lines := s.log.AllEntries()
		require.Len(t, lines, 1)
		require.Equal(t, "reader removed", lines[0].Message)
		require.Equal(t, logrus.InfoLevel, lines[0].Level)
		ask(t, hotplug.Plug)
	}
	s.next(t, host.ReaderArrived)
}

func ask(t *testing.T, action hotplug.Action) {
	t.Helper()
	require.NoError(t, vmtest.Ask(hotplug.Request{Action: action, Port: 1}))
}
