package ifdhandler_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/ccid/quirks"
	"github.com/goccid/goccid/ifdhandler"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/virtual"
	"github.com/goccid/goccid/virtual/card"
)

// plugs is a HotPlug over a bus.
type plugs struct {
	*ifdhandler.HotPlug
	handler *ifdhandler.Handler
	bus     *virtual.Bus
}

func newPlugs(t *testing.T, o host.Options) *plugs {
	t.Helper()
	p := &plugs{bus: virtual.NewBus()}
	p.handler = ifdhandler.New(ifdhandler.Options{Backend: p.bus, Reader: o})
	var err error
	p.HotPlug, err = p.handler.HotPlug(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, p.Close())
		require.NoError(t, p.bus.Close())
	})
	return p
}

func (p *plugs) plug(t *testing.T, slots int) *virtual.Reader {
	t.Helper()
	device, err := virtual.NewReader(virtual.Config{Slots: slots})
	require.NoError(t, err)
	t.Cleanup(func() { _ = device.Close() })
	_, err = device.SetCard(0, card.NewT1())
	require.NoError(t, err)
	_, err = p.bus.Plug(device)
	require.NoError(t, err)
	return device
}

func (p *plugs) next(t *testing.T, kind ifdhandler.ReaderEventKind) ifdhandler.ReaderEvent {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	e, err := p.Next(ctx)
	require.NoError(t, err)
	require.Equal(t, kind, e.Kind, "%v", e.Err)
	return e
}

func (p *plugs) close(t *testing.T, e ifdhandler.ReaderEvent) {
	t.Helper()
	for _, s := range e.Slots {
		require.NoError(t, p.handler.CloseChannel(t.Context(), s.Lun))
	}
}

func names(e ifdhandler.ReaderEvent) []string {
	var list []string
	for _, s := range e.Slots {
		list = append(list, s.Name)
	}
	return list
}

func TestHotPlugNamesEachSlotAsPCSCLiteDoes(t *testing.T) {
	p := newPlugs(t, host.Options{NameExtension: " (home)"})
	p.plug(t, 2)
	first := p.next(t, ifdhandler.ReaderArrived)
	p.plug(t, 1)
	second := p.next(t, ifdhandler.ReaderArrived)
	assert.Equal(t, []string{"Gemalto PC Twin Reader (home) 00 00", "Gemalto PC Twin Reader (home) 00 01"}, names(first))
	assert.Equal(t, []string{"Gemalto PC Twin Reader (home) 01 00"}, names(second))
	assert.NotEqual(t, first.Slots[0].Lun.Reader(), second.Slots[0].Lun.Reader())
	assert.Equal(t, uint16(1), first.Slots[1].Lun.Slot())
	for _, s := range append(first.Slots, second.Slots...) {
		_, err := p.handler.ICCPresence(t.Context(), s.Lun)
		require.NoError(t, err, "the slot can be used")
	}
}

func TestHotPlugReportsRemovalWithTheDriverToldBefore(t *testing.T) {
	p := newPlugs(t, host.Options{})
	device := p.plug(t, 1)
	arrived := p.next(t, ifdhandler.ReaderArrived)
	p.bus.Unplug(device)
	removed := p.next(t, ifdhandler.ReaderRemoved)
	assert.Equal(t, arrived.Slots, removed.Slots)
	assert.Equal(t, arrived.Device, removed.Device)
	_, err := p.handler.PowerICC(t.Context(), removed.Slots[0].Lun, ifdhandler.PowerUp)
	code(t, ifdhandler.NoSuchDevice, err)
	p.close(t, removed)
}

func TestReaderThatComesBackHasItsNameAndAnotherLun(t *testing.T) {
	p := newPlugs(t, host.Options{})
	device := p.plug(t, 1)
	before := p.next(t, ifdhandler.ReaderArrived)
	for range 3 {
		p.bus.Unplug(device)
		_, err := p.bus.Plug(device)
		require.NoError(t, err)
		// Both events are waiting, in whatever order the driver found out.
		removed := p.next(t, ifdhandler.ReaderRemoved)
		require.Equal(t, before.Slots, removed.Slots)
		after := p.next(t, ifdhandler.ReaderArrived)
		require.Equal(t, names(before), names(after))
		require.NotEqual(t, before.Slots[0].Lun, after.Slots[0].Lun, "the channel of the reader that went is still open")
		_, err = p.handler.PowerICC(t.Context(), after.Slots[0].Lun, ifdhandler.PowerUp)
		require.NoError(t, err)
		p.close(t, removed)
		_, err = p.handler.ICCPresence(t.Context(), after.Slots[0].Lun)
		require.NoError(t, err, "closing the old channels leaves the new ones alone")
		before = after
	}
}

