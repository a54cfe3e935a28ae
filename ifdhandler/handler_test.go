package ifdhandler_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/ifdhandler"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/virtual"
	"github.com/goccid/goccid/virtual/card"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lun is the first slot of reader 1, second its second slot.
const (
	lun    ifdhandler.Lun = 0x00010000
	second ifdhandler.Lun = 0x00010001
)

type rig struct {
	*ifdhandler.Handler
	bus    *virtual.Bus
	device *virtual.Reader
	info   usbtransport.DeviceInfo
	log    *logtest.Hook
}

func newRig(t *testing.T, c virtual.Config, p ifdhandler.Policy) *rig {
	t.Helper()
	device, err := virtual.NewReader(c)
	require.NoError(t, err)
	r := &rig{bus: virtual.NewBus(), device: device}
	r.info, err = r.bus.Plug(device)
	require.NoError(t, err)
	logger, hook := logtest.NewNullLogger()
	logger.SetLevel(logrus.DebugLevel)
	r.log = hook
	r.Handler = ifdhandler.New(ifdhandler.Options{Backend: r.bus, Policy: p, Reader: host.Options{Logger: logger}})
	t.Cleanup(func() {
		require.NoError(t, r.bus.Close())
		require.NoError(t, device.Close())
	})
	return r
}

// open opens the first slot by its name.
func (r *rig) open(t *testing.T) {
	t.Helper()
	name := fmt.Sprintf("usb:%04x/%04x:libudev:0:/dev/bus/usb/%03d/%03d", r.info.IDVendor, r.info.IDProduct, r.info.Bus, r.info.Address)
	require.NoError(t, r.CreateChannelByName(t.Context(), lun, name))
	t.Cleanup(func() {
		if err := r.CloseChannel(context.Background(), lun); ifdhandler.CodeOf(err) != ifdhandler.NoSuchDevice {
			require.NoError(t, err)
		}
	})
}

func code(t *testing.T, want ifdhandler.Code, err error) {
	t.Helper()
	require.Equal(t, want, ifdhandler.CodeOf(err), "%v", err)
	if want != ifdhandler.Success {
		require.ErrorIs(t, err, want)
	}
}

func TestSessionAtEachLevel(t *testing.T) {
	for _, level := range []ccid.ExchangeLevel{ccid.LevelCharacter, ccid.LevelTPDU, ccid.LevelShortAPDU, ccid.LevelExtendedAPDU} {
		for protocol := range uint8(2) {
			t.Run(fmt.Sprintf("%v T=%d", level, protocol), func(t *testing.T) {
				c := card.New(card.NewISO(), card.Options{Protocol: protocol})
				r := newRig(t, virtual.Config{Level: &level, Cards: []card.Card{c}}, ifdhandler.Policy{})
				r.open(t)
				present, err := r.ICCPresence(t.Context(), lun)
				require.NoError(t, err)
				require.Equal(t, ifdhandler.ICCPresent, present)
				pci := ifdhandler.ProtocolT0 + ifdhandler.Protocol(protocol)
				for _, action := range []ifdhandler.Action{ifdhandler.PowerUp, ifdhandler.Reset} {
					atr, err := r.PowerICC(t.Context(), lun, action)
					require.NoError(t, err)
					known, err := r.GetCapabilities(t.Context(), lun, ifdhandler.TagATR)
					require.NoError(t, err)
					require.Equal(t, atr, known)
					require.NoError(t, r.SetProtocolParameters(t.Context(), lun, pci, 0, [3]byte{}))
					got, err := r.TransmitToICC(t.Context(), lun, pci, []byte{0x00, 0xA4, 0x00, 0x0C, 0x02, 0x3F, 0x00})
					require.NoError(t, err)
					require.Equal(t, []byte{0x90, 0x00}, got)
				}
				_, err = r.TransmitToICC(t.Context(), lun, 3-pci, []byte{0, 0xA4, 0, 0})
				code(t, ifdhandler.ProtocolNotSupported, err)
				_, err = r.PowerICC(t.Context(), lun, ifdhandler.PowerDown)
				require.NoError(t, err)
				_, err = r.TransmitToICC(t.Context(), lun, pci, []byte{0, 0xA4, 0, 0})
				code(t, ifdhandler.CommunicationError, err)
				require.Empty(t, r.device.Violations())
			})
		}
	}
}

