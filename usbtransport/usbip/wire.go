package usbip

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"

	"github.com/goccid/goccid/usbtransport"
)

// DefaultPort is the TCP port of USB/IP.
const DefaultPort = "3240"

// ProtocolError says that the other side broke a rule of USB/IP. The connection on which it happened is closed.
type ProtocolError struct {
	// Message names the field, what was in it and what is possible.
	Message string
}

// Error returns the message.
func (e *ProtocolError) Error() string { return "usbip: " + e.Message }

func violation(format string, args ...any) error {
	return &ProtocolError{Message: fmt.Sprintf(format, args...)}
}

// protocolVersion is 1.1.1 in the protocol's notation.
const protocolVersion = 0x0111

// Operation codes: what a connection begins with.
const (
	opRequestImport  = 0x8003
	opReplyImport    = 0x0003
	opRequestDevlist = 0x8005
	opReplyDevlist   = 0x0005
)

// Statuses of an operation's reply. Servers before Linux 4.20 know only the first two.
const (
	statusOK        = 0
	statusNA        = 1 // not available, for whatever reason
	statusBusy      = 2 // another client has it
	statusDeviceErr = 3
	statusNoDevice  = 4
	statusError     = 5
)

// Commands of the headers that follow once a device is imported.
const (
	commandSubmit = 1
	commandUnlink = 2
	replySubmit   = 3
	replyUnlink   = 4
)

// Transfer flags, with the values of Linux' URB_….
const (
	flagShortNotOK = 0x0001
	flagZeroPacket = 0x0040
	flagIn         = 0x0200
)

// Speeds (enum usb_device_speed of Linux).
const (
	speedFull  = 2
	speedHigh  = 3
	speedSuper = 5
)

// Lengths of the fixed parts, in bytes.
const (
	opHeaderSize        = 8
	pathSize            = 256
	busIDSize           = 32
	deviceRecordSize    = pathSize + busIDSize + 24
	interfaceRecordSize = 4
	headerSize          = 48
	setupSize           = 8
)

// Limits of this implementation.
const (
	// maxDevices bounds a list of devices. A USB bus has 127; nobody exports two full ones.
	maxDevices = 256
)

// opHeader is struct op_common: what every operation and its reply begin with.
type opHeader struct {
	code   uint16
	status uint32
}

func (h opHeader) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, protocolVersion)
	b = binary.BigEndian.AppendUint16(b, h.code)
	return binary.BigEndian.AppendUint32(b, h.status)
}

func readOpHeader(r io.Reader) (opHeader, error) {
	var b [opHeaderSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return opHeader{}, err
	}
	if version := binary.BigEndian.Uint16(b[0:]); version != protocolVersion {
		return opHeader{}, violation("version 0x%04x, this is 0x%04x", version, protocolVersion)
	}
	return opHeader{code: binary.BigEndian.Uint16(b[2:]), status: binary.BigEndian.Uint32(b[4:])}, nil
}

// deviceRecord is struct usbip_usb_device: a device as operations tell of it.
type deviceRecord struct {
	path                          string // where the server has it; only for people
	busID                         string
	bus, address, speed           uint32
	vendor, product, bcdDevice    uint16
	class, subClass, protocol     uint8
	configuration, configurations uint8
	interfaces                    uint8
}

// sameDevice reports whether two records tell of the same plug-in, as far as they can. The active configuration is not part of
// what a plug-in is.
func (d deviceRecord) sameDevice(other deviceRecord) bool {
	d.configuration, d.interfaces = other.configuration, other.interfaces
	return d == other
}

func (d deviceRecord) id() uint32 { return d.bus<<16 | d.address&0xFFFF }

func (d deviceRecord) append(b []byte) []byte {
	b = appendText(b, d.path, pathSize)
	b = appendText(b, d.busID, busIDSize)
	b = binary.BigEndian.AppendUint32(b, d.bus)
	b = binary.BigEndian.AppendUint32(b, d.address)
	b = binary.BigEndian.AppendUint32(b, d.speed)
	b = binary.BigEndian.AppendUint16(b, d.vendor)
	b = binary.BigEndian.AppendUint16(b, d.product)
	b = binary.BigEndian.AppendUint16(b, d.bcdDevice)
	return append(b, d.class, d.subClass, d.protocol, d.configuration, d.configurations, d.interfaces)
}

// appendText appends a field of size bytes that holds text and at least one zero byte.
func appendText(b []byte, text string, size int) []byte {
	text = text[:min(len(text), size-1)]
	return append(append(b, text...), make([]byte, size-len(text))...)
}

// text reads such a field. What is not printable ASCII can't be shown or compared safely.
func text(b []byte) (string, bool) {
	end := bytes.IndexByte(b, 0)
	if end < 0 {
		return "", false
	}
	for _, c := range b[:end] {
		if c < ' ' || c > '~' {
			return "", false
		}
	}
	return string(b[:end]), true
}

