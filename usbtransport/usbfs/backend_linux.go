package usbfs

import (
	"context"

	"github.com/goccid/goccid/usbtransport"
)

// Backend is a usbtransport.Backend over Linux usbfs.
type Backend struct{ options Options }

var _ usbtransport.Backend = (*Backend)(nil)

// New returns a backend. It does no I/O.
func New(options Options) *Backend { return &Backend{options: options} }

// Name returns "usbfs".
func (b *Backend) Name() string { return "usbfs" }

// Devices implements usbtransport.Backend.
func (b *Backend) Devices(context.Context) ([]usbtransport.DeviceInfo, error) { return nil, todo("devices") }

// Watch implements usbtransport.Backend.
func (b *Backend) Watch(context.Context) (usbtransport.Watcher, error) { return nil, todo("watch") }

// Open implements usbtransport.Backend.
func (b *Backend) Open(context.Context, usbtransport.DeviceInfo, uint8) (usbtransport.Interface, error) {
	return nil, todo("open")
}

func todo(op string) error { return &usbtransport.Error{Op: op, Kind: usbtransport.ErrNotSupported} }