func TestHotPlugReportsAReaderThatIsBusyAndThenFree(t *testing.T) {
	bus := virtual.NewBus()
	device, err := virtual.NewReader(virtual.Config{})
	require.NoError(t, err)
	info, err := bus.Plug(device)
	require.NoError(t, err)
	holder, err := bus.Open(t.Context(), info, 0)
	require.NoError(t, err)
	p := &plugs{bus: bus, handler: ifdhandler.New(ifdhandler.Options{Backend: bus})}
	p.HotPlug, err = p.handler.HotPlug(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, p.Close())
		require.NoError(t, bus.Close())
		require.NoError(t, device.Close())
	})
	e := p.next(t, ifdhandler.ReaderUnusable)
	require.ErrorIs(t, e.Err, usbtransport.ErrBusy)
	assert.Equal(t, "1-1 08e6:3437", e.Device)
	assert.Empty(t, e.Slots)
	require.NoError(t, holder.Close())
	p.next(t, ifdhandler.ReaderArrived)
}

func TestHotPlugOpensReadersByTheNewQuirks(t *testing.T) {
	p := newPlugs(t, host.Options{})
	p.plug(t, 1)
	require.Equal(t, "Gemalto PC Twin Reader 00 00", p.next(t, ifdhandler.ReaderArrived).Slots[0].Name)
	table, err := (*quirks.Table)(nil).Extend("new.toml", []byte("[[quirk]]\nid = \"x\"\nreader = [\"08E6:3437\"]\nset.name = \"Renamed\"\n"))
	require.NoError(t, err)
	p.SetQuirks(table)
	p.plug(t, 1)
	require.Equal(t, "Renamed 01 00", p.next(t, ifdhandler.ReaderArrived).Slots[0].Name)
}

func TestHotPlugEndsWithClose(t *testing.T) {
	p := newPlugs(t, host.Options{})
	p.plug(t, 1)
	p.next(t, ifdhandler.ReaderArrived)
	require.NoError(t, p.Close())
	_, err := p.Next(t.Context())
	require.ErrorIs(t, err, usbtransport.ErrClosed)
}

func TestHotPlugNeedsABackend(t *testing.T) {
	_, err := ifdhandler.New(ifdhandler.Options{}).HotPlug(t.Context())
	require.Error(t, err)
}

func TestSettledWaitsForTheReadersThatAreThereAtTheStart(t *testing.T) {
	bus := virtual.NewBus()
	for range 3 {
		device, err := virtual.NewReader(virtual.Config{})
		require.NoError(t, err)
		_, err = bus.Plug(device)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, device.Close()) })
	}
	p := &plugs{bus: bus, handler: ifdhandler.New(ifdhandler.Options{Backend: bus})}
	var err error
	p.HotPlug, err = p.handler.HotPlug(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, p.Close())
		require.NoError(t, bus.Close())
	})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for range 3 {
		require.Error(t, p.Settled(ended), "not all readers have been told of")
		p.next(t, ifdhandler.ReaderArrived)
	}
	require.Error(t, p.Settled(ended), "the last event may not have been dealt with")
	_, err = p.Next(ended)
	require.ErrorIs(t, err, usbtransport.ErrCancelled)
	require.NoError(t, p.Settled(t.Context()))
}

// unlisted is a bus that can't list its devices, and can watch for them: a USB/IP server that was down at the start.
type unlisted struct{ *virtual.Bus }

func (unlisted) Devices(context.Context) ([]usbtransport.DeviceInfo, error) {
	return nil, &usbtransport.Error{Op: "enumerate", Kind: usbtransport.ErrIO}
}

func TestHotPlugStartsWithoutABackendThatDoesNotAnswerYet(t *testing.T) {
	near := newPlugs(t, host.Options{}) // for its bus
	far := virtual.NewBus()
	h := ifdhandler.New(ifdhandler.Options{Backend: usbtransport.Combine(near.bus, unlisted{far})})
	hotplug, err := h.HotPlug(t.Context())
	require.NoError(t, err)
	p := &plugs{HotPlug: hotplug, handler: h, bus: far}
	t.Cleanup(func() {
		require.NoError(t, p.Close())
		require.NoError(t, far.Close())
	})
	p.plug(t, 1)
	assert.Len(t, p.next(t, ifdhandler.ReaderArrived).Slots, 1)
}

// slow is a bus behind a server that does not answer, and can be watched all the same.
type slow struct{ *virtual.Bus }

func (slow) Devices(ctx context.Context) ([]usbtransport.DeviceInfo, error) {
	<-ctx.Done()
	return nil, &usbtransport.Error{Op: "enumerate", Kind: usbtransport.ContextKind(ctx)}
}

func TestHotPlugWaitsForNoBackendThatDoesNotAnswer(t *testing.T) {
	near, far := virtual.NewBus(), virtual.NewBus()
	handler := ifdhandler.New(ifdhandler.Options{Backend: usbtransport.Combine(slow{far}, near)})
	p := &plugs{handler: handler, bus: near}
	p.plug(t, 1)
	start := time.Now()
	var err error
	p.HotPlug, err = handler.HotPlug(t.Context())
	require.NoError(t, err)
	assert.Less(t, time.Since(start), 2*time.Second)
	t.Cleanup(func() {
		require.NoError(t, p.Close())
		require.NoError(t, near.Close())
		require.NoError(t, far.Close())
	})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	require.Error(t, p.Settled(ended), "that of the backend that answers is waited for")
	p.next(t, ifdhandler.ReaderArrived)
	_, err = p.Next(ended)
	require.ErrorIs(t, err, usbtransport.ErrCancelled)
	require.NoError(t, p.Settled(t.Context()))
}
