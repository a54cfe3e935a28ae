// Package libusb reaches USB devices through libusb-1.0, by github.com/google/gousb: for the systems that have no usbfs,
// and as a second opinion on Linux. It needs cgo and the build tag libusb; without them the package holds Options and
// a New that returns usbtransport.ErrNotSupported, so that programs need no build tags of their own.
package libusb

import "github.com/sirupsen/logrus"

// Options configures a Backend. The zero value is what programs want.
type Options struct {
	// Logger receives debug messages; nil discards them.
	Logger logrus.FieldLogger
}
