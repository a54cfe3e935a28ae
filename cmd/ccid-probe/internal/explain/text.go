package explain

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// WriteJSON writes the transcript as indented JSON.
func (t *Transcript) WriteJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", " ")
	return encoder.Encode(t)
}

// WriteText writes the transcript for a terminal. What would move its cursor is replaced by dots.
func (t *Transcript) WriteText(w io.Writer) error {
	b := bufio.NewWriter(w)
	p := printer{b}
	p.line("%s", t.Summary())
	for _, note := range t.Notes() {
		p.line("%s", note)
	}
	for i := range t.Devices {
		p.device(&t.Devices[i])
	}
	several := 0
	for _, d := range t.Devices {
		if d.Reader {
			several++
		}
	}
	done := 0
	for i := range t.Transfers {
		x := &t.Transfers[i]
		p.transfer(x, several > 1)
		// An APDU stands where its last transfer does.
		if n := x.APDU; n > 0 && n <= len(t.APDUs) && n > done && last(t.APDUs[n-1].Transfers) == x.Number {
			done = n
			p.apdu(&t.APDUs[n-1])
		}
	}
	p.apdus(t.APDUs)
	return b.Flush()
}

func last(list []int) int {
	if len(list) == 0 {
		return 0
	}
	return list[len(list)-1]
}

// Summary is one line about the whole.
func (t *Transcript) Summary() string {
	c := t.Capture
	return fmt.Sprintf("%s: %s, %s, %s in %s", c.Name, plural(c.Packets, "packet"), plural(len(t.Transfers), "transfer"),
		plural(len(t.APDUs), "APDU"), milliseconds(float64(c.Microseconds)))
}

// Notes are what has to be known of the capture as a whole.
func (t *Transcript) Notes() []string {
	c := t.Capture
	var notes []string
	if c.Comment != "" {
		notes = append(notes, "Comment: "+c.Comment)
	}
	if !c.PINsHidden {
		notes = append(notes, "PINs are NOT hidden here: give this to nobody.")
	}
	if c.Truncated {
		notes = append(notes, "The file ends in the middle of a packet; what is whole is shown.")
	}
	if c.Other > 0 {
		notes = append(notes, plural(c.Other, "transfer")+" of other devices not shown.")
	}
	if c.Omitted > 0 {
		notes = append(notes, fmt.Sprintf("%s more not shown, the limit is %d.", plural(c.Omitted, "transfer"), MaxTransfers))
	}
	if c.Problems > 0 {
		notes = append(notes, plural(c.Problems, "problem")+" below, marked with !")
	}
	return notes
}

// printer writes lines.
type printer struct{ w *bufio.Writer }

func (p printer) line(format string, args ...any) {
	_, _ = p.w.WriteString(strings.TrimRight(visible(fmt.Sprintf(format, args...)), " ") + "\n")
}

// visible replaces what a terminal or an editor would obey, such as characters that turn the direction of writing.
func visible(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r < ' ', 0x7F <= r && r < 0xA0, 0x200B <= r && r <= 0x200F, 0x2028 <= r && r <= 0x202E, 0x2066 <= r && r <= 0x2069:
			return '.'
		}
		return r
	}, s)
}

// Title names a device.
func (d *Device) Title() string {
	names := strings.TrimSpace(d.Manufacturer + " " + d.Product)
	if names == "" {
		names = "unnamed"
	}
	if d.VID == "0000" && d.PID == "0000" {
		return fmt.Sprintf("%s, bus %d, address %d", names, d.Bus, d.Address)
	}
	return fmt.Sprintf("%s:%s %s, bus %d, address %d", strings.ToLower(d.VID), strings.ToLower(d.PID), names, d.Bus, d.Address)
}

// Kind says what a device is.
func (d *Device) Kind() string {
	if !d.Reader {
		return "no smart card reader, " + plural(d.Transfers, "transfer")
	}
	return "smart card reader, " + plural(d.Transfers, "transfer")
}

// Text describes an interface in one line.
func (i *Interface) Text() string {
	return fmt.Sprintf("interface %d: %s, %s level, %s", i.Number, i.Protocol, i.Level, plural(i.Slots, "slot"))
}

func (p printer) device(d *Device) {
	p.line("Device %d: %s; %s", d.Index, d.Title(), d.Kind())
	if d.Problem != "" {
		p.line("  ! %s", d.Problem)
	}
	for i := range d.Interfaces {
		p.line("  %s", d.Interfaces[i].Text())
	}
}

