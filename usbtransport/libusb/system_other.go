//go:build libusb && !linux

package libusb

import "github.com/sirupsen/logrus"

func newSystem(b *Backend, _ logrus.FieldLogger) system { return newScanner(b) }
