//go:build linux

package usbfs_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/usbtransport/usbfs"
)

// openEnv has this test program open the device with that port path instead of running tests, say what came of it, and
// keep the interface until its standard input ends: the other process of tests about busy and forbidden devices.
const openEnv = "GOCCID_USBFS_TEST_OPEN"

func TestMain(m *testing.M) {
	if path := os.Getenv(openEnv); path != "" {
		openAndHold(path)
		return
	}
	goleak.VerifyTestMain(m)
}

func openAndHold(path string) {
	ctx := context.Background()
	backend := usbfs.New(usbfs.Options{})
	devices, err := backend.Devices(ctx)
	var opened usbtransport.Interface
	for _, d := range devices {
		if d.PortPath == path {
			opened, err = backend.Open(ctx, d, 0)
		}
	}
	fmt.Println(err)
	_, _ = os.Stdin.Read(make([]byte, 1))
	if opened != nil {
		_ = opened.Close()
	}
}
