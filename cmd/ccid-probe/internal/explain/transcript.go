// Package explain makes an annotated transcript of a capture: each USB transfer, the CCID message in it with every field
// named, the T=1 block, PPS or TPDU in that, and the APDUs that all of them amount to. It is pure: a capture in, a Transcript out,
// which is written as text, JSON or a page of HTML.
//
// Captures are hostile: nothing in one can make the package panic, and what is kept of one is bounded by its length.
package explain

import (
	"time"

	"github.com/goccid/goccid/cmd/ccid-probe/internal/describe"
)

// Schema is the version of the JSON form. Keys may be added to it without a new number; those that are there stay.
const Schema = 1

// Transcript is all that there is to say of a capture.
type Transcript struct {
	Schema  int      `json:"schema"`
	Capture Header   `json:"capture"`
	Devices []Device `json:"devices"`
	// Transfers are in the order in which they had an effect: those to a device by their beginning, those from it by
	// their end.
	Transfers []Transfer `json:"transfers"`
	APDUs     []APDU     `json:"apdus"`
}

// Header is what is known of the capture as a whole.
type Header struct {
	// Name is the file's, without folders.
	Name    string `json:"name"`
	Comment string `json:"comment"`
	Packets int    `json:"packets"`
	// Truncated: the file ends in the middle of a packet.
	Truncated bool `json:"truncated"`
	// PINsHidden: none of what this program knows to be a PIN is in the transcript.
	PINsHidden bool `json:"pins_hidden"`
	// Start is when the first transfer began, "" in a capture without any; Microseconds the time from then to the last.
	Start        string `json:"start"`
	Microseconds int64  `json:"us"`
	// Other counts transfers of devices that are no readers, and of devices without an address. They are not in Transfers.
	Other int `json:"other_transfers"`
	// Omitted counts the transfers of readers beyond MaxTransfers. They are not in Transfers either.
	Omitted int `json:"omitted_transfers"`
	// Problems counts the problems of all transfers and APDUs.
	Problems int `json:"problems"`
}

// Device is a USB device in the capture.
type Device struct {
	Index        int    `json:"index"`
	Bus          int    `json:"bus"`
	Address      int    `json:"address"`
	VID          string `json:"vid"`
	PID          string `json:"pid"`
	Manufacturer string `json:"manufacturer"`
	Product      string `json:"product"`
	Serial       string `json:"serial"`
	// Reader says that the device is a smart card reader, or looks like one in a capture without its descriptors.
	Reader bool `json:"reader"`
	// Transfers counts those of the device.
	Transfers int `json:"transfers"`
	// Problem is why there is less to say of the device, "" where nothing is missing.
	Problem    string      `json:"problem"`
	Interfaces []Interface `json:"interfaces"`
}

// Interface is one interface of a reader that is one.
type Interface struct {
	Number   uint8  `json:"bInterfaceNumber"`
	Protocol string `json:"protocol"`
	Level    string `json:"level"`
	Slots    int    `json:"slots"`
	// Class explains the class descriptor field by field.
	Class []Field `json:"class"`
}

// Field is one field of a message, a descriptor or a request, by the specification's name.
type Field struct {
	Name    string   `json:"name"`
	Value   string   `json:"value"`
	Meaning string   `json:"meaning,omitempty"`
	Details []string `json:"details,omitempty"`
}

// Transfer is one USB transfer.
type Transfer struct {
	// Number counts from 1, in the transcript's order.
	Number int `json:"number"`
	Device int `json:"device"`
	// Submitted and Completed are the packets of the file, counted from 1; 0 where there is none.
	Submitted int `json:"submitted"`
	Completed int `json:"completed"`
	// At is the time of the effect, in microseconds from the capture's beginning. Duration is from beginning to end of
	// the transfer, and Latency from the command that this answers; -1 where it isn't known, or where there is none.
	At       float64 `json:"at_us"`
	Duration float64 `json:"duration_us"`
	Latency  float64 `json:"latency_us"`
	// Type is control, bulk, interrupt or isochronous; Direction is in or out.
	Type      string `json:"type"`
	Direction string `json:"direction"`
	Endpoint  string `json:"endpoint"`
	// Requested is the length of the host's buffer in bytes, -1 where it isn't known; Moved what went over the bus.
	Requested int `json:"requested"`
	Moved     int `json:"moved"`
	// Data is hexadecimal. Missing bytes more are not in the file.
	Data    string `json:"data"`
	Missing int    `json:"missing"`
	// Error is how the transfer failed, "" where it didn't; "not ended" where the capture ends before it.
	Error    string   `json:"error"`
	Comments []string `json:"comments"`
	// Name is that of the message or the request.
	Name string `json:"name"`
	// Slot and Seq are bSlot and bSeq, -1 where there is no such thing.
	Slot int `json:"slot"`
	Seq  int `json:"seq"`
	// Answers is the number of the transfer with the command that this answers, 0 for none.
	Answers int `json:"answers"`
	// APDU is the number of the APDU that the transfer is part of, 0 for none.
	APDU   int     `json:"apdu"`
	Fields []Field `json:"fields"`
	// Layers are what the message carries, from the outside in.
	Layers   []Layer  `json:"layers"`
	Problems []string `json:"problems"`
}

// Layer is what is inside a message: an ATR, a PPS, a T=1 block, a TPDU, an APDU, a list of rates.
type Layer struct {
	Protocol string   `json:"protocol"`
	Name     string   `json:"name"`
	Fields   []Field  `json:"fields"`
	Notes    []string `json:"notes"`
}

// APDU is a command APDU with its response, however many transfers that took.
type APDU struct {
	Number    int `json:"number"`
	Device    int `json:"device"`
	Interface int `json:"interface"`
	Slot      int `json:"slot"`
	// Command is hexadecimal, with ** for hidden bytes. Name is the instruction's, Case that of ISO/IEC 7816-3:2006 §12.1.
	Command string `json:"command"`
	Name    string `json:"name"`
	Case    string `json:"case"`
	// Response is the data without the status word, of all GET RESPONSE commands that belong to the command together.
	Response string `json:"response"`
	SW       string `json:"sw"`
	Meaning  string `json:"meaning"`
	// At and Latency are in microseconds: of the command's first transfer, and from there to the end of the response. -1
	// where there is no response.
	At      float64 `json:"at_us"`
	Latency float64 `json:"latency_us"`
	// Transfers are the numbers of those that are part of it.
	Transfers []int `json:"transfers"`
	// Problem is why there is no response, "" where there is one.
	Problem string `json:"problem"`

	// TPDUs are the commands and responses that went to the card one by one, for who wants to send them again. They are
	// more than one where the card was asked with GET RESPONSE, or again with another Le.
	TPDUs [][2][]byte `json:"-"`
}

// fieldsOf takes over what package describe says of descriptors.
func fieldsOf(list []describe.Field) []Field {
	out := make([]Field, len(list))
	for i, f := range list {
		out[i] = Field(f)
	}
	return out
}

func microseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
