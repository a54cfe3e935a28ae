package usbtransport_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/usbtransport"
)

// reader is QEMU's reader: three endpoints, the class descriptor behind the interface.
var reader = []byte{
	18, 1, 0x10, 1, 0, 0, 0, 64, 0xE6, 0x08, 0x33, 0x44, 0, 0, 1, 2, 3, 1,
	9, 2, 93, 0, 1, 1, 0, 0xE0, 50,
	9, 4, 0, 0, 3, 0x0B, 0, 0, 0,
	54, 0x21, 0x10, 1, 0, 7, 3, 0, 0, 0, 0xA0, 0x0F, 0, 0, 0xA0, 0x0F, 0, 0, 0, 0x80, 0x25, 0, 0, 0x80, 0x25, 0, 0, 0, 0xFE, 0, 0, 0,
	0, 0, 0, 0, 0, 0, 0, 0, 0xFE, 4, 1, 0, 0x12, 0, 1, 0, 0xFF, 0xFF, 0, 0, 0, 1,
	7, 5, 0x81, 3, 64, 0, 0xFF,
	7, 5, 0x82, 2, 64, 0, 0,
	7, 5, 0x03, 2, 64, 0, 0,
}

func TestParseInterfacesOfAReader(t *testing.T) {
	interfaces, err := usbtransport.ParseInterfaces(reader)
	require.NoError(t, err)
	require.Len(t, interfaces, 1)
	i := interfaces[0]
	assert.Equal(t, uint8(0x0B), i.Class)
	assert.Len(t, i.Extra, 54)
	assert.Equal(t, []usbtransport.EndpointDescriptor{
		{Address: 0x81, Type: usbtransport.TransferInterrupt, MaxPacketSize: 64, Interval: 255},
		{Address: 0x82, Type: usbtransport.TransferBulk, MaxPacketSize: 64},
		{Address: 0x03, Type: usbtransport.TransferBulk, MaxPacketSize: 64},
	}, i.Endpoints)
	assert.True(t, i.Endpoints[1].In())
	assert.False(t, i.Endpoints[2].In())
}

func TestParseInterfacesKeepsWhatFollowsAnEndpointWithIt(t *testing.T) {
	interfaces, err := usbtransport.ParseInterfaces([]byte{
		3, 0x24, 9, // belongs to no interface
		9, 4, 1, 2, 9, 0xFF, 5, 6, 0,
		3, 0x21, 1,
		9, 5, 0x81, 0xFF, 0xFF, 0xFF, 3, 0, 0, // an endpoint descriptor may be longer
		3, 0x21, 2, 6, 0x30, 0, 0, 0, 0,
		9, 4, 1, 3, 0, 0, 0, 0, 0,
	})
	require.NoError(t, err)
	require.Equal(t, []usbtransport.InterfaceDescriptor{
		{
			Number: 1, AlternateSetting: 2, Class: 0xFF, SubClass: 5, Protocol: 6, Extra: []byte{3, 0x21, 1},
			Endpoints: []usbtransport.EndpointDescriptor{
				{Address: 0x81, Type: usbtransport.TransferInterrupt, MaxPacketSize: 0x7FF, Interval: 3, Extra: []byte{3, 0x21, 2, 6, 0x30, 0, 0, 0, 0}},
			},
		},
		{Number: 1, AlternateSetting: 3},
	}, interfaces)
}

func TestParseInterfacesStopsAtTheSecondConfiguration(t *testing.T) {
	interfaces, err := usbtransport.ParseInterfaces(append(append([]byte(nil), reader...), reader[18:]...))
	require.NoError(t, err)
	require.Len(t, interfaces, 1)
}

func TestParseInterfacesNamesTheOffsetOfWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct {
		tail []byte
		want string
	}{
		"length 0":                 {[]byte{0, 0}, "offset 111: bLength 0"},
		"length 1":                 {[]byte{1}, "offset 111: bLength 1"},
		"past the end":             {[]byte{9, 4, 1}, "offset 111: bLength 9, but 3 bytes are left"},
		"a short interface":        {[]byte{8, 4, 0, 0, 0, 0, 0, 0}, "offset 111: interface descriptor of 8 bytes"},
		"a short endpoint":         {[]byte{6, 5, 0, 0, 0, 0}, "offset 111: endpoint descriptor of 6 bytes"},
		"more than can be sincere": {make2(2048), "more than 1024"},
	} {
		interfaces, err := usbtransport.ParseInterfaces(append(append([]byte(nil), reader...), c.tail...))
		require.ErrorContains(t, err, c.want, name)
		require.Len(t, interfaces, 1, "what stood before it is returned")
	}
}