func readDeviceRecord(r io.Reader) (deviceRecord, error) {
	var b [deviceRecordSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return deviceRecord{}, err
	}
	var d deviceRecord
	var ok bool
	if d.path, ok = text(b[:pathSize]); !ok {
		return deviceRecord{}, violation("device path: not zero-terminated printable text")
	}
	if d.busID, ok = text(b[pathSize : pathSize+busIDSize]); !ok || d.busID == "" {
		return deviceRecord{}, violation("busid: not zero-terminated printable text")
	}
	f := b[pathSize+busIDSize:]
	d.bus, d.address, d.speed = binary.BigEndian.Uint32(f[0:]), binary.BigEndian.Uint32(f[4:]), binary.BigEndian.Uint32(f[8:])
	d.vendor, d.product, d.bcdDevice = binary.BigEndian.Uint16(f[12:]), binary.BigEndian.Uint16(f[14:]), binary.BigEndian.Uint16(f[16:])
	d.class, d.subClass, d.protocol = f[18], f[19], f[20]
	d.configuration, d.configurations, d.interfaces = f[21], f[22], f[23]
	return d, nil
}

// listed is one device of a list.
type listed struct {
	deviceRecord
	// classes are bInterfaceClass, bInterfaceSubClass and bInterfaceProtocol of each interface.
	classes [][3]uint8
}

func appendDevlist(b []byte, list []listed) []byte {
	b = opHeader{code: opReplyDevlist}.append(b)
	b = binary.BigEndian.AppendUint32(b, uint32(len(list)))
	for _, d := range list {
		b = d.deviceRecord.append(b)
		for _, c := range d.classes {
			b = append(b, c[0], c[1], c[2], 0)
		}
	}
	return b
}