// Headline is what a transfer is, in one line without its time.
func (x *Transfer) Headline() string {
	facts := []string{x.Name}
	if x.Slot >= 0 {
		facts = append(facts, fmt.Sprintf("slot %d", x.Slot), fmt.Sprintf("seq %d", x.Seq))
	}
	facts = append(facts, plural(x.Moved, "byte"))
	switch {
	case x.Latency >= 0:
		facts = append(facts, milliseconds(x.Latency)+" after the command")
	case x.Duration >= 0:
		facts = append(facts, milliseconds(x.Duration))
	}
	if x.Error != "" {
		facts = append(facts, x.Error)
	}
	return strings.Join(facts, ", ")
}

// Packets are the numbers of the packets in the file, as Wireshark has them.
func (x *Transfer) Packets() string {
	switch {
	case x.Submitted == 0:
		return fmt.Sprintf("#%d", x.Completed)
	case x.Completed == 0:
		return fmt.Sprintf("#%d", x.Submitted)
	}
	return fmt.Sprintf("#%d #%d", x.Submitted, x.Completed)
}

// Way is type, direction and endpoint.
func (x *Transfer) Way() string {
	if x.Type == "control" {
		return "control " + x.Direction
	}
	return x.Type + " " + x.Direction + " " + x.Endpoint
}

func milliseconds(us float64) string {
	if us >= 1e6 {
		return fmt.Sprintf("%.6f s", us/1e6)
	}
	return fmt.Sprintf("%.3f ms", us/1000)
}

func (p printer) transfer(x *Transfer, several bool) {
	device := ""
	if several {
		device = fmt.Sprintf("device %d  ", x.Device)
	}
	p.line("")
	p.line("%12.6f  %-11s %s%s  %s", x.At/1e6, x.Packets(), device, x.Way(), x.Headline())
	for _, c := range x.Comments {
		p.line("    # %s", c)
	}
	p.fields("    ", x.Fields)
	if x.Data != "" && len(x.Layers) == 0 && !hasData(x.Fields) {
		p.line("    data %s", dataText(x.Data))
	}
	for i := range x.Layers {
		p.layer(&x.Layers[i])
	}
	for _, problem := range x.Problems {
		p.line("    ! %s", problem)
	}
}

// hasData reports whether a field shows the bytes.
func hasData(fields []Field) bool {
	for _, f := range fields {
		if f.Name == "dwLength" {
			return true
		}
	}
	return false
}

// shownInText is how many bytes of data stand on a line.
const shownInText = 64

func dataText(compacted string) string { return shortened(compacted, shownInText) }

// shortened is hexadecimal with spaces, at most so many bytes of it.
func shortened(compacted string, most int) string {
	var b strings.Builder
	for i := 0; i+2 <= len(compacted) && i < 2*most; i += 2 {
		b.WriteString(compacted[i:i+2] + " ")
	}
	if len(compacted) > 2*most {
		fmt.Fprintf(&b, "… (%d bytes)", len(compacted)/2)
	}
	return b.String()
}

func (p printer) fields(indent string, fields []Field) {
	for _, f := range fields {
		p.line("%s%-22s  %-10s  %s", indent, f.Name, f.Value, f.Meaning)
		for _, d := range f.Details {
			p.line("%s%36s- %s", indent, "", d)
		}
	}
}

func (p printer) layer(l *Layer) {
	p.line("      %s: %s", l.Protocol, l.Name)
	p.fields("        ", l.Fields)
	for _, n := range l.Notes {
		p.line("        %s", n)
	}
}

// CommandText is the command with its name.
func (a *APDU) CommandText() string {
	text := a.Name
	if a.Case != "" {
		text += ", case " + a.Case
	}
	return text
}

// Answer is the status word with its meaning, or why there is none.
func (a *APDU) Answer() string {
	if a.Problem != "" {
		return a.Problem
	}
	return fmt.Sprintf("%s %s, %s, %s", a.SW, a.Meaning, plural(len(a.Response)/2, "byte"), milliseconds(a.Latency))
}

func (p printer) apdu(a *APDU) {
	p.line("      APDU %d > %s  %s", a.Number, dataText(a.Command), a.CommandText())
	if a.Problem != "" {
		p.line("      ! APDU %d: %s", a.Number, a.Problem)
		return
	}
	if a.Response != "" {
		p.line("      APDU %d < %s", a.Number, dataText(a.Response))
	}
	p.line("      APDU %d < SW %s", a.Number, a.Answer())
}

// apdus lists all of them at the end.
func (p printer) apdus(list []APDU) {
	if len(list) == 0 {
		return
	}
	p.line("")
	p.line("APDUs")
	for i := range list {
		a := &list[i]
		p.line("%4d %12.6f  slot %d  %s", a.Number, a.At/1e6, a.Slot, a.CommandText())
		p.line("     > %s", dataText(a.Command))
		mark := "< SW"
		if a.Problem != "" {
			mark = "!"
		}
		p.line("     %s %s", mark, a.Answer())
	}
}