// make2 returns descriptors of two bytes.
func make2(n int) []byte {
	raw := make([]byte, 0, 2*n)
	for range n {
		raw = append(raw, 2, 0xFF)
	}
	return raw
}

func FuzzParseInterfaces(f *testing.F) {
	f.Add(reader)
	f.Add(reader[:50])
	f.Fuzz(func(t *testing.T, raw []byte) {
		before := append([]byte{}, raw...)
		interfaces, err := usbtransport.ParseInterfaces(raw)
		total := 0
		for _, i := range interfaces {
			total += 9 + len(i.Extra)
			for _, e := range i.Endpoints {
				total += 7 + len(e.Extra)
				require.LessOrEqual(t, e.MaxPacketSize, 0x7FF)
			}
		}
		require.LessOrEqual(t, total, len(raw), "nothing comes from nowhere")
		for i := range interfaces { // callers may append: it must not write into raw
			interfaces[i].Extra = append(interfaces[i].Extra, 0xAA)
		}
		require.Equal(t, before, raw)
		require.True(t, err == nil || len(raw) > 0, "no bytes are no error")
	})
}

func TestErrorIsItsKindAndItsCause(t *testing.T) {
	err := error(&usbtransport.Error{Op: "bulk in", Device: "1-1.2", Endpoint: 0x82, Kind: usbtransport.ErrStalled, Cause: io.ErrUnexpectedEOF})
	assert.EqualError(t, err, "usb 1-1.2: bulk in 0x82: endpoint stalled (unexpected EOF)")
	assert.ErrorIs(t, err, usbtransport.ErrStalled)
	assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
	assert.NotErrorIs(t, err, usbtransport.ErrRemoved)

	err = &usbtransport.Error{Op: "watch", Kind: usbtransport.ErrClosed}
	assert.EqualError(t, err, "usb: watch: closed")
	assert.ErrorIs(t, err, usbtransport.ErrClosed)
}

func TestTimeoutsAndCancellationsAreThoseOfContext(t *testing.T) {
	timeout := &usbtransport.Error{Op: "bulk in", Kind: usbtransport.ErrTimedOut}
	assert.ErrorIs(t, timeout, context.DeadlineExceeded)
	assert.True(t, timeout.Timeout())
	cancelled := &usbtransport.Error{Op: "bulk in", Kind: usbtransport.ErrCancelled}
	assert.ErrorIs(t, cancelled, context.Canceled)
	assert.NotErrorIs(t, cancelled, context.DeadlineExceeded)
	assert.False(t, cancelled.Timeout())

	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	<-ctx.Done()
	assert.Equal(t, usbtransport.ErrTimedOut, usbtransport.ContextKind(ctx))
	cancel()
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	assert.Equal(t, usbtransport.ErrCancelled, usbtransport.ContextKind(ctx))
}

func TestBusyErrorNamesHolders(t *testing.T) {
	assert.EqualError(t, &usbtransport.BusyError{}, "held by another process")
	assert.EqualError(t, &usbtransport.BusyError{Holders: []usbtransport.Holder{{Driver: "usbfs"}}}, "held by another process")
	holders := []usbtransport.Holder{{Driver: "pn533_usb"}, {Driver: "usbfs", PID: 512, Process: "pcscd"}}
	err := error(&usbtransport.Error{Op: "open", Device: "1-1", Kind: usbtransport.ErrBusy, Cause: &usbtransport.BusyError{Holders: holders}})
	assert.EqualError(t, err, "usb 1-1: open: interface is in use (held by kernel driver pn533_usb and process pcscd (PID 512))")
	var busy *usbtransport.BusyError
	require.True(t, errors.As(err, &busy))
	assert.Equal(t, holders, busy.Holders)
}

func TestNames(t *testing.T) {
	assert.Equal(t, "1-1.2 08e6:4433", usbtransport.DeviceInfo{PortPath: "1-1.2", IDVendor: 0x08E6, IDProduct: 0x4433}.String())
	for kind, name := range map[usbtransport.EventKind]string{
		usbtransport.Arrived: "arrived", usbtransport.Removed: "removed", usbtransport.Changed: "changed", 0: "unknown",
	} {
		assert.Equal(t, name, kind.String())
	}
}
