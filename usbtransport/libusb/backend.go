//go:build libusb

package libusb

import (
	"context"

	"github.com/goccid/goccid/usbtransport"
)

// Backend is a usbtransport.Backend over libusb.
type Backend struct{ options Options }

var _ usbtransport.Backend = (*Backend)(nil)

// New initialises libusb.
func New(options Options) (*Backend, error) { return &Backend{options: options}, nil }

// Name returns "libusb".
func (b *Backend) Name() string { return "libusb" }

// Devices implements usbtransport.Backend.
func (b *Backend) Devices(context.Context) ([]usbtransport.DeviceInfo, error) {
	return nil, todo("devices")
}

// Watch implements usbtransport.Backend.
func (b *Backend) Watch(context.Context) (usbtransport.Watcher, error) { return nil, todo("watch") }

// Open implements usbtransport.Backend.
func (b *Backend) Open(context.Context, usbtransport.DeviceInfo, uint8) (usbtransport.Interface, error) {
	return nil, todo("open")
}

// Close ends libusb's event handling. Interfaces must be closed before.
func (b *Backend) Close() error { return nil }

func todo(op string) error { return &usbtransport.Error{Op: op, Kind: usbtransport.ErrNotSupported} }
