package quirks

import (
	"math"
	"slices"
	"time"

	"github.com/goccid/goccid/ccid"
)

// Settings are what a reader needs that its class descriptor doesn't say. The zero value of each field means: no quirk.
// Slices and what pointers point to belong to the Table and are to be read only.
//
// The toml tags are the keys under "set" in a row.
type Settings struct {
	// Refused says why a reader with this firmware is not to be opened; "" where it may be. The user's way out is to
	// switch the row off.
	Refused string `toml:"refused"`
	// Name stands for the model's name at the beginning of the reader's name, when it is opened.
	Name string `toml:"name"`
	// Descriptor corrects the class descriptor, before anything is done with it; see Correct.
	Descriptor Descriptor `toml:"descriptor"`
	// USB is about transfers.
	USB USB `toml:"usb"`
	// Timing changes waits.
	Timing Timing `toml:"timing"`
	// Power is about powering cards and about their presence.
	Power Power `toml:"power"`
	// Protocol is about PPS, parameters and data rates, when a protocol is set.
	Protocol Protocol `toml:"protocol"`
	// Exchange is about the transmission of commands.
	Exchange Exchange `toml:"exchange"`
	// PINPad is about PIN entry on the reader.
	PINPad PINPad `toml:"pin_pad"`
	// Escape is about vendor commands.
	Escape Escape `toml:"escape"`
}

// Descriptor holds corrections of the class descriptor (CCID 1.1 §5.1).
type Descriptor struct {
	// Protocols is the true dwProtocols: 1 for T=0, 2 for T=1, 3 for both.
	Protocols uint8 `toml:"protocols"`
	// MaxIFSD is the true dwMaxIFSD, 1..254 bytes.
	MaxIFSD uint8 `toml:"max_ifsd"`
	// MaxMessageLength is the true dwMaxCCIDMessageLength in bytes, header included.
	MaxMessageLength uint32 `toml:"max_message_length"`
	// Level is the true level of exchange: "character", "TPDU", "short APDU" or "extended APDU".
	Level *ccid.ExchangeLevel `toml:"level"`
	// SetFeatures are bits of dwFeatures that the reader has but does not announce.
	SetFeatures ccid.Features `toml:"set_features"`
	// ClearFeatures are bits of dwFeatures that the reader announces but does not have.
	ClearFeatures ccid.Features `toml:"clear_features"`
}

// USB holds changes to how transfers are made.
type USB struct {
	// SwallowZLP is how long to read for a spurious zero-length packet before each command.
	SwallowZLP time.Duration `toml:"swallow_zlp"`
	// InterruptFirst is how long to read the interrupt endpoint before each GetSlotStatus.
	InterruptFirst time.Duration `toml:"interrupt_first"`
	// Poll has the slots asked for their state from time to time although there is an interrupt endpoint.
	Poll bool `toml:"poll"`
}

// Timing holds changes to waits.
type Timing struct {
	// WarmUpDelay is a pause between opening the reader and the first command.
	WarmUpDelay time.Duration `toml:"warm_up_delay"`
	// WarmUpTimeout is the least wait for the answer to the first command.
	WarmUpTimeout time.Duration `toml:"warm_up_timeout"`
	// StatusTimeout is the least wait for the answer to any GetSlotStatus.
	StatusTimeout time.Duration `toml:"status_timeout"`
	// T1Allowance is added to each wait for a T=1 card's answer, and to the ceiling on it.
	T1Allowance time.Duration `toml:"t1_allowance"`
	// Silence is the longest wait for one answer or sign of life, in place of the driver's own limit.
	Silence time.Duration `toml:"silence"`
	// Exchange is the ceiling on one operation with all of its time extensions, in place of the driver's own of 60 s. The
	// generation of a key pair has 5 min, or this where it is more.
	Exchange time.Duration `toml:"exchange"`
	// Poll is the interval at which slots are asked for their state, where that is done.
	Poll time.Duration `toml:"poll"`
}

// Power holds changes to activation and presence detection.
type Power struct {
	// Voltage is tried first where the driver selects it: "5 V", "3 V" or "1.8 V".
	Voltage ccid.PowerSelect `toml:"voltage"`
	// OffBeforeOn has every IccPowerOn preceded by IccPowerOff, so that there is no warm reset.
	OffBeforeOn bool `toml:"off_before_on"`
	// RetryEscape is an Escape command after which an IccPowerOn that failed with RetryOn is tried once more.
	RetryEscape []byte `toml:"retry_escape"`
	// RetryOn is the value of bError for RetryEscape.
	RetryOn uint8 `toml:"retry_on"`
	// PresenceByPowerOn says that the reader always reports a card: there is none when power on fails.
	PresenceByPowerOn bool `toml:"presence_by_power_on"`
}

