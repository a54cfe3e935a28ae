package virtual

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/goccid/goccid/usbtransport"
)

// Device is what can be plugged into a Bus: a Reader, a Script, a Loopback.
//
// The bus calls Attach and Detach in turns, and Control and Out between them, from the goroutines of the host.
type Device interface {
	// Describe returns the device's identity, strings and descriptors. What is about one plug-in (Key, Bus, Address,
	// PortPath) is set by the bus.
	Describe() usbtransport.DeviceInfo
	// Attach says that the device is plugged in, or its port was reset.
	Attach(p *Port)
	// Detach says that the device has lost its power. It returns when no goroutine of the device is left.
	Detach()
	// Control answers a request on endpoint 0 that is not a standard one; data is what the host sends, or where the
	// answer goes. false stalls.
	Control(setup usbtransport.Setup, data []byte) (n int, ok bool)
	// Out takes one transfer to an OUT endpoint. data is the device's only during the call.
	Out(endpoint uint8, data []byte)
}

// Port is a device's end of the cable, from Attach to Detach.
type Port struct {
	plug *plug
}

// maxQueued bounds what an IN endpoint keeps for a host that does not read.
const maxQueued = 256

// Send queues one transfer for an IN endpoint. It is dropped when the device is unplugged, or when the host has left
// 256 transfers of this endpoint unread. data is the bus's from now on.
func (p *Port) Send(endpoint uint8, data []byte) {
	p.plug.queue(endpoint, &delivery{bytes: data})
}

// SendLate queues one transfer whose bytes are asked for when the host reads it.
func (p *Port) SendLate(endpoint uint8, data func() []byte) {
	p.plug.queue(endpoint, &delivery{late: data})
}

// Stall halts an endpoint until the host clears the halt.
func (p *Port) Stall(endpoint uint8) { p.plug.setHalt(endpoint, true) }

// TransferKind is the kind of a Transfer.
type TransferKind uint8

// The kinds of transfer.
const (
	ControlTransfer TransferKind = iota + 1
	BulkOutTransfer
	BulkInTransfer
	InterruptInTransfer
)

// String returns "control", "bulk out", "bulk in" or "interrupt in".
func (k TransferKind) String() string {
	switch k {
	case ControlTransfer:
		return "control"
	case BulkOutTransfer:
		return "bulk out"
	case BulkInTransfer:
		return "bulk in"
	case InterruptInTransfer:
		return "interrupt in"
	}
	return "unknown"
}

// Transfer is a transfer that a host is about to make.
type Transfer struct {
	// Index counts the transfers on the bus since Bus.Inject, from 0, in the order in which they begin.
	Index int
	// Device is the device.
	Device usbtransport.DeviceInfo
	// Kind and Endpoint say where the bytes go.
	Kind     TransferKind
	Endpoint uint8
	// Setup is that of a control transfer.
	Setup usbtransport.Setup
	// Data are the bytes that a bulk OUT transfer sends; nil for the others.
	Data []byte
}

// FaultKind is what goes wrong with a transfer.
type FaultKind uint8

// The kinds of fault. "The answer" is the transfer that an IN endpoint would deliver.
const (
	// NoFault lets the transfer be.
	NoFault FaultKind = iota
	// RemoveBefore unplugs the device before the transfer begins: the device never sees it.
	RemoveBefore
	// RemoveDuring unplugs it in the middle: the device has seen what was sent, the host gets no result.
	RemoveDuring
	// RemoveAfter unplugs it when the transfer has succeeded, before the call returns.
	RemoveAfter
	// Stall halts the endpoint.
	Stall
	// IOError fails the transfer with usbtransport.ErrIO.
	IOError
	// Overflow fails an IN transfer with usbtransport.ErrOverflow; the answer is lost.
	Overflow
	// Timeout lets the transfer wait until its context ends; nothing is lost.
	Timeout
	// Drop loses the bytes: what is sent does not reach the device though the transfer succeeds, the answer does not
	// reach the host, which goes on waiting.
	Drop
	// Delay holds the transfer up for Fault.Delay.
	Delay
	// Truncate cuts the bytes off after Fault.Length.
	Truncate
	// Garble replaces the bytes with others, as many.
	Garble
	// WrongSeq changes bSeq of a CCID message.
	WrongSeq
	// WrongSlot changes bSlot of a CCID message.
	WrongSlot
	// Duplicate delivers the bytes twice.
	Duplicate
	// ZeroLength delivers an empty transfer before the bytes.
	ZeroLength
	// Hold keeps the answer back until the next one comes, and delivers it before that: a late answer.
	Hold
)

var faultNames = [...]string{
	"none", "remove before", "remove during", "remove after", "stall", "I/O error", "overflow", "timeout", "drop", "delay", "truncate",
	"garble", "wrong bSeq", "wrong bSlot", "duplicate", "zero length", "late",
}

// String returns a name for tables.
func (k FaultKind) String() string {
	if int(k) < len(faultNames) {
		return faultNames[k]
	}
	return "unknown"
}

// Fault is what a FaultFunc orders for one transfer.
type Fault struct {
	Kind FaultKind
	// Delay is for Delay.
	Delay time.Duration
	// Length is for Truncate, in bytes.
	Length int
}

// FaultFunc decides about each transfer when it begins. It is called by the host's goroutines, perhaps by several at once,
// and must not call the bus.
type FaultFunc func(Transfer) Fault

// FaultAt is a FaultFunc that orders f for the transfer with the given index, and nothing for the others.
func FaultAt(index int, f Fault) FaultFunc {
	return func(t Transfer) Fault {
		if t.Index == index {
			return f
		}
		return Fault{}
	}
}

// damage returns the bytes as the fault makes them.
func (f Fault) damage(b []byte) []byte {
	const offsetSlot, offsetSeq = 5, 6
	switch f.Kind {
	case Truncate:
		return b[:max(0, min(f.Length, len(b)))]
	case Garble:
		b = slices.Clone(b)
		for i := range b {
			b[i] = byte(0xA5 + 89*i)
		}
	case WrongSeq:
		if len(b) > offsetSeq {
			b = slices.Clone(b)
			b[offsetSeq] += 0x55
		}
	case WrongSlot:
		if len(b) > offsetSlot {
			b = slices.Clone(b)
			b[offsetSlot] ^= 0x2A
		}
	}
	return b
}

var errReset = errors.New("the port was reset")

// ended reports whether ctx has ended, as an error kind.
func ended(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return usbtransport.ContextKind(ctx)
}
