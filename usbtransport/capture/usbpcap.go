package capture

import (
	"encoding/binary"
	"fmt"

	"github.com/goccid/goccid/usbtransport"
)

// USBPcap's header (USBPcap.h of the project): little-endian, packed, 27 bytes, and for a control transfer one more.
const (
	usbpcapHeader        = 27
	usbpcapControlHeader = 28
)

// Values of the header's transfer and stage, and the bit of info that is set on the way back from the device.
const (
	usbpcapIsochronous = 0
	usbpcapInterrupt   = 1
	usbpcapControl     = 2
	usbpcapBulk        = 3

	usbpcapStageSetup    = 0
	usbpcapStageData     = 1
	usbpcapStageStatus   = 2
	usbpcapStageComplete = 3

	usbpcapFromDevice = 1
)

// usbdStatus translates a USBD_STATUS of Windows.
func usbdStatus(status uint32) error {
	switch status {
	case 0:
		return nil
	case 0xC0000004, 0xC0000030: // STALL_PID, ENDPOINT_HALTED
		return usbtransport.ErrStalled
	case 0xC0010000: // CANCELED
		return usbtransport.ErrCancelled
	case 0xC0006000: // TIMEOUT
		return usbtransport.ErrTimedOut
	case 0xC0007000: // DEVICE_GONE
		return usbtransport.ErrRemoved
	case 0xC0000008, 0xC000000C: // DATA_OVERRUN, BUFFER_OVERRUN
		return usbtransport.ErrOverflow
	}
	return usbtransport.ErrIO
}

// parseUSBPcap decodes a packet; ok is false for one that tells of no transfer. Its data is part of b.
func parseUSBPcap(b []byte) (e event, ok bool, err error) {
	if len(b) < usbpcapHeader {
		return event{}, false, fmt.Errorf("%d bytes, the USBPcap header has %d", len(b), usbpcapHeader)
	}
	le := binary.LittleEndian
	header := int(le.Uint16(b))
	if header < usbpcapHeader || header > len(b) {
		return event{}, false, fmt.Errorf("USBPcap header of %d bytes in a packet of %d", header, len(b))
	}
	e = event{
		id: le.Uint64(b[2:]), status: usbdStatus(le.Uint32(b[10:])),
		bus: int(le.Uint16(b[17:])), address: int(le.Uint16(b[19:])), endpoint: b[21], length: -1,
	}
	fromDevice := b[16]&usbpcapFromDevice != 0
	e.kind = submitted
	if fromDevice {
		e.kind = completed
	}
	e.data = b[header:]
	announced := int64(le.Uint32(b[23:]))
	e.missing = int(min(max(0, announced-int64(len(e.data))), 1<<30))
	e.data = e.data[:min(announced, int64(len(e.data)))]
	switch b[22] {
	case usbpcapIsochronous:
		e.transfer = usbtransport.TransferIsochronous
	case usbpcapInterrupt:
		e.transfer = usbtransport.TransferInterrupt
	case usbpcapBulk:
		e.transfer = usbtransport.TransferBulk
	case usbpcapControl:
		e.transfer = usbtransport.TransferControl
		return controlStage(e, b, header)
	default: // requests of Windows to its own drivers
		return event{}, false, nil
	}
	return e, true, nil
}

// controlStage tells which part of a control transfer a packet is: newer versions write setup (with the data that is
// sent) and completion, older ones each stage.
func controlStage(e event, b []byte, header int) (event, bool, error) {
	if header < usbpcapControlHeader {
		return event{}, false, fmt.Errorf("USBPcap header of a control transfer has %d bytes, needs %d", header, usbpcapControlHeader)
	}
	switch b[usbpcapHeader] {
	case usbpcapStageSetup:
		if len(e.data) < 8 {
			return event{}, false, fmt.Errorf("USBPcap setup stage of %d bytes, needs 8", len(e.data))
		}
		e.kind, e.setup, e.data = submitted, e.data[:8], e.data[8:]
	case usbpcapStageData:
		e.kind = continued
	case usbpcapStageStatus, usbpcapStageComplete:
		e.kind = completed
	default:
		return event{}, false, fmt.Errorf("USBPcap control stage %d", b[usbpcapHeader])
	}
	return e, true, nil
}