// Protocol holds changes to how a protocol is set.
type Protocol struct {
	// MaxDataRate is the highest data rate to use in bit/s; higher ones are dropped from the reader's list.
	MaxDataRate uint32 `toml:"max_data_rate"`
	// SecondarySlotDataRates are the only data rates of all slots but the first, in bit/s.
	SecondarySlotDataRates []uint32 `toml:"secondary_slot_data_rates"`
	// NoPPS says that the reader can't exchange PPS: only the first protocol that the card offers, at its default rate,
	// can be used.
	NoPPS bool `toml:"no_pps"`
	// SetParametersMayFail says that when SetParameters fails for T=1, the card is to be reset cold and then warm, and
	// used with what the reader has set by itself.
	SetParametersMayFail bool `toml:"set_parameters_may_fail"`
	// NoIFSD leaves out the negotiation of the T=1 information field size; dwMaxIFSD counts as agreed on.
	NoIFSD bool `toml:"no_ifsd"`
	// MinBWI is the least block waiting integer of T=1, 1..9, for the reader's parameters and for the driver's waits.
	MinBWI uint8 `toml:"min_bwi"`
}

// Exchange holds changes to the transmission of commands.
type Exchange struct {
	// AvoidMultipleOf has a read at character level split into one byte and the rest where the whole answer, 10 bytes of
	// header included, would be a multiple of this many bytes.
	AvoidMultipleOf uint16 `toml:"avoid_multiple_of"`
	// IdentityAPDUs has the driver answer the commands FF 9A 01 xx 00 by itself: 01 manufacturer, 03 product, 06 firmware
	// version, 07 driver version.
	IdentityAPDUs bool `toml:"identity_apdus"`
}

// PINPad holds changes to PIN entry (CCID 1.1 §6.1.11; PC/SC part 10).
type PINPad struct {
	// Off takes away PIN entry that the reader announces but doesn't have, or that is not safe.
	Off bool `toml:"off"`
	// MCT says that FEATURE_MCT_READER_DIRECT is to be announced.
	MCT bool `toml:"mct"`
	// MinSize and MaxSize are the least and the greatest number of PIN digits that the reader takes. MaxSize 0 says that
	// they are not known.
	MinSize uint8 `toml:"min_size"`
	// MaxSize is the greatest number of PIN digits that the reader takes; 0 says that neither size is known.
	MaxSize uint8 `toml:"max_size"`
	// ValidationCondition is the value of bEntryValidationCondition that is reported to applications, 1..7.
	ValidationCondition uint8 `toml:"validation_condition"`
	// FirmwareFeatures is an Escape command whose answer of 21 bytes has the PIN sizes, a mask for
	// bEntryValidationCondition, and a bit that says that Modify.AllIndices is not needed. It is sent at opening.
	FirmwareFeatures []byte `toml:"firmware_features"`
	// DisplayStringsAfter is how long after opening the ten texts of the display are to be loaded; 0 is not at all.
	DisplayStringsAfter time.Duration `toml:"display_strings_after"`
	// Verify is about PIN verification.
	Verify PINVerify `toml:"verify"`
	// Modify is about PIN modification.
	Modify PINModify `toml:"modify"`
}

// PINVerify holds changes to the message for PIN verification (CCID 1.1 §6.1.11.1).
type PINVerify struct {
	// NumberMessage is put in for bNumberMessage, 0..3 or 255.
	NumberMessage *uint8 `toml:"number_message"`
	// ValidationCondition is put in for bEntryValidationCondition, 1..7.
	ValidationCondition uint8 `toml:"validation_condition"`
	// SwapExtraDigits swaps the two bytes of wPINMaxExtraDigit.
	SwapExtraDigits bool `toml:"swap_extra_digits"`
	// Delay is a pause before the message is sent.
	Delay time.Duration `toml:"delay"`
	// UnpaddedEscape is an Escape command to send first when bmPINBlockString is 0 and the APDU is its header alone.
	UnpaddedEscape []byte `toml:"unpadded_escape"`
}