func TestT0IsTransparent(t *testing.T) {
	level := ccid.LevelTPDU
	r := newRig(t, virtual.Config{Level: &level, Cards: []card.Card{card.NewT0()}}, ifdhandler.Policy{})
	r.open(t)
	_, err := r.PowerICC(t.Context(), lun, ifdhandler.PowerUp)
	require.NoError(t, err)
	require.NoError(t, r.SetProtocolParameters(t.Context(), lun, ifdhandler.ProtocolT0, 0, [3]byte{}))
	got, err := r.TransmitToICC(t.Context(), lun, ifdhandler.ProtocolT0, []byte{0x80, 0xEC, 0, 0, 2, 1, 2})
	require.NoError(t, err)
	require.Equal(t, []byte{0x61, 0x02}, got, "GET RESPONSE is the application's")
}

func TestChannels(t *testing.T) {
	r := newRig(t, virtual.Config{Slots: 2, Cards: []card.Card{card.NewT1(), card.NewT0()}}, ifdhandler.Policy{})
	ctx := t.Context()
	code(t, ifdhandler.NoSuchDevice, r.CreateChannelByName(ctx, lun, "usb:ffff/ffff"))
	code(t, ifdhandler.NoSuchDevice, r.CreateChannelByName(ctx, lun, "/dev/ttyS0"))
	code(t, ifdhandler.NoSuchDevice, r.CreateChannelByName(ctx, lun, "usb:08e6/3437:libusb-1.0:9:9:0"))
	code(t, ifdhandler.NoSuchDevice, r.CreateChannel(ctx, ifdhandler.NewLun(1, 7)))
	require.NoError(t, r.CreateChannelByName(ctx, lun, "usb:08e6/3437"))
	code(t, ifdhandler.CommunicationError, r.CreateChannelByName(ctx, lun, "usb:08e6/3437"))
	code(t, ifdhandler.NoSuchDevice, r.CreateChannel(ctx, ifdhandler.NewLun(2, 0)))
	require.NoError(t, r.CreateChannel(ctx, second))
	for _, l := range []ifdhandler.Lun{lun, second} {
		_, err := r.PowerICC(ctx, l, ifdhandler.PowerUp)
		require.NoError(t, err)
	}
	require.NoError(t, r.CloseChannel(ctx, lun))
	present, err := r.ICCPresence(ctx, second)
	require.NoError(t, err)
	require.Equal(t, ifdhandler.ICCPresent, present, "the other slot is still open")
	require.NoError(t, r.CloseChannel(ctx, second))
	code(t, ifdhandler.NoSuchDevice, r.CloseChannel(ctx, second))
	_, err = r.ICCPresence(ctx, second)
	code(t, ifdhandler.NoSuchDevice, err)
	require.NoError(t, r.CreateChannel(ctx, lun), "and the reader can be opened again")
	require.NoError(t, r.CloseChannel(ctx, lun))
}

func TestAttachedReaderStaysItsOwners(t *testing.T) {
	r := newRig(t, virtual.Config{Slots: 2}, ifdhandler.Policy{})
	reader, err := host.OpenFirst(t.Context(), r.bus, host.Options{})
	require.NoError(t, err)
	require.NoError(t, r.Attach(1, reader))
	code(t, ifdhandler.CommunicationError, r.Attach(1, reader))
	for _, l := range []ifdhandler.Lun{lun, second} {
		present, err := r.ICCPresence(t.Context(), l)
		require.NoError(t, err)
		require.Equal(t, ifdhandler.ICCNotPresent, present)
		require.NoError(t, r.CloseChannel(t.Context(), l))
	}
	_, err = reader.Slot(0).Status(t.Context())
	require.NoError(t, err)
	require.NoError(t, reader.Close())
}

