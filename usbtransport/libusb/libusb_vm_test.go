//go:build libusb && linux

package libusb_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/test/vm/vmtest"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/usbtransport/libusb"
	"github.com/goccid/goccid/usbtransport/transporttest"
)

func vmFixture(t testing.TB) transporttest.Fixture {
	vmtest.Require(t)
	backend, err := libusb.New(libusb.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, backend.Close()) })
	return transporttest.Fixture{
		Backend: backend,
		Match: func(d usbtransport.DeviceInfo) bool {
			return d.IDVendor == vmtest.IDVendor && d.IDProduct == vmtest.IDProduct
		},
		// The machine is emulated, on a host that has other work: 50 ms of ours may be many of its.
		RemovalTime: 500 * time.Millisecond,
		Unplug: func() error {
			vmtest.Unplug(t)
			return nil
		},
		Plug: func() error {
			vmtest.Plug(t)
			return nil
		},
	}
}

func TestVMConformance(t *testing.T) {
	vmtest.Require(t)
	transporttest.Run(t, vmFixture)
}
