//go:build libusb

package libusb

import (
	"context"

	"github.com/sirupsen/logrus"

	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/usbtransport/usbfs"
)

// linux lists and watches devices as usbfs does: libusb reads the same files, but drops the class descriptors and waits for
// udevd, and its devices have no key.
type linux struct{ usbfs *usbfs.Backend }

func newSystem(_ *Backend, log logrus.FieldLogger) system {
	return linux{usbfs: usbfs.New(usbfs.Options{Logger: log})}
}

func (l linux) devices(ctx context.Context) ([]usbtransport.DeviceInfo, error) {
	return l.usbfs.Devices(ctx)
}

func (l linux) watch(ctx context.Context) (usbtransport.Watcher, error) { return l.usbfs.Watch(ctx) }

// explain tries the same through usbfs, which knows the holders and has its watchers told when they let go.
func (l linux) explain(ctx context.Context, device usbtransport.DeviceInfo, number uint8, _ error) error {
	opened, err := l.usbfs.Open(ctx, device, number)
	if err != nil {
		return err
	}
	return opened.Close()
}
