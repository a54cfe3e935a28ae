package capture

import (
	"encoding/binary"
	"time"

	"github.com/goccid/goccid/usbtransport"
)

// Transfer is one transfer of a capture: what the host asked for, and how that ended.
type Transfer struct {
	// Submitted and Completed are the numbers of the two packets that tell of it, counted from 1 as Wireshark does; 0
	// where the capture has no such packet.
	Submitted, Completed int
	// Start and End are the times of these packets, zero where there is none.
	Start, End time.Time
	// Bus and Address are the bus number and the device's address on it, 0 for a device that has none yet.
	Bus, Address int
	// Endpoint is the endpoint's address, bit 7 set for IN; that of a control transfer has the direction of its data.
	Endpoint uint8
	// Type is the transfer type.
	Type usbtransport.TransferType
	// Setup is the request of a control transfer. HasSetup is unset where the capture doesn't have it.
	Setup    usbtransport.Setup
	HasSetup bool
	// Requested is the length of the host's buffer in bytes, the length of Data for OUT; -1 where it isn't known.
	Requested int
	// Moved is how many bytes went over the bus; 0 as long as the transfer has not ended.
	Moved int
	// Data is what was sent or received, as far as the capture has it: Missing bytes more are not in the file.
	Data    []byte
	Missing int
	// Err is nil for a transfer that succeeded, or has not ended; else one of usbtransport's kinds of error.
	Err error
	// Comments are the comments on both packets.
	Comments []string
}

// In reports whether the device sends.
func (t *Transfer) In() bool { return t.Endpoint&0x80 != 0 }

// Ended reports whether the capture tells how the transfer ended.
func (t *Transfer) Ended() bool { return t.Completed != 0 }

// Packet is the number of the first packet that tells of the transfer.
func (t *Transfer) Packet() int {
	if t.Submitted != 0 {
		return t.Submitted
	}
	return t.Completed
}

// Latency is the time from start to end, 0 where one of them isn't known or the clock went back.
func (t *Transfer) Latency() time.Duration {
	if t.Start.IsZero() || t.End.IsZero() {
		return 0
	}
	return max(0, t.End.Sub(t.Start))
}

// Capture is the content of a capture file.
type Capture struct {
	// Transfers are in the order of their first packets.
	Transfers []Transfer
	// Packets counts the packets of the file.
	Packets int
	// Comment is that of the file's first section.
	Comment string
	// Redacted: the file was written by a Recorder that hid PINs.
	Redacted bool
	// Truncated: the file ends in the middle of a packet, as one does whose writer was killed.
	Truncated bool
}

// event is what one packet says.
type event struct {
	number   int
	time     time.Time
	comments []string

	kind         eventKind
	id           uint64 // tells the transfers that are under way apart, on one bus
	bus, address int
	endpoint     uint8
	transfer     usbtransport.TransferType
	setup        []byte // 8 bytes, or nil
	status       error  // kind of failure
	length       int    // of the buffer for submissions, moved for completions; -1 unknown
	data         []byte
	missing      int
}

// eventKind says what a packet tells of a transfer.
type eventKind uint8

const (
	submitted eventKind = iota + 1
	continued           // more data of a transfer that is under way (USBPcap)
	completed
	refused // the host's controller did not take it
)

// assembler makes transfers of events.
type assembler struct {
	transfers []Transfer
	pending   map[pendingKey]int // index into transfers
}

type pendingKey struct {
	id  uint64
	bus int
}

func newAssembler() *assembler { return &assembler{pending: map[pendingKey]int{}} }

func (a *assembler) add(e event) {
	key := pendingKey{e.id, e.bus}
	index, known := a.pending[key]
	// The same number in use for something else means that an end is missing in the file.
	if known {
		t := &a.transfers[index]
		known = e.kind != submitted && t.Address == e.address && t.Type == e.transfer && t.Endpoint&0x0F == e.endpoint&0x0F
	}
	if e.kind == continued && !known {
		return
	}
	if !known {
		a.transfers = append(a.transfers, begin(e))
		index = len(a.transfers) - 1
	}
	t := &a.transfers[index]
	switch e.kind {
	case submitted:
		a.pending[key] = index
		t.submit(e)
	case continued:
		t.Data = append(t.Data, e.data...)
		t.Missing += e.missing
		t.Comments = append(t.Comments, e.comments...)
	case completed, refused:
		delete(a.pending, key)
		t.complete(e)
	}
}

// begin makes a transfer of the first event that tells of it.
func begin(e event) Transfer {
	t := Transfer{Bus: e.bus, Address: e.address, Endpoint: e.endpoint, Type: e.transfer, Requested: -1}
	if len(e.setup) == 8 {
		t.HasSetup = true
		t.Setup = usbtransport.Setup{
			RequestType: e.setup[0], Request: e.setup[1],
			Value: binary.LittleEndian.Uint16(e.setup[2:]), Index: binary.LittleEndian.Uint16(e.setup[4:]),
		}
		t.Endpoint = e.endpoint&0x0F | e.setup[0]&0x80
		t.Requested = int(binary.LittleEndian.Uint16(e.setup[6:]))
	}
	return t
}

func (t *Transfer) submit(e event) {
	t.Submitted, t.Start = e.number, e.time
	t.Comments = append(t.Comments, e.comments...)
	if t.Requested < 0 {
		t.Requested = e.length
	}
	if !t.In() {
		t.Data, t.Missing = e.data, e.missing
	}
}

func (t *Transfer) complete(e event) {
	t.Completed, t.End, t.Err = e.number, e.time, e.status
	t.Comments = append(t.Comments, e.comments...)
	if t.In() {
		t.Data = append(t.Data, e.data...)
		t.Missing += e.missing
		t.Moved = len(t.Data) + t.Missing
		return
	}
	t.Moved = e.length
	if t.Moved < 0 {
		t.Moved = len(t.Data) + t.Missing
	}
}
