package atr

import "fmt"

// HistoricalFormat is what the category indicator, the first historical byte, says of the others
// (ISO/IEC 7816-4 §8.1.1.1).
type HistoricalFormat uint8

// The formats.
const (
	NoHistorical       HistoricalFormat = iota // there are no historical bytes
	CompactTLVStatus                           // 00: compact-TLV objects, then three bytes of status
	DIRReference                               // 10: the next byte is the DIR data reference
	CompactTLV                                 // 80: compact-TLV objects, one of which may be the status
	ReservedHistorical                         // 81..8F
	Proprietary                                // any other value
)

// String returns a short name.
func (f HistoricalFormat) String() string {
	names := [...]string{"none", "compact-TLV and status", "DIR data reference", "compact-TLV", "reserved", "proprietary"}
	if int(f) >= len(names) {
		return fmt.Sprintf("HistoricalFormat(%d)", uint8(f))
	}
	return names[f]
}

// ObjectTag is the tag number of a compact-TLV object, 0..15 (ISO/IEC 7816-4 §8.1.1.2).
type ObjectTag uint8

// The tags that have a meaning.
const (
	TagCountry       ObjectTag = 0x1 // country code (ISO 3166-1) and national data
	TagIssuerID      ObjectTag = 0x2 // issuer identification number (ISO/IEC 7812-1)
	TagService       ObjectTag = 0x3 // CardService
	TagInitialAccess ObjectTag = 0x4 // initial access data
	TagIssuerData    ObjectTag = 0x5 // card issuer's data
	TagPreIssuing    ObjectTag = 0x6 // pre-issuing data
	TagCapabilities  ObjectTag = 0x7 // Capabilities
	TagStatus        ObjectTag = 0x8 // CardStatus
	TagAID           ObjectTag = 0xF // application identifier
)

// String returns the object's name.
func (t ObjectTag) String() string {
	switch t {
	case TagCountry:
		return "country code"
	case TagIssuerID:
		return "issuer identification number"
	case TagService:
		return "card service data"
	case TagInitialAccess:
		return "initial access data"
	case TagIssuerData:
		return "card issuer's data"
	case TagPreIssuing:
		return "pre-issuing data"
	case TagCapabilities:
		return "card capabilities"
	case TagStatus:
		return "status indicator"
	case TagAID:
		return "application identifier"
	}
	return "reserved object"
}

// DataObject is a compact-TLV object: four bits of tag, four of length, the value.
type DataObject struct {
	Tag   ObjectTag
	Value []byte
}

// HistoricalBytes are the decoded historical bytes (ISO/IEC 7816-4 §8.1.1).
type HistoricalBytes struct {
	Format HistoricalFormat
	// Category is the category indicator, 0 when Format is NoHistorical.
	Category byte
	// Objects are the compact-TLV objects in their order, the status object included.
	Objects []DataObject
	// Status is the status indicator, nil when there is none or it has a wrong length.
	Status *CardStatus
	// Rest is what follows the category indicator where Format has no objects, and otherwise the bytes at the end that are not
	// a complete object. Cards get this wrong, so it is no error.
	Rest []byte
}

// ParseHistorical decodes historical bytes. The result's slices are parts of b.
func ParseHistorical(b []byte) HistoricalBytes {
	if len(b) == 0 {
		return HistoricalBytes{}
	}
	h := HistoricalBytes{Category: b[0], Rest: b[1:]}
	switch {
	case h.Category == 0x00:
		h.Format = CompactTLVStatus
		status := h.Rest[max(0, len(h.Rest)-3):]
		h.Rest = h.Rest[:len(h.Rest)-len(status)]
		h.parseObjects()
		if h.Status = parseStatus(status); len(status) != 3 {
			h.Status = nil
			h.Rest = status
		}
	case h.Category == 0x10:
		h.Format = DIRReference
	case h.Category == 0x80:
		h.Format = CompactTLV
		h.parseObjects()
	case h.Category>>4 == 8:
		h.Format = ReservedHistorical
	default:
		h.Format = Proprietary
	}
	return h
}

// parseObjects moves complete objects from Rest to Objects.
func (h *HistoricalBytes) parseObjects() {
	for len(h.Rest) > 0 {
		end := 1 + int(h.Rest[0]&0x0F)
		if end > len(h.Rest) {
			return
		}
		o := DataObject{Tag: ObjectTag(h.Rest[0] >> 4), Value: h.Rest[1:end:end]}
		if o.Tag == TagStatus {
			h.Status = parseStatus(o.Value)
		}
		h.Objects = append(h.Objects, o)
		h.Rest = h.Rest[end:]
	}
}

// Object returns the value of the first object with the tag.
func (h HistoricalBytes) Object(tag ObjectTag) (value []byte, ok bool) {
	for _, o := range h.Objects {
		if o.Tag == tag {
			return o.Value, true
		}
	}
	return nil, false
}

// Service returns the card service data.
func (h HistoricalBytes) Service() (s CardService, ok bool) {
	v, ok := h.Object(TagService)
	if !ok || len(v) != 1 {
		return 0, false
	}
	return CardService(v[0]), true
}

