package host

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/goccid/goccid/apdu"
	"github.com/goccid/goccid/ccid/quirks"
)

// RefusedError says that a reader is not opened because of what is known of its firmware.
type RefusedError struct {
	// Reason is what is wrong with the firmware.
	Reason string
	// Quirks are the ids of the rows that say so.
	Quirks []string
}

// Error returns the reason, the rows, and how to switch them off.
func (e *RefusedError) Error() string {
	rows := fmt.Sprintf("%q", e.Quirks)
	return fmt.Sprintf("refused: %s; to use the reader all the same, write a quirk for it that has disable = %s",
		e.Reason, strings.ReplaceAll(rows, `" "`, `", "`))
}

// Refusal returns a *RefusedError where the table says that the reader is not to be opened, nil otherwise.
func Refusal(f Function, table *quirks.Table) error {
	d := f.QuirkDevice()
	reason := table.Lookup(d).Refused
	if reason == "" {
		return nil
	}
	return &RefusedError{Reason: reason, Quirks: table.Setting(d, "refused")}
}

// QuirkDevice returns what the quirks of a reader are looked up by. f.Class is to be as the reader announces it.
func (f Function) QuirkDevice() quirks.Device {
	d := f.Device
	return quirks.Device{
		VID: d.IDVendor, PID: d.IDProduct, BcdDevice: d.BCDDevice, Serial: d.SerialNumber, Class: f.Class,
		Interface: f.Interface.Number, OS: runtime.GOOS,
	}
}

// withoutCard returns the session of a slot whose card has no power.
func (r *Reader) withoutCard() session {
	return session{conditions: conditions{needs: r.quirks, class: r.function.Class, deadlines: r.deadlines}}
}

// conditionsFor returns what holds with the card that has this answer to reset.
func (r *Reader) conditionsFor(raw []byte) conditions {
	d := r.Function().QuirkDevice()
	d.ATR = raw
	needs := r.options.Quirks.Lookup(d)
	class := needs.Correct(*r.function.Class)
	return conditions{needs: needs, class: &class, deadlines: newDeadlines(r.options.Limits, &class, needs.Timing)}
}

// sendEscapes sends the Escape commands that set the reader up. One that the reader refuses does not keep it from being
// used.
func (r *Reader) sendEscapes(ctx context.Context) error {
	for _, command := range r.quirks.Escape.AtOpen {
		_, err := r.slots[0].escape(ctx, command)
		if err := r.tolerated(ctx, command, err); err != nil {
			return err
		}
	}
	return nil
}

// identity answers the commands by which applications ask what reader and driver they have, for readers whose vendor's
// driver does.
func (s *Slot) identity(command []byte) ([]byte, bool) {
	c, err := apdu.ParseCommandLenient(command)
	if err != nil || !s.needs.Exchange.IdentityAPDUs || c.CLA != 0xFF || c.INS != 0x9A || c.P1 != 0x01 || len(c.Data) > 0 {
		return nil, false
	}
	info := s.reader.device.info
	text, ok := map[byte]string{
		0x01: info.Manufacturer,
		0x03: info.Product,
		0x06: fmt.Sprintf("%X.%02X", info.BCDDevice>>8, info.BCDDevice&0xFF),
		0x07: driverVersion(),
	}[c.P2]
	return append([]byte(text), 0x90, 0x00), ok
}

// driverVersion returns the version of this module, as far as the program knows it.
func driverVersion() string {
	const module = "github.com/goccid/goccid"
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return "goccid"
	}
	for _, m := range append(build.Deps, &build.Main) {
		if m.Path == module {
			return "goccid " + m.Version
		}
	}
	return "goccid"
}