func TestCapabilities(t *testing.T) {
	r := newRig(t, virtual.Config{Slots: 2, SerialNumber: "70D7E2EE", Cards: []card.Card{card.NewT1()}}, ifdhandler.Policy{})
	r.open(t)
	u32 := func(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
	for tag, want := range map[ifdhandler.Tag][]byte{
		ifdhandler.TagThreadSafe:          {1},
		ifdhandler.TagSlotThreadSafe:      {1},
		ifdhandler.TagSlotsNumber:         {2},
		ifdhandler.TagSimultaneousAccess:  {255},
		ifdhandler.TagDeviceRemoved:       {1},
		ifdhandler.TagATR:                 nil,
		ifdhandler.AttrATRString:          nil,
		ifdhandler.AttrICCPresence:        {2},
		ifdhandler.AttrICCInterfaceStatus: {0},
		ifdhandler.AttrVendorName:         []byte("Gemplus\x00"),
		ifdhandler.AttrVendorIFDSerialNo:  []byte("70D7E2EE\x00"),
		ifdhandler.AttrVendorIFDVersion:   u32(0x01000000),
		ifdhandler.AttrMaxInput:           u32(261),
		ifdhandler.AttrChannelID:          u32(0x00200101),
	} {
		got, err := r.GetCapabilities(t.Context(), lun, tag)
		require.NoError(t, err, "tag 0x%X", uint32(tag))
		require.Equal(t, want, got, "tag 0x%X", uint32(tag))
		if tag != ifdhandler.TagDeviceRemoved {
			code(t, ifdhandler.ErrorValueReadOnly, r.SetCapabilities(lun, tag, []byte{1}))
		}
	}
	_, err := r.GetCapabilities(t.Context(), lun, 0x1234)
	code(t, ifdhandler.ErrorTag, err)
	code(t, ifdhandler.ErrorTag, r.SetCapabilities(lun, 0x1234, []byte{1}))
	for _, value := range [][]byte{nil, {0}, {1, 1}} {
		code(t, ifdhandler.ErrorSetFailure, r.SetCapabilities(lun, ifdhandler.TagDeviceRemoved, value))
	}
	// Each answer is its own: what one slot has does not show in another's.
	require.NoError(t, r.CreateChannel(t.Context(), second))
	for l, want := range map[ifdhandler.Lun][]byte{second: {0}, lun: {2}} {
		got, err := r.GetCapabilities(t.Context(), l, ifdhandler.AttrICCPresence)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	require.NoError(t, r.CloseChannel(t.Context(), second))
}

// TestDeviceRemovedFlag sets the flag that gave the project its name.
func TestDeviceRemovedFlag(t *testing.T) {
	r := newRig(t, virtual.Config{Slots: 2, Cards: []card.Card{card.NewT1()}}, ifdhandler.Policy{})
	r.open(t)
	require.NoError(t, r.CreateChannel(t.Context(), second))
	_, err := r.PowerICC(t.Context(), lun, ifdhandler.PowerUp)
	require.NoError(t, err)
	waiting := make(chan error, 1)
	present, err := r.ICCPresence(t.Context(), second)
	require.NoError(t, err)
	require.Equal(t, ifdhandler.ICCNotPresent, present)
	go func() { waiting <- r.WaitEvent(t.Context(), second) }()

	require.NoError(t, r.SetCapabilities(lun, ifdhandler.TagDeviceRemoved, []byte{1}))
	code(t, ifdhandler.NoSuchDevice, <-waiting)
	r.bus.Inject(nil)
	for _, l := range []ifdhandler.Lun{lun, second} {
		presence, err := r.ICCPresence(t.Context(), l)
		code(t, ifdhandler.NoSuchDevice, err)
		require.Equal(t, ifdhandler.NoSuchDevice, presence, "a removed reader is not a removed card")
		_, err = r.PowerICC(t.Context(), l, ifdhandler.PowerUp)
		code(t, ifdhandler.NoSuchDevice, err)
		_, err = r.TransmitToICC(t.Context(), l, ifdhandler.ProtocolT1, []byte{0, 0, 0, 0})
		code(t, ifdhandler.NoSuchDevice, err)
		require.NoError(t, r.CloseChannel(t.Context(), l))
	}
	require.Zero(t, r.bus.Transfers(), "USB was touched")
	lines := 0
	for _, e := range r.log.AllEntries() {
		if e.Level <= logrus.InfoLevel {
			require.Equal(t, "reader removed", e.Message)
			lines++
		}
	}
	require.Equal(t, 1, lines)
}

func TestWaitEventAndPresence(t *testing.T) {
	r := newRig(t, virtual.Config{}, ifdhandler.Policy{})
	r.open(t)
	expect := func(want ifdhandler.Code) {
		t.Helper()
		got, err := r.ICCPresence(t.Context(), lun)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	expect(ifdhandler.ICCNotPresent)
	_, err := r.device.SetCard(0, card.NewT1())
	require.NoError(t, err)
	require.NoError(t, r.WaitEvent(t.Context(), lun))
	expect(ifdhandler.ICCPresent)
	_, err = r.PowerICC(t.Context(), lun, ifdhandler.PowerUp)
	require.NoError(t, err)
	expect(ifdhandler.ICCPresent)

	old, err := r.device.SetCard(0, card.NewT0())
	require.NoError(t, err)
	require.NoError(t, old.Close())
	require.NoError(t, r.WaitEvent(t.Context(), lun))
	expect(ifdhandler.ICCNotPresent) // once: another card
	expect(ifdhandler.ICCPresent)

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.NoError(t, r.WaitEvent(ctx, lun), "the end of the wait is no error")
}

func TestControl(t *testing.T) {
	r := newRig(t, virtual.Config{Override: func(d *ccid.ClassDescriptor) { d.BPINSupport, d.WLcdLayout = 3, 0x0210 }}, ifdhandler.Policy{
		Escape: func(_ *host.Reader, command []byte) bool { return len(command) == 1 },
	})
	r.open(t)
	control := func(code uint32, in ...byte) []byte {
		t.Helper()
		out, err := r.Control(t.Context(), lun, code, in)
		require.NoError(t, err)
		return out
	}
	features := []byte{6, 4, 0x42, 0x33, 0, 6, 7, 4, 0x42, 0x33, 0, 7, 0x0A, 4, 0x42, 0x33, 0, 0x0A, 0x12, 4, 0x42, 0x33, 0, 0x12, 0x13, 4, 0x42, 0, 0, 1}
	require.Equal(t, features, control(ifdhandler.ControlGetFeatureRequest))
	require.Equal(t, features, control(ifdhandler.ControlGetFeatureRequestWindows))
	require.Equal(t, []byte{0x10, 0x02, 7, 0}, control(0x4233000A))
	require.Equal(t, []byte{
		1, 2, 0x10, 0x02, 4, 2, 0x10, 0, 5, 2, 2, 0, 3, 1, 0, 9, 1, 0, 0x0B, 2, 0xE6, 0x08, 0x0C, 2, 0x37, 0x34, 0x0A, 4, 0, 0, 1, 0,
	}, control(0x42330012))
	require.Equal(t, []byte{7}, control(ifdhandler.ControlEscape, 7))
	for _, c := range []uint32{ifdhandler.ControlEscape, 0x42330008, 0, 0xFFFFFFFF} {
		_, err := r.Control(t.Context(), lun, c, []byte{1, 2})
		code(t, ifdhandler.ErrorNotSupported, err)
	}
}

func TestErrorsAreMapped(t *testing.T) {
	for _, test := range []struct {
		err  error
		want ifdhandler.Code
	}{
		{nil, ifdhandler.Success},
		{usbtransport.ErrRemoved, ifdhandler.NoSuchDevice},
		{errors.Join(host.ErrNoCard, usbtransport.ErrRemoved), ifdhandler.NoSuchDevice},
		{fmt.Errorf("x: %w", host.ErrNoCard), ifdhandler.ICCNotPresent},
		{host.ErrProtocol, ifdhandler.ProtocolNotSupported},
		{host.ErrBadATR, ifdhandler.ProtocolNotSupported},
		{host.ErrParameters, ifdhandler.ErrorPTSFailure},
		{&host.NoAnswerError{}, ifdhandler.ResponseTimeout},
		{host.ErrExtendedAPDU, ifdhandler.NotSupported},
		{errors.New("anything"), ifdhandler.CommunicationError},
	} {
		require.Equal(t, test.want, ifdhandler.CodeOf(test.err), "%v", test.err)
	}
}

func TestMuteCardAndWrongArguments(t *testing.T) {
	r := newRig(t, virtual.Config{Cards: []card.Card{card.NewT1()}}, ifdhandler.Policy{})
	r.open(t)
	_, err := r.PowerICC(t.Context(), lun, 503)
	code(t, ifdhandler.NotSupported, err)
	_, err = r.PowerICC(t.Context(), lun, ifdhandler.PowerUp)
	require.NoError(t, err)
	code(t, ifdhandler.ErrorNotSupported, r.SetProtocolParameters(t.Context(), lun, ifdhandler.ProtocolT1, 1, [3]byte{0x11}))
	code(t, ifdhandler.ProtocolNotSupported, r.SetProtocolParameters(t.Context(), lun, ifdhandler.ProtocolRaw, 0, [3]byte{}))
	code(t, ifdhandler.ProtocolNotSupported, r.SetProtocolParameters(t.Context(), lun, ifdhandler.ProtocolT0, 0, [3]byte{}))
	c, err := r.device.SetCard(0, nil)
	require.NoError(t, err)
	require.NoError(t, c.Close())
	_, err = r.PowerICC(t.Context(), lun, ifdhandler.PowerUp)
	code(t, ifdhandler.ErrorPowerAction, err)
	require.ErrorIs(t, err, host.ErrNoCard)
}

// TestCardThatLostItsPowerIsTold has the machine sleep, after which the card needs PowerICC.
func TestCardThatLostItsPowerIsTold(t *testing.T) {
	level, slept := ccid.LevelTPDU, time.Duration(0)
	r := newRig(t, virtual.Config{Level: &level, Cards: []card.Card{card.NewT1()}}, ifdhandler.Policy{})
	r.Handler = ifdhandler.New(ifdhandler.Options{Backend: r.bus, Reader: host.Options{Suspended: func() time.Duration { return slept }}})
	r.open(t)
	_, err := r.PowerICC(t.Context(), lun, ifdhandler.PowerUp)
	require.NoError(t, err)
	require.NoError(t, r.SetProtocolParameters(t.Context(), lun, ifdhandler.ProtocolT1, 0, [3]byte{}))
	command := []byte{0x00, 0xA4, 0x00, 0x0C, 0x02, 0x3F, 0x00}
	_, err = r.TransmitToICC(t.Context(), lun, ifdhandler.ProtocolT1, command)
	require.NoError(t, err)
	slept = time.Hour
	_, err = r.TransmitToICC(t.Context(), lun, ifdhandler.ProtocolT1, command)
	code(t, ifdhandler.CommunicationError, err)
	require.ErrorIs(t, err, ifdhandler.ErrCardReset)
	present, err := r.ICCPresence(t.Context(), lun)
	require.NoError(t, err)
	require.Equal(t, ifdhandler.ICCPresent, present)
	_, err = r.PowerICC(t.Context(), lun, ifdhandler.PowerUp)
	require.NoError(t, err)
	require.NoError(t, r.SetProtocolParameters(t.Context(), lun, ifdhandler.ProtocolT1, 0, [3]byte{}))
	_, err = r.TransmitToICC(t.Context(), lun, ifdhandler.ProtocolT1, command)
	require.NoError(t, err)
}
