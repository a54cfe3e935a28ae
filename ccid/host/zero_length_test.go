package host_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/virtual"
	"github.com/goccid/goccid/virtual/card"
)

// packetRefusing is a bus whose readers take a message of whole packets and stall the zero-length packet after it, as QEMU's
// reader does, which refuses to clear the halt besides.
type packetRefusing struct {
	usbtransport.Backend
	refused int
}

func (b *packetRefusing) Open(ctx context.Context, device usbtransport.DeviceInfo, number uint8) (usbtransport.Interface, error) {
	i, err := b.Backend.Open(ctx, device, number)
	return packetRefusingInterface{i, b}, err
}

type packetRefusingInterface struct {
	usbtransport.Interface
	bus *packetRefusing
}

func (i packetRefusingInterface) BulkOut(ctx context.Context, endpoint uint8, data []byte) (int, error) {
	const packet = 64
	n, err := i.Interface.BulkOut(ctx, endpoint, data)
	if err == nil && len(data)%packet == 0 {
		i.bus.refused++
		err = &usbtransport.Error{Op: "bulk out", Endpoint: endpoint, Kind: usbtransport.ErrStalled}
	}
	return n, err
}

func (i packetRefusingInterface) ClearHalt(_ context.Context, endpoint uint8) error {
	return &usbtransport.Error{Op: "clear halt", Endpoint: endpoint, Kind: usbtransport.ErrStalled}
}

func TestReaderThatRefusesTheClosingPacketHasTheMessage(t *testing.T) {
	level := ccid.LevelShortAPDU
	device, err := virtual.NewReader(virtual.Config{Level: &level, Cards: []card.Card{card.NewT1()}})
	require.NoError(t, err)
	virtualBus := virtual.NewBus()
	_, err = virtualBus.Plug(device)
	require.NoError(t, err)
	defer func() {
		require.NoError(t, virtualBus.Close())
		require.NoError(t, device.Close())
	}()
	bus := &packetRefusing{Backend: virtualBus}
	reader, err := host.OpenFirst(t.Context(), bus, host.Options{})
	require.NoError(t, err)
	defer reader.Close()
	_, err = reader.Slot(0).Connect(t.Context())
	require.NoError(t, err)

	command := echo(t, 64-ccid.HeaderLength-6, 48, false) // header of 5 bytes and Le
	require.Len(t, command, 64-ccid.HeaderLength)
	for range 3 {
		answer, err := reader.Slot(0).Transmit(t.Context(), command)
		require.NoError(t, err)
		require.Equal(t, append(pattern(48), 0x90, 0x00), answer)
	}
	require.Equal(t, 3, bus.refused)
	require.Empty(t, device.Violations())
}
