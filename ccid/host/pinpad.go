package host

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"strings"
	"time"

	"github.com/goccid/goccid/ccid"
)

// PINProperties are what is known of a reader's PIN pad that its class descriptor does not say.
type PINProperties struct {
	// MinSize and MaxSize are the least and the greatest number of digits that the pad takes. MaxSize 0 says that neither is
	// known.
	MinSize, MaxSize uint8
	// Condition is what can end an entry, 0 where it is not known.
	Condition ccid.PINCondition
}

// PINProperties returns what is known of the reader's PIN pad: by its own firmware where that tells, by Options.Quirks
// otherwise.
func (r *Reader) PINProperties() PINProperties {
	needs := r.quirks.PINPad
	p := PINProperties{MinSize: needs.MinSize, MaxSize: needs.MaxSize, Condition: ccid.PINCondition(needs.ValidationCondition)}
	if f := r.firmware; f != nil {
		if f.maxSize > 0 {
			p.MinSize, p.MaxSize = f.minSize, f.maxSize
		}
		if f.conditions.Valid() {
			p.Condition = f.conditions
		}
	}
	return p
}

// FirmwareVersion asks the reader for its firmware's version, "" for readers that have no known command for that
// (quirk escape.firmware_version). Errors, in an *Error: as Escape.
func (s *Slot) FirmwareVersion(ctx context.Context) (string, error) {
	command := s.reader.quirks.Escape.FirmwareVersion
	if len(command) == 0 {
		return "", nil
	}
	var version string
	err := s.do(ctx, "firmware version", func(ctx context.Context) error {
		answer, err := s.setUp(ctx, command)
		version = printable(strings.TrimRight(string(answer), "\x00"))
		return err
	})
	return version, err
}

// pinFirmware is what a firmware tells of its PIN pad.
type pinFirmware struct {
	conditions       ccid.PINCondition // those that it knows
	minSize, maxSize uint8             // maxSize 0: it does not say
	// indicesAsSpecified: it takes as many of bMsgIndex1..3 as bNumberMessage says.
	indicesAsSpecified bool
}

// Offsets in the answer to quirks.PINPad.FirmwareFeatures.
const (
	firmwareFeaturesLength = 21
	firmwareConditions     = 3
	firmwareOptions        = 8
	firmwareMinSize        = 13
	firmwareMaxSize        = 14
	// firmwareIndexFix is a bit of the options.
	firmwareIndexFix = 1 << 2
)

// parsePINFirmware returns nil for an answer of any other length: then the reader answers something else by this command.
func parsePINFirmware(b []byte) *pinFirmware {
	if len(b) != firmwareFeaturesLength {
		return nil
	}
	f := &pinFirmware{conditions: ccid.PINCondition(b[firmwareConditions]), indicesAsSpecified: b[firmwareOptions]&firmwareIndexFix != 0}
	if b[firmwareMinSize] <= b[firmwareMaxSize] {
		f.minSize, f.maxSize = b[firmwareMinSize], b[firmwareMaxSize]
	}
	return f
}

// setUpPINPad asks a reader for its firmware's features and loads the texts of its display, where Options.Quirks says so.
// A reader that does not do its part can be used all the same.
func (r *Reader) setUpPINPad(ctx context.Context, opened time.Time) error {
	needs := r.quirks.PINPad
	if r.PINSupport() == 0 {
		// What there is to ask is about PINs, and not every reader answers an Escape command that it doesn't know.
		return nil
	}
	if command := needs.FirmwareFeatures; len(command) > 0 {
		answer, err := r.slots[0].setUp(ctx, command)
		if err := r.tolerated(ctx, command, err); err != nil {
			return err
		}
		r.firmware = parsePINFirmware(answer)
	}
	after := needs.DisplayStringsAfter
	if after <= 0 {
		return nil
	}
	if err := r.pause(ctx, after-time.Since(opened)); err != nil {
		return err
	}
	command := displayStrings()
	_, err := r.slots[0].setUp(ctx, command)
	return r.tolerated(ctx, command[:len(displayCommand)], err)
}

