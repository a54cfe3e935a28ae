package usbtransport

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// The kinds of failure, to be tested with errors.Is. Every error of a backend is an *Error with one of these.
var (
	// ErrRemoved: the device was unplugged (or its bus is gone).
	ErrRemoved = errors.New("device removed")
	// ErrStalled: the endpoint is halted, or the control request was refused (USB 2.0 §8.5.3.4).
	ErrStalled = errors.New("endpoint stalled")
	// ErrTimedOut: the context's deadline passed. It is also context.DeadlineExceeded.
	ErrTimedOut = fmt.Errorf("timed out: %w", context.DeadlineExceeded)
	// ErrCancelled: the context was cancelled. It is also context.Canceled.
	ErrCancelled = fmt.Errorf("cancelled: %w", context.Canceled)
	// ErrOverflow: the device sent more than the buffer holds (babble).
	ErrOverflow = errors.New("device sent more than was asked for")
	// ErrIO: the transfer failed on the bus (CRC, time-out of a packet, bit stuffing) or in the host.
	ErrIO = errors.New("transfer failed")
	// ErrReset: the transfer was ended by a reset of the device that nobody asked for here, or by a driver's unbinding. It is
	// a Cause of an ErrIO, from backends that can tell.
	ErrReset = errors.New("device was reset")
	// ErrBusy: a kernel driver or another process holds the interface; see BusyError.
	ErrBusy = errors.New("interface is in use")
	// ErrPermission: this user may not open the device.
	ErrPermission = errors.New("permission denied")
	// ErrNotSupported: the backend or the platform can't do this.
	ErrNotSupported = errors.New("not supported")
	// ErrClosed: the interface or the watcher was closed.
	ErrClosed = errors.New("closed")
	// ErrInvalid: the caller's arguments break a rule that is written on the method.
	ErrInvalid = errors.New("invalid argument")
)

// Error is a failed operation of a backend.
type Error struct {
	// Op is the operation: "open", "control", "bulk out", "bulk in", "interrupt in", "clear halt", "reset", "watch" …
	Op string
	// Device is the device's port path, "" where the operation is not about one device.
	Device string
	// Endpoint is the endpoint's address, 0 where the operation is not about one.
	Endpoint uint8
	// Kind is one of the Err… values of this package.
	Kind error
	// Cause is the system's or library's own error, a *BusyError, or nil.
	Cause error
}

// Error returns one line: "usb 1-1.2: bulk in 0x82: endpoint stalled (broken pipe)".
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("usb")
	if e.Device != "" {
		b.WriteString(" " + e.Device)
	}
	b.WriteString(": " + e.Op)
	if e.Endpoint != 0 {
		fmt.Fprintf(&b, " 0x%02x", e.Endpoint)
	}
	fmt.Fprintf(&b, ": %v", e.Kind)
	if e.Cause != nil {
		fmt.Fprintf(&b, " (%v)", e.Cause)
	}
	return b.String()
}

// Unwrap gives errors.Is and errors.As both the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Cause == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Cause}
}

// Timeout reports whether the operation's deadline passed, as net.Error does.
func (e *Error) Timeout() bool { return errors.Is(e.Kind, ErrTimedOut) }

// Holder is somebody who keeps an interface from being claimed.
type Holder struct {
	// Driver is the kernel driver bound to the interface ("pn533_usb"), or "usbfs" for a user-space process.
	Driver string
	// PID and Process are the process's number and name, 0 and "" where they can't be known.
	PID     int
	Process string
}

// String returns "kernel driver pn533_usb", "process pcscd (PID 512)" or "another process".
func (h Holder) String() string {
	switch {
	case h.PID != 0:
		return fmt.Sprintf("process %s (PID %d)", h.Process, h.PID)
	case h.Driver != "" && h.Driver != "usbfs":
		return "kernel driver " + h.Driver
	}
	return "another process"
}

// BusyError is the Cause of an ErrBusy where the holders are known.
type BusyError struct {
	Holders []Holder
}

// Error returns "held by process pcscd (PID 512)".
func (e *BusyError) Error() string {
	if len(e.Holders) == 0 {
		return "held by another process"
	}
	names := make([]string, len(e.Holders))
	for i, h := range e.Holders {
		names[i] = h.String()
	}
	return "held by " + strings.Join(names, " and ")
}

// ContextKind returns the kind of error for a context that has ended: ErrTimedOut or ErrCancelled.
func ContextKind(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return ErrTimedOut
	}
	return ErrCancelled
}