// PINModify holds changes to the message for PIN modification (CCID 1.1 §6.1.11.2).
type PINModify struct {
	// NumberMessage is put in for bNumberMessage, 0..3 or 255.
	NumberMessage *uint8 `toml:"number_message"`
	// NumberMessageForZero is put in for a bNumberMessage of 0.
	NumberMessageForZero uint8 `toml:"number_message_for_zero"`
	// ValidationCondition is put in for bEntryValidationCondition, 1..7.
	ValidationCondition uint8 `toml:"validation_condition"`
	// AllIndices puts bMsgIndex1..3 into the message whatever bNumberMessage says.
	AllIndices bool `toml:"all_indices"`
	// ZeroIndices puts 0 in for bMsgIndex1..3.
	ZeroIndices bool `toml:"zero_indices"`
}

// Escape holds what is known of the reader's vendor commands, and which of them applications may send.
type Escape struct {
	// Always says that applications may send any Escape command.
	Always bool `toml:"always"`
	// Allow has the Escape commands that applications may send even where Escape commands are not allowed.
	Allow []Pattern `toml:"allow"`
	// FirmwareVersion is an Escape command whose answer is the firmware's version as text.
	FirmwareVersion []byte `toml:"firmware_version"`
	// AtOpen are Escape commands to send once the reader is open.
	AtOpen [][]byte `toml:"at_open"`
}

// Allows reports whether applications may send this Escape command although the driver allows none.
func (e Escape) Allows(command []byte) bool {
	return e.Always || slices.ContainsFunc(e.Allow, func(p Pattern) bool { return p.Match(command) })
}

// levelBits are all bits of dwFeatures that give a level of exchange; none is the character level.
const levelBits = ccid.FeatureLevelTPDU | ccid.FeatureLevelShortAPDU | ccid.FeatureLevelExtendedAPDU

// Correct returns the class descriptor as the reader should have announced it: with the corrections of Descriptor, and
// with what Protocol and PINPad take away from it.
func (s Settings) Correct(c ccid.ClassDescriptor) ccid.ClassDescriptor {
	d := s.Descriptor
	if d.Protocols != 0 {
		c.DwProtocols = uint32(d.Protocols)
	}
	if d.MaxIFSD != 0 {
		c.DwMaxIFSD = uint32(d.MaxIFSD)
	}
	if d.MaxMessageLength != 0 {
		c.DwMaxCCIDMessageLength = d.MaxMessageLength
	}
	c.DwFeatures = c.DwFeatures&^d.ClearFeatures | d.SetFeatures
	if d.Level != nil {
		c.DwFeatures = c.DwFeatures&^levelBits | featureOf(*d.Level)
	}
	if s.Protocol.NoIFSD {
		c.DwFeatures |= ccid.FeatureAutoIFSD
	}
	c.DwMaxDataRate = s.Protocol.capped(c.DwMaxDataRate)
	if s.PINPad.Off {
		c.BPINSupport = 0
	}
	return c
}

func featureOf(l ccid.ExchangeLevel) ccid.Features {
	switch l {
	case ccid.LevelTPDU:
		return ccid.FeatureLevelTPDU
	case ccid.LevelShortAPDU:
		return ccid.FeatureLevelShortAPDU
	case ccid.LevelExtendedAPDU:
		return ccid.FeatureLevelExtendedAPDU
	}
	return 0
}

// capped returns a rate in bit/s, no higher than MaxDataRate where there is one.
func (p Protocol) capped(rate uint32) uint32 {
	if p.MaxDataRate == 0 {
		return rate
	}
	return min(rate, p.MaxDataRate)
}

// DataRates returns which of the data rates in bit/s that the reader lists can be used in a slot, 0 being the first.
// listed is left as it is. Where the reader lists none, which stands for all of them up to the highest, the answer is
// none as well, except in a secondary slot that has its own.
func (p Protocol) DataRates(slot int, listed []int) []int {
	if slot > 0 && len(p.SecondarySlotDataRates) > 0 {
		listed = make([]int, len(p.SecondarySlotDataRates))
		for i, rate := range p.SecondarySlotDataRates {
			listed[i] = int(min(rate, math.MaxInt32))
		}
	}
	return slices.DeleteFunc(slices.Clone(listed), func(rate int) bool {
		return p.MaxDataRate != 0 && int64(rate) > int64(p.MaxDataRate)
	})
}
