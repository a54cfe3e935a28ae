//go:build linux

package usbfs_test

import (
	"testing"

	"github.com/goccid/goccid/test/vm/vmtest"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/usbtransport/transporttest"
	"github.com/goccid/goccid/usbtransport/usbfs"
)

func vmFixture(t testing.TB) transporttest.Fixture {
	vmtest.Require(t)
	return transporttest.Fixture{
		Backend: usbfs.New(usbfs.Options{}),
		Match: func(d usbtransport.DeviceInfo) bool {
			return d.IDVendor == vmtest.IDVendor && d.IDProduct == vmtest.IDProduct
		},
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
