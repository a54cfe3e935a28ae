//go:build !linux

package usbfs

import (
	"context"
	"fmt"
	"runtime"

	"github.com/goccid/goccid/usbtransport"
)

// Backend is of no use on this system: each method returns usbtransport.ErrNotSupported.
type Backend struct{}

var _ usbtransport.Backend = (*Backend)(nil)

// New returns a backend that can do nothing on this system.
func New(Options) *Backend { return &Backend{} }

// Name returns "usbfs".
func (b *Backend) Name() string { return "usbfs" }

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

func unsupported(op string) error {
	return &usbtransport.Error{Op: op, Kind: usbtransport.ErrNotSupported, Cause: fmt.Errorf("usbfs needs Linux, this is %s", runtime.GOOS)}
}
