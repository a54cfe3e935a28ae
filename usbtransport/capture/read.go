package capture

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// Link types (tcpdump.org/linktypes.html). Package layers has only the first, by another name.
const (
	linkUSBLinux       layers.LinkType = 189
	linkUSBLinuxMapped layers.LinkType = 220
	linkUSBPcap        layers.LinkType = 249
)

// Bounds of what Read takes. A reader's session of hours is far below.
const (
	// MaxFile is the longest file that Read takes, in bytes.
	MaxFile = 256 << 20
	// maxPackets bounds the packets of a file; the smallest take a few bytes, but cost much more in memory.
	maxPackets = 1 << 20
)

// The kinds of failure of Read, to be tested with errors.Is.
var (
	// ErrFormat: the file is no pcapng or pcap file, or is damaged.
	ErrFormat = errors.New("capture: not a valid capture file")
	// ErrLinkType: the file's packets are not of USB, or not of a kind that is known.
	ErrLinkType = errors.New("capture: unknown kind of packets")
	// ErrTooLarge: the file is longer than MaxFile, or has too many packets.
	ErrTooLarge = errors.New("capture: file is too large")
)

// PacketError says in which packet of a file the fault is.
type PacketError struct {
	// Packet is its number, counted from 1.
	Packet int
	// Kind is ErrFormat, ErrLinkType or ErrTooLarge.
	Kind error
	// Cause says more.
	Cause error
}

// Error returns "capture: not a valid capture file: packet 7: usbmon event type 0x00".
func (e *PacketError) Error() string {
	return fmt.Sprintf("%v: packet %d: %v", e.Kind, e.Packet, e.Cause)
}

// Unwrap gives errors.Is and errors.As both the kind and the cause.
func (e *PacketError) Unwrap() []error { return []error{e.Kind, e.Cause} }

// ReadFile reads a capture file.
func ReadFile(name string) (*Capture, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	return Read(f)
}

// Read reads a capture until its end. A file that is cut off in the middle of a packet, as by a crash of its writer, is no
// error: what is whole is returned, and Truncated is set. Any other fault ends it with an error: ErrFormat, ErrLinkType,
// ErrTooLarge, in a *PacketError where a packet is at fault; or the error of r.
func Read(r io.Reader) (*Capture, error) {
	limited := &io.LimitedReader{R: r, N: MaxFile + 1}
	failure := &failureReader{r: limited}
	source, order, err := open(bufio.NewReader(failure))
	switch {
	case failure.err != nil:
		return nil, failure.err
	case err != nil:
		return nil, err
	}
	c := &Capture{Comment: source.comment()}
	c.Redacted = strings.Contains(c.Comment, redactedMark)
	a := newAssembler()
	for {
		p, err := next(source)
		switch {
		case failure.err != nil:
			return nil, failure.err
		case limited.N == 0 || c.Packets == maxPackets:
			cause := fmt.Errorf("at most %d bytes and %d packets are taken", MaxFile, maxPackets)
			return nil, &PacketError{Packet: c.Packets + 1, Kind: ErrTooLarge, Cause: cause}
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			c.Truncated = !errors.Is(err, io.EOF)
			c.Transfers = a.transfers
			return c, nil
		case err != nil:
			return nil, &PacketError{Packet: c.Packets + 1, Kind: ErrFormat, Cause: err}
		}
		c.Packets++
		e, ok, err := p.event(order)
		if err != nil {
			return nil, &PacketError{Packet: c.Packets, Kind: kindOf(err), Cause: err}
		}
		if ok {
			e.number, e.time, e.comments = c.Packets, p.info.Timestamp, p.comments
			a.add(e)
		}
	}
}

func kindOf(err error) error {
	if errors.Is(err, ErrLinkType) {
		return ErrLinkType
	}
	return ErrFormat
}

// failureReader keeps an error of the file itself apart from an early end, which may be a crash's.
type failureReader struct {
	r   io.Reader
	err error
}

func (f *failureReader) Read(b []byte) (int, error) {
	n, err := f.r.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		f.err = err
	}
	return n, err
}

// packet is one packet of a file.
type packet struct {
	link     layers.LinkType
	info     gopacket.CaptureInfo
	data     []byte
	comments []string
}

func (p *packet) event(order binary.ByteOrder) (e event, ok bool, err error) {
	switch p.link {
	case linkUSBLinux:
		e, err = parseUsbmon(p.data, usbmonShortHeader, order)
		return e, err == nil, err
	case linkUSBLinuxMapped:
		e, err = parseUsbmon(p.data, usbmonHeader, order)
		return e, err == nil, err
	case linkUSBPcap:
		return parseUSBPcap(p.data)
	}
	return event{}, false, fmt.Errorf("%w: link type %d, not one of USB (189, 220, 249)", ErrLinkType, p.link)
}

// source is a file format.
type source interface {
	next() (packet, error)
	comment() string
}

// open tells the format by the first bytes. The byte order is that of the machine which captured: usbmon's headers have it
// too.
func open(r *bufio.Reader) (source, binary.ByteOrder, error) {
	const sectionHeader, orderAt = 0x0A0D0D0A, 8
	head, err := r.Peek(orderAt + 4)
	if len(head) < 4 {
		return nil, nil, fmt.Errorf("%w: %d bytes: %w", ErrFormat, len(head), err)
	}
	var s source
	var order binary.ByteOrder = binary.LittleEndian
	switch magic := binary.LittleEndian.Uint32(head); magic {
	case sectionHeader:
		if bytes.Equal(head[min(orderAt, len(head)):], []byte{0x1A, 0x2B, 0x3C, 0x4D}) {
			order = binary.BigEndian
		}
		s, err = openPcapng(r)
	case 0xD4C3B2A1, 0x4D3CB2A1:
		order = binary.BigEndian
		fallthrough
	case 0xA1B2C3D4, 0xA1B23C4D:
		s, err = openPcap(r)
	default:
		// pcapgo would also take gzip, which makes a small file a large one.
		return nil, nil, fmt.Errorf("%w: it begins with % X", ErrFormat, head[:4])
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return s, order, nil
}

// next shields from pcapgo, which takes numbers of the file as int: on machines with 32 bits they can be negative, and it
// then panics.
func next(s source) (p packet, err error) {
	defer func() {
		if v := recover(); v != nil {
			p, err = packet{}, fmt.Errorf("numbers out of range: %v", v)
		}
	}()
	return s.next()
}

type pcapng struct{ r *pcapgo.NgReader }

func openPcapng(r io.Reader) (source, error) {
	ng, err := pcapgo.NewNgReader(r, pcapgo.NgReaderOptions{WantMixedLinkType: true, SkipUnknownVersion: true})
	if err != nil {
		return nil, err
	}
	return pcapng{ng}, nil
}

func (s pcapng) next() (packet, error) {
	data, info, options, err := s.r.ReadPacketDataWithOptions()
	if err != nil {
		return packet{}, err
	}
	link, _ := info.AncillaryData[0].(layers.LinkType)
	return packet{link, info, data, options.Comments}, nil
}

func (s pcapng) comment() string { return s.r.SectionInfo().Comment }

type pcap struct{ r *pcapgo.Reader }

func openPcap(r io.Reader) (source, error) {
	reader, err := pcapgo.NewReader(r)
	if err != nil {
		return nil, err
	}
	return pcap{reader}, nil
}

func (s pcap) next() (packet, error) {
	data, info, err := s.r.ReadPacketData()
	return packet{link: s.r.LinkType(), info: info, data: data}, err
}

func (s pcap) comment() string { return "" }
