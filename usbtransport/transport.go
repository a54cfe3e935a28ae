// Package usbtransport is what a driver needs of USB, and nothing more: enumerate devices, watch them come and go,
// open one interface of one of them, and move bytes over its endpoints.
//
// The backends (usbfs, libusb, usbip, a capture file, a virtual bus) implement Backend; the rules written on the
// interfaces below are checked for each of them by the suite in package transporttest. The package knows nothing of
// CCID, and does no I/O itself.
package usbtransport

import "context"

// Backend gives access to the USB devices that one mechanism can reach.
//
// All methods may be called from several goroutines at once.
type Backend interface {
	// Name is the backend's short name, as used on command lines ("usbfs", "libusb", "virtual").
	Name() string

	// Devices returns the devices that are present now, ordered by bus and port path. A device whose descriptors
	// can't be read is in the list all the same, with Descriptors nil and Unreadable set.
	Devices(ctx context.Context) ([]DeviceInfo, error)

	// Watch starts to watch arrivals and removals. The watcher first reports an arrival for each device that is
	// present, so that a caller that watches needs no Devices and misses nothing in between. Watch waits for no other
	// machine: a backend whose devices are at one reports those that it does not know yet as soon as it has been told
	// of them. ctx bounds the start only; the watcher lives until its Close.
	Watch(ctx context.Context) (Watcher, error)

	// Open claims interface number number of the device. It never takes an interface away from somebody else:
	// where a kernel driver or another process holds it, the error is ErrBusy and a *BusyError says who. A device
	// that is gone, or whose Key now belongs to another plug-in, gives ErrRemoved.
	Open(ctx context.Context, device DeviceInfo, number uint8) (Interface, error)
}

// Watcher delivers arrivals and removals in the order in which they happened. A device's arrival always precedes its
// removal, and a removal precedes the arrival of the next device with the same port path.
type Watcher interface {
	// Next waits for the next event. It returns ErrCancelled or ErrTimedOut when ctx ends first (the watcher goes
	// on, and no event is lost), and ErrClosed after Close.
	Next(ctx context.Context) (Event, error)

	// Close ends the watch and wakes a waiting Next. It may be called at any time, from any goroutine, repeatedly.
	Close() error
}

// EventKind says what happened to a device.
type EventKind uint8

// The kinds of an Event.
const (
	Arrived EventKind = iota + 1
	Removed
	// Changed reports that a device which had arrived is worth another try: its node's permissions were set, or an
	// interface of it became free. It may be reported without need.
	Changed
)

// String returns "arrived", "removed" or "changed".
func (k EventKind) String() string {
	switch k {
	case Arrived:
		return "arrived"
	case Removed:
		return "removed"
	case Changed:
		return "changed"
	}
	return "unknown"
}

// Event is one arrival, removal or change. For Removed, only Device.Key and what was known of the device before are set.
type Event struct {
	Kind   EventKind
	Device DeviceInfo
}

// DeviceInfo describes one plug-in of one USB device.
type DeviceInfo struct {
	// Key identifies this plug-in within its backend: the same device plugged in again has another Key.
	Key string
	// Bus and Address are the bus number and the device's address on it (1..127).
	Bus, Address int
	// PortPath is the physical place: bus number, then the chain of hub ports ("1-1.2"). It stays the same when a
	// device is plugged into the same port again.
	PortPath string

	// IDVendor, IDProduct and BCDDevice are those of the device descriptor (USB 2.0 §9.6.1).
	IDVendor, IDProduct, BCDDevice uint16
	// Manufacturer, Product and SerialNumber are the device's strings; empty where it has none or they can't be read.
	Manufacturer, Product, SerialNumber string

	// Descriptors holds the raw bytes of the device descriptor followed by those of the active configuration, with
	// every class-specific descriptor; nil where they can't be read without access to the device.
	Descriptors []byte
	// Drivers names the kernel driver that is bound to an interface, by interface number, where that is known.
	Drivers map[uint8]string
	// Unreadable is why Descriptors is nil. ErrBusy: somebody else has the device.
	Unreadable error
	// Classes are the classes of the device's interfaces as somebody else tells of them, where that is known without
	// Descriptors; so they say whether a device is a reader that can't be used.
	Classes []uint8
}

