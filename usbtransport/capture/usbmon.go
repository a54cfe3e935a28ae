package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/goccid/goccid/usbtransport"
)

// The kernel's usbmon puts a header before each packet (Documentation/usb/usbmon.rst, struct usbmon_packet): 48 bytes as read
// from it, 64 bytes as mapped into memory. All numbers have the byte order of the machine.
const (
	usbmonShortHeader = 48 // LINKTYPE_USB_LINUX
	usbmonHeader      = 64 // LINKTYPE_USB_LINUX_MMAPPED
	isoDescriptor     = 16 // of each packet of an isochronous transfer, between header and data
)

// Values of the header's type.
const (
	usbmonSubmit   = 'S'
	usbmonComplete = 'C'
	usbmonError    = 'E'
)

// Linux error numbers as they stand in a status, negative. They are the same on every architecture that runs usbmon with CCID
// readers; package syscall has those of the machine that reads, which may not be Linux.
const (
	linuxENOENT      = 2 // cancelled, synchronously
	linuxENODEV      = 19
	linuxEINVAL      = 22
	linuxEPIPE       = 32 // stalled
	linuxETIME       = 62
	linuxEPROTO      = 71
	linuxEOVERFLOW   = 75
	linuxEILSEQ      = 84
	linuxECONNRESET  = 104 // cancelled, asynchronously
	linuxESHUTDOWN   = 108
	linuxETIMEDOUT   = 110
	linuxEINPROGRESS = 115
	linuxEREMOTEIO   = 121 // less data than asked for, where the driver called that an error
)

// linuxStatus translates the status of a completion.
func linuxStatus(status int32) error {
	switch -status {
	case 0, linuxEREMOTEIO, linuxEINPROGRESS:
		return nil
	case linuxEPIPE:
		return usbtransport.ErrStalled
	case linuxENODEV, linuxESHUTDOWN:
		return usbtransport.ErrRemoved
	case linuxENOENT, linuxECONNRESET:
		return usbtransport.ErrCancelled
	case linuxETIMEDOUT:
		return usbtransport.ErrTimedOut
	case linuxEOVERFLOW:
		return usbtransport.ErrOverflow
	case linuxEINVAL:
		return usbtransport.ErrInvalid
	}
	return usbtransport.ErrIO
}

// statusOf is the reverse, for writing. The kernel has no number for a deadline that passed, as it leaves deadlines to
// whoever cancels; ETIMEDOUT keeps the two apart.
func statusOf(err error) int32 {
	for _, s := range []struct {
		kind   error
		number int32
	}{
		{usbtransport.ErrStalled, linuxEPIPE},
		{usbtransport.ErrRemoved, linuxESHUTDOWN},
		{usbtransport.ErrTimedOut, linuxETIMEDOUT},
		{usbtransport.ErrCancelled, linuxENOENT},
		{usbtransport.ErrClosed, linuxENOENT},
		{usbtransport.ErrOverflow, linuxEOVERFLOW},
		{usbtransport.ErrInvalid, linuxEINVAL},
		{usbtransport.ErrNotSupported, linuxEINVAL},
	} {
		if errors.Is(err, s.kind) {
			return -s.number
		}
	}
	if err != nil {
		return -linuxEPROTO
	}
	return 0
}

// The header numbers transfer types in its own way.
var fromUsbmonType = [4]usbtransport.TransferType{
	usbtransport.TransferIsochronous, usbtransport.TransferInterrupt, usbtransport.TransferControl, usbtransport.TransferBulk,
}

// toUsbmonType is the reverse of fromUsbmonType.
var toUsbmonType = [4]uint8{
	usbtransport.TransferControl: 2, usbtransport.TransferIsochronous: 0, usbtransport.TransferBulk: 3, usbtransport.TransferInterrupt: 1,
}

// parseUsbmon decodes a packet with a header of the given length. Its data is part of b.
func parseUsbmon(b []byte, header int, order binary.ByteOrder) (event, error) {
	if len(b) < header {
		return event{}, fmt.Errorf("%d bytes, the usbmon header has %d", len(b), header)
	}
	e := event{
		id: order.Uint64(b), endpoint: b[10], address: int(b[11]), bus: int(order.Uint16(b[12:])),
		length: int(order.Uint32(b[32:]) & 0x7FFFFFFF),
	}
	switch b[8] {
	case usbmonSubmit:
		e.kind = submitted
	case usbmonComplete:
		e.kind = completed
	case usbmonError:
		e.kind = refused
	default:
		return event{}, fmt.Errorf("usbmon event type 0x%02X", b[8])
	}
	if int(b[9]) >= len(fromUsbmonType) {
		return event{}, fmt.Errorf("usbmon transfer type %d", b[9])
	}
	e.transfer = fromUsbmonType[b[9]]
	if e.kind != submitted {
		e.status = linuxStatus(int32(order.Uint32(b[28:])))
	}
	if e.kind == submitted && e.transfer == usbtransport.TransferControl && b[14] == 0 {
		e.setup = b[40:48]
	}
	rest := b[header:]
	if e.transfer == usbtransport.TransferIsochronous && header == usbmonHeader {
		rest = rest[min(len(rest), isoDescriptor*int(min(order.Uint32(b[60:]), 1<<16))):]
	}
	captured := int64(order.Uint32(b[36:]))
	e.data = rest[:min(captured, int64(len(rest)))]
	if b[15] == 0 { // there is data; otherwise the length is that of an empty buffer, or of one that was sent before
		e.missing = max(0, e.length-len(e.data))
	}
	return e, nil
}

// usbmonPacket is a packet to be written, by its meaning.
type usbmonPacket struct {
	kind     byte
	id       uint64
	info     usbtransport.DeviceInfo
	endpoint uint8
	transfer usbtransport.TransferType
	time     time.Time
	status   int32
	setup    []byte // 8 bytes in the submission of a control transfer
	length   int    // of the buffer, or moved
	data     []byte
	interval int32  // of an interrupt endpoint
	flags    uint32 // xfer_flags
}

// Bits of xfer_flags that matter here (include/linux/usb.h).
const (
	urbZeroPacket = 0x0040
	urbDirIn      = 0x0200
)

// appendUsbmon appends the packet with a 64-byte header to dst.
func appendUsbmon(dst []byte, p usbmonPacket) []byte {
	le := binary.LittleEndian
	h := make([]byte, usbmonHeader)
	le.PutUint64(h, p.id)
	h[8], h[9], h[10], h[11] = p.kind, toUsbmonType[p.transfer&3], p.endpoint, uint8(p.info.Address)
	le.PutUint16(h[12:], uint16(p.info.Bus))
	h[14] = '-'
	if len(p.setup) == 8 {
		h[14] = 0
		copy(h[40:], p.setup)
	}
	if len(p.data) == 0 {
		h[15] = '>'
		if p.endpoint&0x80 != 0 {
			h[15] = '<'
		}
	}
	le.PutUint64(h[16:], uint64(p.time.Unix()))
	le.PutUint32(h[24:], uint32(p.time.Nanosecond()/1000))
	le.PutUint32(h[28:], uint32(p.status))
	le.PutUint32(h[32:], uint32(p.length))
	le.PutUint32(h[36:], uint32(len(p.data)))
	le.PutUint32(h[48:], uint32(p.interval))
	le.PutUint32(h[56:], p.flags)
	return append(append(dst, h...), p.data...)
}