// Capabilities returns the card capabilities.
func (h HistoricalBytes) Capabilities() (c Capabilities, ok bool) {
	v, ok := h.Object(TagCapabilities)
	if !ok || len(v) == 0 || len(v) > 3 {
		return Capabilities{}, false
	}
	return parseCapabilities(v), true
}

// Information returns the decoded historical bytes.
func (a *ATR) Information() HistoricalBytes { return ParseHistorical(a.Historical) }

// CardService is the card service data byte (ISO/IEC 7816-4 §8.1.1.2.3).
type CardService byte

// SelectByFullName and SelectByPartialName tell how applications can be selected.
func (s CardService) SelectByFullName() bool    { return s&0x80 != 0 }
func (s CardService) SelectByPartialName() bool { return s&0x40 != 0 }

// ObjectsInDIR and ObjectsInATR tell where BER-TLV objects are: in EF.DIR, in EF.ATR.
func (s CardService) ObjectsInDIR() bool { return s&0x20 != 0 }
func (s CardService) ObjectsInATR() bool { return s&0x10 != 0 }

// Access returns the command that reads EF.DIR and EF.ATR, "a reserved command" for a value without meaning.
func (s CardService) Access() string {
	switch s >> 1 & 7 {
	case 0b100:
		return "READ BINARY"
	case 0b000:
		return "READ RECORD"
	case 0b010:
		return "GET DATA"
	}
	return "a reserved command"
}

// HasMF reports whether the card has a master file.
func (s CardService) HasMF() bool { return s&0x01 == 0 }

// Capabilities are the card capabilities (ISO/IEC 7816-4 §8.1.1.2.7), one to three software function tables.
type Capabilities struct {
	Selection, Coding, Commands Byte
}

func parseCapabilities(v []byte) Capabilities {
	var c Capabilities
	for i, field := range []*Byte{&c.Selection, &c.Coding, &c.Commands} {
		if i < len(v) {
			*field = Byte{Value: v[i], Present: true}
		}
	}
	return c
}

// CommandChaining reports whether the card says that it takes chained commands.
func (c Capabilities) CommandChaining() bool { return c.Commands.Or(0)&0x80 != 0 }

// ExtendedLength reports whether the card says that it takes extended Lc and Le fields.
func (c Capabilities) ExtendedLength() bool { return c.Commands.Or(0)&0x40 != 0 }

// ExtendedLengthInfo reports whether EF.ATR tells how long commands and responses may be.
func (c Capabilities) ExtendedLengthInfo() bool { return c.Commands.Or(0)&0x20 != 0 }

// MaxChannels returns the number of logical channels, 1..8, where 8 means 8 or more. It is 1 when the card doesn't say.
func (c Capabilities) MaxChannels() int { return int(c.Commands.Or(0)&0x07) + 1 }

// ChannelAssignment returns who numbers logical channels.
func (c Capabilities) ChannelAssignment() string {
	return [...]string{"none", "the host", "the card", "the card or the host"}[c.Commands.Or(0)>>3&3]
}

// DataUnit returns the size of the data unit in half bytes (quartets), a power of 2 from 1 to 32,768; 2, a byte, when the card doesn't say.
func (c Capabilities) DataUnit() int { return 1 << (c.Coding.Or(1) & 0x0F) }

// WriteBehaviour returns what the write functions do.
func (c Capabilities) WriteBehaviour() string {
	return [...]string{"one-time write", "proprietary", "write OR", "write AND"}[c.Coding.Or(0)>>5&3]
}

// LifeCycle is a life cycle status byte (ISO/IEC 7816-4 §5.3.3.2).
type LifeCycle byte

// String returns the name of the state.
func (l LifeCycle) String() string {
	switch {
	case l == 0x00:
		return "no information"
	case l == 0x01:
		return "creation"
	case l == 0x03:
		return "initialisation"
	case l&0xFD == 0x05:
		return "operational, activated"
	case l&0xFD == 0x04:
		return "operational, deactivated"
	case l&0xFC == 0x0C:
		return "termination"
	case l&0xF0 != 0:
		return "proprietary"
	}
	return "reserved"
}

// CardStatus is the status indicator (ISO/IEC 7816-4 §8.1.1.3): the life cycle status, the status word or both.
type CardStatus struct {
	HasLCS, HasSW bool
	LCS           LifeCycle
	SW            uint16
}

// parseStatus decodes one, two or three bytes, and returns nil for any other number.
func parseStatus(v []byte) *CardStatus {
	if len(v) == 0 || len(v) > 3 {
		return nil
	}
	var s CardStatus
	if len(v) != 2 {
		s.LCS, s.HasLCS = LifeCycle(v[0]), true
	}
	if len(v) >= 2 {
		s.SW, s.HasSW = uint16(v[len(v)-2])<<8|uint16(v[len(v)-1]), true
	}
	return &s
}

// String returns for example "life cycle 05 (operational, activated), SW 9000".
func (s CardStatus) String() string {
	switch {
	case s.HasLCS && s.HasSW:
		return fmt.Sprintf("life cycle %02X (%v), SW %04X", byte(s.LCS), s.LCS, s.SW)
	case s.HasLCS:
		return fmt.Sprintf("life cycle %02X (%v)", byte(s.LCS), s.LCS)
	case s.HasSW:
		return fmt.Sprintf("SW %04X", s.SW)
	}
	return "none"
}
