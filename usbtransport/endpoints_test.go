package usbtransport

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEndpointsCheckCallsBeforeTheyReachTheDevice(t *testing.T) {
	endpoints := NewEndpoints([]EndpointDescriptor{
		{Address: 0x01, Type: TransferBulk, MaxPacketSize: 64},
		{Address: 0x82, Type: TransferBulk, MaxPacketSize: 64},
		{Address: 0x82, Type: TransferInterrupt, MaxPacketSize: 8},
		{Address: 0x83, Type: TransferInterrupt, MaxPacketSize: 8},
		{Address: 0x84, Type: TransferBulk},
	})
	out := func(address uint8, size int) error {
		_, err := endpoints.CheckOut(address, size)
		return err
	}
	in := func(address uint8, want TransferType, size int) error {
		_, err := endpoints.CheckIn(address, want, size)
		return err
	}
	for _, tc := range []struct {
		name string
		err  error
		want string // "" for none
	}{
		{"bulk out", out(0x01, 10), ""},
		{"empty bulk out", out(0x01, 0), ""},
		{"longest bulk out", out(0x01, MaxTransfer), ""},
		{"too long bulk out", out(0x01, MaxTransfer+1), "1048577 bytes, the most is 1048576"},
		{"bulk out to an IN endpoint", out(0x82, 10), "the endpoint is of another type or direction"},
		{"bulk out to nowhere", out(0x05, 10), "the interface has no such endpoint"},
		{"bulk in", in(0x82, TransferBulk, 128), ""},
		{"the second descriptor of an address", in(0x82, TransferInterrupt, 64), "the endpoint is of another type or direction"},
		{"interrupt in", in(0x83, TransferInterrupt, 8), ""},
		{"buffer of no packet", in(0x82, TransferBulk, 0), "a buffer of 0 bytes, needs a multiple of wMaxPacketSize 64 up to 1048576"},
		{"buffer of part of a packet", in(0x82, TransferBulk, 65), "a buffer of 65 bytes, needs a multiple of wMaxPacketSize 64 up to 1048576"},
		{"buffer too long", in(0x82, TransferBulk, MaxTransfer+64), "a buffer of 1048640 bytes, needs a multiple of wMaxPacketSize 64 up to 1048576"},
		{"endpoint without packets", in(0x84, TransferBulk, 64), "wMaxPacketSize is 0"},
		{"longest control", CheckControl(MaxControl), ""},
		{"too long control", CheckControl(MaxControl + 1), "4097 bytes, the most is 4096"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.want == "" {
				require.NoError(t, tc.err)
				return
			}
			require.EqualError(t, tc.err, tc.want)
		})
	}
}

func TestEndpointsOfAnInterfaceAreThoseOfItsFirstSetting(t *testing.T) {
	raw := []byte{
		9, DescriptorInterface, 3, 1, 1, 0x0B, 0, 0, 0,
		7, DescriptorEndpoint, 0x05, 2, 64, 0, 0,
		9, DescriptorInterface, 3, 0, 1, 0x0B, 0, 0, 0,
		7, DescriptorEndpoint, 0x82, 2, 64, 0, 0,
	}
	endpoints, err := EndpointsOf(raw, 3)
	require.NoError(t, err)
	require.Equal(t, Endpoints{0x82: {Address: 0x82, Type: TransferBulk, MaxPacketSize: 64}}, endpoints)
	_, err = EndpointsOf(raw, 0)
	require.EqualError(t, err, "the device has no interface 0")
	_, err = EndpointsOf(append(raw, 9), 0)
	require.ErrorContains(t, err, "offset 32")
}
