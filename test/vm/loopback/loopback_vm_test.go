//go:build linux && libusb

package loopback

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/goccid/goccid/test/vm/vmtest"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/usbtransport/libusb"
	"github.com/goccid/goccid/usbtransport/transporttest"
	"github.com/goccid/goccid/usbtransport/usbfs"
	"github.com/goccid/goccid/virtual"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestVMLoopbackUSBFS(t *testing.T) {
	vmtest.Require(t)
	transporttest.Run(t, func(t testing.TB) transporttest.Fixture {
		f := fixture(t)
		f.Backend = usbfs.New(usbfs.Options{})
		return f
	})
}

func TestVMLoopbackLibusb(t *testing.T) {
	vmtest.Require(t)
	transporttest.Run(t, func(t testing.TB) transporttest.Fixture {
		f := fixture(t)
		// Once the device is there: without udevd, libusb knows of no others.
		backend, err := libusb.New(libusb.Options{})
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, backend.Close()) })
		f.Backend = backend
		return f
	})
}

// fixture plugs a loopback device into the kernel, for a backend to find it there.
func fixture(t testing.TB) transporttest.Fixture {
	bus, device := virtual.NewBus(), virtual.NewLoopback()
	t.Cleanup(func() {
		assert.NoError(t, bus.Close())
		vmtest.AwaitNoImport(t)
	})
	vmtest.Export(t, bus)
	plug := func() error {
		info, err := bus.Plug(device)
		if err == nil {
			vmtest.Import(t, info.PortPath)
		}
		return err
	}
	require.NoError(t, plug())
	return transporttest.Fixture{
		Loopback: true,
		Match: func(d usbtransport.DeviceInfo) bool {
			return d.IDVendor == virtual.LoopbackVendor && d.IDProduct == virtual.LoopbackProduct
		},
		// The machine is emulated, and the removal has to come through a connection of TCP.
		RemovalTime: time.Second,
		Unplug: func() error {
			bus.Unplug(device)
			vmtest.AwaitNoImport(t)
			return nil
		},
		Plug:           plug,
		Stall:          func(endpoint uint8) error { device.Stall(endpoint); return nil },
		QueueInterrupt: func(data []byte) error { device.Interrupt(data); return nil },
	}
}