// readDevlist reads the reply to a request for the list.
func readDevlist(r io.Reader) ([]listed, error) {
	header, err := readOpHeader(r)
	if err != nil {
		return nil, err
	}
	if header.code != opReplyDevlist {
		return nil, violation("reply 0x%04x to a request for the list of devices", header.code)
	}
	if header.status != statusOK {
		return nil, violation("the server refuses to list its devices (status %d)", header.status)
	}
	var count [4]byte
	if _, err := io.ReadFull(r, count[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(count[:])
	if n > maxDevices {
		return nil, violation("a list of %d devices, at most %d are taken", n, maxDevices)
	}
	var list []listed
	for range n {
		d := listed{}
		if d.deviceRecord, err = readDeviceRecord(r); err != nil {
			return nil, err
		}
		classes := make([]byte, interfaceRecordSize*int(d.interfaces))
		if _, err := io.ReadFull(r, classes); err != nil {
			return nil, err
		}
		for ; len(classes) > 0; classes = classes[interfaceRecordSize:] {
			d.classes = append(d.classes, [3]uint8(classes))
		}
		list = append(list, d)
	}
	return list, nil
}

func appendImportRequest(b []byte, busID string) []byte {
	return appendText(opHeader{code: opRequestImport}.append(b), busID, busIDSize)
}

// readImportRequest reads what follows the header of a request to import.
func readImportRequest(r io.Reader) (busID string, err error) {
	var b [busIDSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return "", err
	}
	busID, ok := text(b[:])
	if !ok {
		return "", violation("busid: not zero-terminated printable text")
	}
	return busID, nil
}

// refusal is a server's negative answer to an import: a status.
type refusal uint32

func (r refusal) Error() string {
	switch r {
	case statusNA:
		return "the server does not give the device: it is in use, or gone"
	case statusBusy:
		return "another USB/IP client has the device"
	case statusDeviceErr:
		return "the server says that the device is in an error state"
	case statusNoDevice:
		return "the server does not export such a device"
	}
	return fmt.Sprintf("the server refuses the import with status %d", uint32(r))
}

// readImportReply reads the reply to a request to import. A refusal is an error.
func readImportReply(r io.Reader) (deviceRecord, error) {
	header, err := readOpHeader(r)
	if err != nil {
		return deviceRecord{}, err
	}
	if header.code != opReplyImport {
		return deviceRecord{}, violation("reply 0x%04x to a request to import", header.code)
	}
	if header.status != statusOK {
		return deviceRecord{}, refusal(header.status)
	}
	return readDeviceRecord(r)
}

// command is the header of USBIP_CMD_SUBMIT or USBIP_CMD_UNLINK.
type command struct {
	kind     uint32 // commandSubmit or commandUnlink
	sequence uint32
	device   uint32
	in       bool
	endpoint uint8 // 0..15

	// Of a submit.
	flags    uint32
	length   int // 0..usbtransport.MaxTransfer; as many bytes follow the header of an OUT transfer
	interval uint32
	setup    [setupSize]byte

	// Of an unlink: the sequence number of the transfer that is to be taken back.
	target uint32
}

// payload is how many bytes follow the header.
func (c command) payload() int {
	if c.kind != commandSubmit || c.in {
		return 0
	}
	return c.length
}

func (c command) append(b []byte) []byte {
	direction := uint32(0)
	if c.in {
		direction = 1
	}
	for _, field := range []uint32{c.kind, c.sequence, c.device, direction, uint32(c.endpoint)} {
		b = binary.BigEndian.AppendUint32(b, field)
	}
	if c.kind == commandUnlink {
		b = binary.BigEndian.AppendUint32(b, c.target)
		return append(b, make([]byte, 24)...)
	}
	// start_frame and number_of_packets are those of a transfer that is not isochronous, as Linux sends them.
	for _, field := range []uint32{c.flags, uint32(c.length), 0, 0, c.interval} {
		b = binary.BigEndian.AppendUint32(b, field)
	}
	return append(b, c.setup[:]...)
}

// notIsochronous is a number_of_packets with which some clients say what 0 says as well.
const notIsochronous = 0xFFFFFFFF

func parseCommand(b []byte) (command, error) {
	if len(b) != headerSize {
		return command{}, violation("a header of %d bytes, it has %d", len(b), headerSize)
	}
	c := command{kind: binary.BigEndian.Uint32(b[0:]), sequence: binary.BigEndian.Uint32(b[4:]), device: binary.BigEndian.Uint32(b[8:])}
	switch c.kind {
	case commandUnlink:
		c.target = binary.BigEndian.Uint32(b[20:])
		return c, nil
	case commandSubmit:
	default:
		return command{}, violation("command %d from a client", c.kind)
	}
	direction, endpoint := binary.BigEndian.Uint32(b[12:]), binary.BigEndian.Uint32(b[16:])
	length, packets := binary.BigEndian.Uint32(b[24:]), binary.BigEndian.Uint32(b[32:])
	switch {
	case direction > 1:
		return command{}, violation("direction %d", direction)
	case endpoint > 15:
		return command{}, violation("endpoint %d", endpoint)
	case length > usbtransport.MaxTransfer:
		return command{}, violation("transfer_buffer_length %d, at most %d is taken", length, usbtransport.MaxTransfer)
	case packets != 0 && packets != notIsochronous:
		return command{}, violation("number_of_packets %d: isochronous transfers are not supported", packets)
	}
	c.in, c.endpoint, c.length = direction == 1, uint8(endpoint), int(length)
	c.flags, c.interval = binary.BigEndian.Uint32(b[20:]), binary.BigEndian.Uint32(b[36:])
	copy(c.setup[:], b[40:])
	return c, nil
}

// reply is the header of USBIP_RET_SUBMIT or USBIP_RET_UNLINK.
type reply struct {
	kind     uint32 // replySubmit or replyUnlink
	sequence uint32
	status   status
	// length is actual_length of a RET_SUBMIT, 0..usbtransport.MaxTransfer; as many bytes follow the header of an IN transfer, and
	// only who knows the command knows whether it is one.
	length int
}

func (r reply) append(b []byte) []byte {
	for _, field := range []uint32{r.kind, r.sequence, 0, 0, 0, uint32(r.status), uint32(r.length)} {
		b = binary.BigEndian.AppendUint32(b, field)
	}
	return append(b, make([]byte, headerSize-28)...)
}

func parseReply(b []byte) (reply, error) {
	if len(b) != headerSize {
		return reply{}, violation("a header of %d bytes, it has %d", len(b), headerSize)
	}
	r := reply{kind: binary.BigEndian.Uint32(b[0:]), sequence: binary.BigEndian.Uint32(b[4:]), status: status(binary.BigEndian.Uint32(b[20:]))}
	switch r.kind {
	case replyUnlink:
		return r, nil
	case replySubmit:
	default:
		return reply{}, violation("command %d from a server", r.kind)
	}
	length := binary.BigEndian.Uint32(b[24:])
	if length > usbtransport.MaxTransfer {
		return reply{}, violation("actual_length %d, at most %d is taken", length, usbtransport.MaxTransfer)
	}
	r.length = int(length)
	return r, nil
}

// ParseTarget splits "HOST:PORT/BUSID" for Options. The port is 3240 where none is given; the bus ID is empty where none is.
func ParseTarget(target string) (address, busID string, err error) {
	address, busID, found := strings.Cut(target, "/")
	if found && (busID == "" || len(busID) >= busIDSize) {
		return "", "", fmt.Errorf("usbip: %q: a bus ID like 1-1.2 is needed after the slash", target)
	}
	if address == "" || strings.HasPrefix(address, ":") {
		return "", "", fmt.Errorf("usbip: %q: HOST:PORT or HOST:PORT/BUSID is needed", target)
	}
	address = withPort(address)
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" {
		return "", "", fmt.Errorf("usbip: %q: HOST:PORT or HOST:PORT/BUSID is needed", target)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", "", fmt.Errorf("usbip: %q: a port is a number from 1 to 65535", target)
	}
	return address, busID, nil
}
