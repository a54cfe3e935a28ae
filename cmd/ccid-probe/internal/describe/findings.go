package describe

import (
	"fmt"
	"math"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/usbtransport"
)

// Finding is something in a descriptor that looks wrong.
type Finding struct {
	// Field is the specification's name of the field.
	Field string `json:"field"`
	// Text says what is wrong, and what a driver has to do about it where that is known.
	Text string `json:"text"`
}

// Limits of the specifications.
const (
	minShortMessage = 261 + ccid.HeaderLength // CCID 1.1 §5.1: the longest short command APDU with its header
	maxIFSD         = 254                     // ISO/IEC 7816-3:2006 §11.4.2
	minClockKHz     = 1000                    // ISO/IEC 7816-3:2006 §5.2.3
	maxClockKHz     = 20000                   // ISO/IEC 7816-3:2006 table 7: f(max) of the largest entry
	defaultCycles   = 372                     // Fd/Dd, ISO/IEC 7816-3:2006 §8.1
)

// ClassFindings lists what looks wrong in a class descriptor, in the order of its fields. An empty list does not mean
// that the reader keeps its promises.
func ClassFindings(d *ccid.ClassDescriptor) []Finding {
	var list findings
	list.addIf(d.BDescriptorType != ccid.ClassDescriptorType, "bDescriptorType", "is not 0x21: drivers that are strict about it don't find this reader")
	list.addIf(!knownRelease(d.BcdCCID), "bcdCCID", "%s is no release of the specification (1.00, 1.10)", BCD(d.BcdCCID))
	list.addIf(d.BVoltageSupport&7 == 0, "bVoltageSupport", "announces no voltage at all")
	list.addIf(d.BVoltageSupport&^7 != 0, "bVoltageSupport", "has reserved bits set")
	list.addIf(d.DwProtocols == 0, "dwProtocols", "announces no protocol at all")
	list.addIf(d.DwProtocols&0xFFFF0000 != 0, "dwProtocols", "has reserved bits set")
	list.clocks(d)
	list.rates(d)
	list.blocks(d)
	list.features(d)
	list.messages(d)
	list.addIf(d.BPINSupport&^(ccid.PINVerification|ccid.PINModification) != 0, "bPINSupport", "has reserved bits set")
	list.addIf(d.BMaxCCIDBusySlots == 0, "bMaxCCIDBusySlots", "is 0: not one slot could work")
	list.addIf(int(d.BMaxCCIDBusySlots) > d.Slots(), "bMaxCCIDBusySlots", "is %d, but there is only %s", d.BMaxCCIDBusySlots, plural(d.Slots(), "slot"))
	return list
}

// InterfaceFindings lists what looks wrong in an interface descriptor and its endpoints (CCID 1.1 §4.3, §4.4; ICCD 1.0 §4).
func InterfaceFindings(d usbtransport.InterfaceDescriptor) []Finding {
	var list findings
	list.addIf(d.Protocol > ccid.ProtocolICCDB, "bInterfaceProtocol", "%d is none that the specifications know", d.Protocol)
	if d.Protocol != ccid.ProtocolCCID {
		return list
	}
	var in, out bool
	for _, e := range d.Endpoints {
		name := fmt.Sprintf("endpoint 0x%02X", e.Address)
		list.addIf(e.MaxPacketSize == 0, name, "wMaxPacketSize is 0")
		if e.Type == usbtransport.TransferBulk {
			in, out = in || e.In(), out || !e.In()
		}
	}
	list.addIf(!in, "bNumEndpoints", "there is no bulk IN endpoint, without which a reader can't answer")
	list.addIf(!out, "bNumEndpoints", "there is no bulk OUT endpoint, without which a reader can't be asked")
	return list
}

type findings []Finding

func (f *findings) addIf(wrong bool, field, format string, args ...any) {
	if wrong {
		*f = append(*f, Finding{Field: field, Text: fmt.Sprintf(format, args...)})
	}
}

// knownRelease takes 1.01 too, which a dozen of readers announce.
func knownRelease(v uint16) bool { return v == 0x0100 || v == 0x0101 || v == 0x0110 }

