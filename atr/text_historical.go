package atr

import (
	"fmt"
	"strings"
)

// historicalText explains the historical bytes, one line for the bytes and indented ones for what they mean.
func (a *ATR) historicalText() []string {
	if len(a.Historical) == 0 {
		return nil
	}
	h := a.Information()
	lines := []string{
		fmt.Sprintf("historical bytes: % X %q", a.Historical, printable(a.Historical)),
		fmt.Sprintf("  category %02X: %s", h.Category, h.Format),
	}
	for _, o := range h.Objects {
		lines = append(lines, o.text()...)
	}
	switch {
	case h.Format == DIRReference:
		lines = append(lines, fmt.Sprintf("  DIR data reference: % X", h.Rest))
	case h.Format == CompactTLV || h.Format == CompactTLVStatus:
		if h.Format == CompactTLVStatus && h.Status != nil {
			lines = append(lines, "  status indicator: "+h.Status.String())
		}
		if len(h.Rest) > 0 {
			lines = append(lines, fmt.Sprintf("  not a complete object: % X", h.Rest))
		}
	}
	return lines
}

// printable returns the bytes as ASCII, with a dot for what isn't.
func printable(b []byte) string {
	var s strings.Builder
	for _, v := range b {
		if v < 0x20 || v > 0x7E {
			v = '.'
		}
		s.WriteByte(v)
	}
	return s.String()
}

func (o DataObject) text() []string {
	lines := []string{fmt.Sprintf("  %s: % X", o.Tag, o.Value)}
	switch {
	case len(o.Value) == 0:
		return []string{fmt.Sprintf("  %s: empty", o.Tag)}
	case o.Tag == TagCountry || o.Tag == TagIssuerID:
		return []string{fmt.Sprintf("  %s: %X", o.Tag, o.Value)}
	case o.Tag == TagService && len(o.Value) == 1:
		return append(lines, indent(CardService(o.Value[0]).text())...)
	case o.Tag == TagCapabilities && len(o.Value) <= 3:
		return append(lines, indent(parseCapabilities(o.Value).text())...)
	case o.Tag == TagStatus && len(o.Value) <= 3:
		return append(lines, "    "+parseStatus(o.Value).String())
	}
	return lines
}

func indent(lines []string) []string {
	for i := range lines {
		lines[i] = "    " + lines[i]
	}
	return lines
}

// when is a line of text that is there when a bit is set.
type when struct {
	set  bool
	text string
}

func pick(lines ...when) []string {
	var out []string
	for _, l := range lines {
		if l.set {
			out = append(out, l.text)
		}
	}
	return out
}

func (s CardService) text() []string {
	return pick(
		when{s.SelectByFullName(), "applications are selected by full DF name"},
		when{s.SelectByPartialName(), "applications are selected by partial DF name"},
		when{s.ObjectsInDIR(), "BER-TLV objects in EF.DIR"},
		when{s.ObjectsInATR(), "BER-TLV objects in EF.ATR"},
		when{true, "EF.DIR and EF.ATR are read with " + s.Access()},
		when{s.HasMF(), "card with MF"},
		when{!s.HasMF(), "card without MF"},
	)
}

func (c Capabilities) text() []string {
	sel, coding, commands := c.Selection.Value, c.Coding, c.Commands
	lines := pick(
		when{sel&0x80 != 0, "DF selection by full DF name"},
		when{sel&0x40 != 0, "DF selection by partial DF name"},
		when{sel&0x20 != 0, "DF selection by path"},
		when{sel&0x10 != 0, "DF selection by file identifier"},
		when{sel&0x08 != 0, "implicit DF selection"},
		when{sel&0x04 != 0, "short EF identifiers"},
		when{sel&0x02 != 0, "record numbers"},
		when{sel&0x01 != 0, "record identifiers"},
	)
	if coding.Present {
		lines = append(lines, pick(
			when{coding.Value&0x80 != 0, "EFs of TLV structure"},
			when{true, "write functions: " + c.WriteBehaviour()},
			when{coding.Value&0x10 != 0, "FF is valid as first byte of a BER-TLV tag"},
			when{true, fmt.Sprintf("data unit: %d half bytes", c.DataUnit())},
		)...)
	}
	if commands.Present {
		lines = append(lines, pick(
			when{c.CommandChaining(), "command chaining"},
			when{c.ExtendedLength(), "extended Lc and Le fields"},
			when{c.ExtendedLengthInfo(), "extended length information in EF.ATR"},
			when{true, "logical channels are numbered by: " + c.ChannelAssignment()},
			when{true, fmt.Sprintf("logical channels: %d", c.MaxChannels())},
		)...)
	}
	return lines
}
