package usbip

import (
	"errors"
	"fmt"

	"github.com/goccid/goccid/usbtransport"
)

// status is how a transfer ended: 0, or a negative errno. The numbers are those of Linux on most architectures, whatever the
// systems at both ends.
type status int32

const (
	statusSuccess     status = 0
	statusNotFound    status = -2   // ENOENT: taken back
	statusGone        status = -19  // ENODEV
	statusInvalid     status = -22  // EINVAL
	statusStalled     status = -32  // EPIPE
	statusProtocol    status = -71  // EPROTO: an error on the bus
	statusOverflow    status = -75  // EOVERFLOW
	statusTakenBack   status = -104 // ECONNRESET
	statusShutdown    status = -108 // ESHUTDOWN: the device or its host controller is switched off
	statusShortPacket status = -121 // EREMOTEIO: less than was asked for, and the client does not want that
)

// Error returns "status -32 (EPIPE)".
func (s status) Error() string {
	name := s.name()
	if name == "" {
		return fmt.Sprintf("status %d", int32(s))
	}
	return fmt.Sprintf("status %d (%s)", int32(s), name)
}

func (s status) name() string {
	switch s {
	case statusSuccess:
		return "success"
	case statusNotFound:
		return "ENOENT"
	case statusGone:
		return "ENODEV"
	case statusInvalid:
		return "EINVAL"
	case statusStalled:
		return "EPIPE"
	case statusProtocol:
		return "EPROTO"
	case statusOverflow:
		return "EOVERFLOW"
	case statusTakenBack:
		return "ECONNRESET"
	case statusShutdown:
		return "ESHUTDOWN"
	case statusShortPacket:
		return "EREMOTEIO"
	}
	return ""
}

// takenBack reports whether a transfer with this status was taken back.
func (s status) takenBack() bool { return s == statusTakenBack || s == statusNotFound }

// kind maps a status that is not a success to a kind of error.
func (s status) kind() error {
	switch s {
	case statusStalled:
		return usbtransport.ErrStalled
	case statusOverflow:
		return usbtransport.ErrOverflow
	case statusGone, statusShutdown:
		return usbtransport.ErrRemoved
	}
	return usbtransport.ErrIO
}

// statusOf maps an error of a backend to a status.
func statusOf(err error) status {
	switch {
	case err == nil:
		return statusSuccess
	case errors.Is(err, usbtransport.ErrRemoved):
		return statusGone
	case errors.Is(err, usbtransport.ErrStalled), errors.Is(err, usbtransport.ErrNotSupported):
		return statusStalled
	case errors.Is(err, usbtransport.ErrOverflow):
		return statusOverflow
	case errors.Is(err, usbtransport.ErrCancelled), errors.Is(err, usbtransport.ErrTimedOut):
		return statusTakenBack
	case errors.Is(err, usbtransport.ErrClosed):
		return statusShutdown
	case errors.Is(err, usbtransport.ErrInvalid):
		return statusInvalid
	}
	return statusProtocol
}
