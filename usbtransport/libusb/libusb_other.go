//go:build !libusb

package libusb

import (
	"context"
	"errors"

	"github.com/goccid/goccid/usbtransport"
)

// Backend can do nothing: this program was built without the tag libusb.
type Backend struct{}

var _ usbtransport.Backend = (*Backend)(nil)

// New returns usbtransport.ErrNotSupported: this program was built without the tag libusb.
func New(Options) (*Backend, error) { return nil, unsupported("init") }

// Name returns "libusb".
func (b *Backend) Name() string { return "libusb" }

// Devices returns usbtransport.ErrNotSupported.
func (b *Backend) Devices(context.Context) ([]usbtransport.DeviceInfo, error) {
	return nil, unsupported("devices")
}

// Watch returns usbtransport.ErrNotSupported.
func (b *Backend) Watch(context.Context) (usbtransport.Watcher, error) {
	return nil, unsupported("watch")
}

// Open returns usbtransport.ErrNotSupported.
func (b *Backend) Open(context.Context, usbtransport.DeviceInfo, uint8) (usbtransport.Interface, error) {
	return nil, unsupported("open")
}

// Close does nothing.
func (b *Backend) Close() error { return nil }

func unsupported(op string) error {
	return &usbtransport.Error{Op: op, Kind: usbtransport.ErrNotSupported, Cause: errors.New("built without the tag libusb")}
}
