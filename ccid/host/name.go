package host

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/goccid/goccid/ccid/quirks"
	"github.com/goccid/goccid/usbtransport"
)

// maxNameBase is how many bytes of a name may stand before its two numbers: pcsc-lite's MAX_READERNAME of 128 less the
// numbers and the terminating NUL.
const maxNameBase = 128 - len(" 00 00") - 1

// Name is what a reader's name is made of, as pcsc-lite makes it. Names are an interface: they stand in configuration
// files and scripts.
type Name struct {
	// Friendly is the model's name.
	Friendly string
	// Interface is the string of the USB interface, "" where it has none.
	Interface string
	// Serial is the device's serial number, "" where it has none.
	Serial string
	// Extend is put after everything but the numbers; pcsc-lite takes it from PCSCLITE_FILTER_EXTEND_READER_NAMES.
	Extend string
	// Number tells readers apart (0..255): the lowest that no other reader has.
	Number int
	// Slot is the slot's number (0..255).
	Slot int
}

// String returns "Friendly [Interface] (Serial)Extend 00 00": number and slot in two upper-case hexadecimal digits, the
// serial number left out where it is part of the interface's string, other than printable ASCII as '.', and all before
// the numbers cut to 121 bytes.
func (n Name) String() string {
	base := n.own() + printable(n.Extend)
	return fmt.Sprintf("%s %02X %02X", base[:min(len(base), maxNameBase)], uint8(n.Number), uint8(n.Slot))
}

// own is the part of the name that is the reader's own: neither numbers nor what the user adds.
func (n Name) own() string {
	own := n.Friendly
	if n.Interface != "" {
		own += " [" + n.Interface + "]"
	}
	if n.Serial != "" && !strings.Contains(n.Interface, n.Serial) {
		own += " (" + n.Serial + ")"
	}
	return printable(own)
}

// ignored returns an ErrIgnored where the user wants the reader left alone.
func (o *Options) ignored(n Name) error {
	if name := n.own(); o.Ignore != nil && o.Ignore(name) {
		return fmt.Errorf("%w, %s", ErrIgnored, name)
	}
	return nil
}

// printable replaces each byte that is not printable ASCII.
func printable(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '.'
		}
	}
	return string(b)
}

// FriendlyName returns the model's name as pcscd's users know it: that of quirks.ModelName or, for most models, their
// strings, "Yubico YubiKey OTP+FIDO+CCID"; where there is neither string, "CCID reader 08e6:3437".
func FriendlyName(d usbtransport.DeviceInfo) string {
	return cmp.Or(
		quirks.ModelName(d.IDVendor, d.IDProduct),
		strings.TrimSpace(strings.TrimSpace(d.Manufacturer)+" "+strings.TrimSpace(d.Product)),
		fmt.Sprintf("CCID reader %04x:%04x", d.IDVendor, d.IDProduct),
	)
}