func (f *findings) clocks(d *ccid.ClassDescriptor) {
	clock, maximum := d.DwDefaultClock, d.DwMaximumClock
	f.addIf(clock == 0, "dwDefaultClock", "is 0: waiting times can't be computed from it")
	f.addIf(clock > 0 && clock < minClockKHz, "dwDefaultClock", "%s is below the 1 MHz that every card may expect (kHz and MHz mixed up?)", Clock(clock))
	f.addIf(clock > maxClockKHz, "dwDefaultClock", "%s is more than any card takes (kHz and Hz mixed up?)", Clock(clock))
	f.addIf(maximum < clock, "dwMaximumClock", "%s is less than dwDefaultClock", Clock(maximum))
	f.addIf(maximum > maxClockKHz, "dwMaximumClock", "%s is more than any card takes (kHz and Hz mixed up?)", Clock(maximum))
}

func (f *findings) rates(d *ccid.ClassDescriptor) {
	rate, maximum := d.DwDataRate, d.DwMaxDataRate
	f.addIf(rate == 0, "dwDataRate", "is 0: no card could be read at that rate")
	// The default rate is the default clock over 372, for that is how each card starts; a twentieth allows for rounding.
	want := float64(d.DwDefaultClock) * 1000 / defaultCycles
	off := rate > 0 && d.DwDefaultClock > 0 && math.Abs(float64(rate)-want) > want/20
	f.addIf(off, "dwDataRate", "%s is not dwDefaultClock/372, which would be %.0f bit/s", Rate(rate), want)
	f.addIf(maximum < rate, "dwMaxDataRate", "%s is less than dwDataRate", Rate(maximum))
}

func (f *findings) blocks(d *ccid.ClassDescriptor) {
	level := d.DwFeatures.ExchangeLevel()
	if !d.SupportsProtocol(1) || level > ccid.LevelTPDU {
		return
	}
	f.addIf(d.DwMaxIFSD == 0, "dwMaxIFSD", "is 0, though the reader offers T=1 at %s level: drivers have to guess a size", level)
	f.addIf(d.DwMaxIFSD > maxIFSD, "dwMaxIFSD", "%d is more than the %d bytes that a T=1 block can have", d.DwMaxIFSD, maxIFSD)
}

// knownFeatures are the bits that the specification defines.
const knownFeatures = ccid.FeatureAutoATRConfig | ccid.FeatureAutoActivation | ccid.FeatureAutoVoltage | ccid.FeatureAutoClock |
	ccid.FeatureAutoBaudRate | ccid.FeatureAutoParameters | ccid.FeatureAutoPPS | ccid.FeatureClockStop | ccid.FeatureNAD |
	ccid.FeatureAutoIFSD | ccid.FeatureICCD | ccid.FeatureLevelTPDU | ccid.FeatureLevelShortAPDU |
	ccid.FeatureLevelExtendedAPDU | ccid.FeatureWakeup

func (f *findings) features(d *ccid.ClassDescriptor) {
	features, level := d.DwFeatures, d.DwFeatures.ExchangeLevel()
	negotiates := features & (ccid.FeatureAutoParameters | ccid.FeatureAutoPPS)
	levels := features & (ccid.FeatureLevelTPDU | ccid.FeatureLevelShortAPDU | ccid.FeatureLevelExtendedAPDU)
	f.addIf(features&^knownFeatures != 0, "dwFeatures", "has reserved bits set: %s", features&^knownFeatures)
	f.addIf(levels&(levels-1) != 0, "dwFeatures", "announces more than one level of exchange; goccid uses the %s level", level)
	f.addIf(negotiates == ccid.FeatureAutoParameters|ccid.FeatureAutoPPS, "dwFeatures", "announces both automatic parameters negotiation and automatic PPS, which exclude each other")
	f.addIf(level > ccid.LevelTPDU && negotiates == 0 && features&ccid.FeatureICCD == 0, "dwFeatures",
		"exchanges at %s level, but announces neither automatic parameters negotiation nor automatic PPS, one of which that level demands", level)
}

func (f *findings) messages(d *ccid.ClassDescriptor) {
	length, level := d.DwMaxCCIDMessageLength, d.DwFeatures.ExchangeLevel()
	f.addIf(length <= ccid.HeaderLength, "dwMaxCCIDMessageLength", "%d leaves no room for data after the header of %d bytes", length, ccid.HeaderLength)
	f.addIf(length > ccid.HeaderLength && length < minShortMessage && level != ccid.LevelCharacter, "dwMaxCCIDMessageLength",
		"%d is too short for %s level: a short APDU with its header needs %d bytes", length, level, minShortMessage)
	f.addIf(length > ccid.MaxMessageLength, "dwMaxCCIDMessageLength", "%d is more than the largest message, %d bytes", length, ccid.MaxMessageLength)
}