// displayCommand precedes the texts for a display that has none of its own.
var displayCommand = []byte{0xB2, 0xA0, 0x00, 0x4D, 0x4C}

// displayStrings returns the command with the ten texts, of 16 characters each. "*" is where the reader puts a number.
func displayStrings() []byte {
	command := append([]byte(nil), displayCommand...)
	for _, text := range []string{
		"Enter PIN", "New PIN", "Repeat new PIN", "PIN correct", "PIN wrong", "Time is up", "* tries left", "Insert card",
		"Card error", "PIN is blocked",
	} {
		command = fmt.Appendf(command, "%-16s", text)
	}
	return command
}

// tolerated returns nil for an error that only says that the reader did not do what an Escape command at its opening asked for.
func (r *Reader) tolerated(ctx context.Context, command []byte, err error) error {
	if err == nil || ctx.Err() != nil || r.gone() != nil {
		return err
	}
	var failed *ccid.CommandError
	var silent *NoAnswerError
	if errors.As(err, &failed) || errors.As(err, &silent) && silent.Recovery.Recovered {
		r.log.Debugf("escape % X: %v", command, err)
		return nil
	}
	return err
}

// verification returns a PIN verification as this reader takes it for this card.
func (s *Slot) verification(p ccid.PINVerificationData) ccid.PINVerificationData {
	needs := s.needs.PINPad.Verify
	p.BEntryValidationCondition = s.reader.condition(p.BEntryValidationCondition, needs.ValidationCondition)
	if needs.NumberMessage != nil {
		p.BNumberMessage = *needs.NumberMessage
	}
	if needs.SwapExtraDigits {
		p.WPINMaxExtraDigit = ccid.PINSize(bits.ReverseBytes16(uint16(p.WPINMaxExtraDigit)))
	}
	return p
}

// modification returns the data of a PIN modification as this reader takes it for this card.
func (s *Slot) modification(p ccid.PINModificationData) ([]byte, error) {
	needs := s.needs.PINPad.Modify
	p.BEntryValidationCondition = s.reader.condition(p.BEntryValidationCondition, needs.ValidationCondition)
	if needs.NumberMessage != nil {
		p.BNumberMessage = *needs.NumberMessage
	}
	if p.BNumberMessage == 0 && needs.NumberMessageForZero != 0 {
		p.BNumberMessage = needs.NumberMessageForZero
	}
	if needs.ZeroIndices {
		p.BMsgIndex = [3]uint8{}
	}
	data, err := p.AppendBinary(nil)
	if err == nil && needs.AllIndices && (s.reader.firmware == nil || !s.reader.firmware.indicesAsSpecified) {
		clear(data)
		return p.AppendWithIndices(nil, len(p.BMsgIndex))
	}
	return data, err
}

// condition returns what is to end an entry: what the application wants or, where it is not 0, what the reader needs, and of that what
// its firmware knows. The validation key stands in for values that the specification does not have: applications send 0, and
// readers refuse it.
func (r *Reader) condition(wanted ccid.PINCondition, needed uint8) ccid.PINCondition {
	if needed != 0 {
		wanted = ccid.PINCondition(needed)
	}
	if !wanted.Valid() {
		wanted = ccid.PINKeyPressed
	}
	if r.firmware != nil && (wanted & r.firmware.conditions).Valid() {
		wanted &= r.firmware.conditions
	}
	return wanted
}

// prepareEntry does what the reader needs before a PIN verification. An Escape command that fails is the end of it: it
// would have the reader write the PIN in another form, and the card count a wrong try.
func (s *Slot) prepareEntry(ctx context.Context, p ccid.PINVerificationData) error {
	needs := s.needs.PINPad.Verify
	const headerAlone = 4
	if len(needs.UnpaddedEscape) > 0 && p.BmPINBlockString == 0 && len(p.PINAPDU) == headerAlone {
		if _, err := s.escape(ctx, needs.UnpaddedEscape); err != nil {
			return err
		}
	}
	if needs.Delay > 0 {
		return s.reader.pause(ctx, needs.Delay)
	}
	return nil
}