// String returns the port path and VID:PID, for messages.
func (d DeviceInfo) String() string {
	return d.PortPath + " " + hex4(d.IDVendor) + ":" + hex4(d.IDProduct)
}

func hex4(v uint16) string {
	const digits = "0123456789abcdef"
	return string([]byte{digits[v>>12], digits[v>>8&15], digits[v>>4&15], digits[v&15]})
}

// Setup is the part of a control request's SETUP packet that the caller chooses (USB 2.0 §9.3); wLength is the length
// of the data buffer. Bit 7 of RequestType gives the direction: set, the device sends.
type Setup struct {
	RequestType uint8
	Request     uint8
	Value       uint16
	Index       uint16
}

// Interface is one claimed interface of one device.
//
// Transfers. Every transfer takes a context. When it ends, the transfer is taken back from the device first: the call
// returns only when nobody else uses the buffer any more. Bytes that the device had delivered by then are not lost:
// the call returns their count (n > 0); they are not delivered again. The error is nil if the transfer had completed,
// which a read has when its last packet was short or its buffer is full. A transfer to one endpoint neither waits for nor disturbs one to another; at most one goroutine at a time
// may use one endpoint in one direction.
//
// Errors are *Error values whose kind errors.Is tells: ErrRemoved, ErrStalled, ErrTimedOut, ErrCancelled, ErrOverflow,
// ErrIO, ErrClosed, ErrPermission, ErrNotSupported. After ErrRemoved every call returns ErrRemoved; after Close every
// call returns ErrClosed.
type Interface interface {
	// Device returns what is known of the device; Descriptors is set.
	Device() DeviceInfo
	// Number is bInterfaceNumber.
	Number() uint8

	// Control runs one control transfer on endpoint 0; data is sent or filled as setup.RequestType says, and its
	// length (0..4096) is wLength. It returns the number of bytes moved.
	Control(ctx context.Context, setup Setup, data []byte) (int, error)

	// BulkOut sends data to the bulk OUT endpoint with this address, as one transfer. When the length is a positive
	// multiple of wMaxPacketSize, a zero-length packet follows, as CCID 1.1 §4.1 expects of a host; empty data is
	// one zero-length packet. A device that refuses the closing packet gives n = len(data) with ErrStalled: it has had
	// all of data (QEMU's reader does so, and answers).
	BulkOut(ctx context.Context, endpoint uint8, data []byte) (int, error)

	// BulkIn reads one transfer from the bulk IN endpoint with this address: it ends with a short packet, a
	// zero-length packet (n may be 0), or a full buffer. len(buf) must be a positive multiple of wMaxPacketSize,
	// else ErrInvalid: a device that sends more than the rest of the buffer would be a babble otherwise.
	BulkIn(ctx context.Context, endpoint uint8, buf []byte) (int, error)

	// InterruptIn reads one transfer from the interrupt IN endpoint with this address, under the rules of BulkIn.
	InterruptIn(ctx context.Context, endpoint uint8, buf []byte) (int, error)

	// ClearHalt clears the halt of an endpoint and its data toggle, on both sides (USB 2.0 §9.4.5).
	ClearHalt(ctx context.Context, endpoint uint8) error

	// Reset resets the device's port. The interface is claimed again; transfers under way end with an error. If the
	// device does not come back as it was, the interface is removed (ErrRemoved).
	Reset(ctx context.Context) error

	// Close cancels what is under way, wakes every waiter with ErrClosed, gives the interface back and waits until
	// all of that has happened. It may be called at any time, from any goroutine, repeatedly.
	Close() error
}
