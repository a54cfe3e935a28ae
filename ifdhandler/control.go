package ifdhandler

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/usbtransport"
)

// Control runs a control function: PC/SC part 10's features, and the vendor's escape where the policy lets it. It returns
// what the reader, or the driver for it, answers: for a PIN, the card's response, or 6400 for a time-out and 6401 when the
// holder cancelled. The end of ctx aborts the entry of a PIN. Codes: NotSupported for a structure whose lengths are wrong,
// ErrorNotSupported for a code or feature that the reader does not have, and for an escape that the policy forbids; those
// of the driver.
func (h *Handler) Control(ctx context.Context, lun Lun, code uint32, in []byte) ([]byte, error) {
	const function = "Control"
	c, err := h.channel(function, lun)
	if err != nil {
		return nil, err
	}
	switch code {
	case ControlEscape:
		out, err := h.escape(ctx, c, in)
		return out, h.fail(function, lun, err)
	case ControlGetFeatureRequest, ControlGetFeatureRequestWindows:
		return h.features(c), nil
	case ControlUSBPath:
		return usbPath(c.reader.Function()), nil
	}
	for _, f := range directFeatures {
		if run := direct(c, f); run != nil && code == controlFeature+uint32(f) {
			out, err := run(ctx, c, in)
			return out, h.fail(function, lun, err)
		}
	}
	return nil, &Error{Function: function, Lun: lun, Code: ErrorNotSupported, Err: fmt.Errorf("control code 0x%08X", code)}
}

func (h *Handler) escape(ctx context.Context, c *channel, in []byte) ([]byte, error) {
	allow := h.options.Policy.Escape
	if !c.reader.Quirks().Escape.Allows(in) && (allow == nil || !allow(c.reader, in)) {
		return nil, &Error{Code: ErrorNotSupported, Err: errors.New("escape commands are not allowed for this reader")}
	}
	return c.slot.Escape(ctx, in)
}

// usbPath returns where the reader is plugged in, as the kernel of Linux names the interface below /sys/bus/usb/devices:
// "1-2.3:1.0", port path, configuration and interface, with a NUL.
func usbPath(f host.Function) []byte {
	return text(fmt.Sprintf("%s:%d.%d", f.Device.PortPath, configurationValue(f.Device.Descriptors), f.Interface.Number))
}

// configurationValue returns bConfigurationValue of the first configuration descriptor (USB 2.0 table 9-10), 1 without
// one.
func configurationValue(descriptors []byte) uint8 {
	for b := descriptors; len(b) >= 2 && int(b[0]) >= 2 && int(b[0]) <= len(b); b = b[b[0]:] {
		if b[1] == usbtransport.DescriptorConfiguration && b[0] >= 9 {
			return b[5]
		}
	}
	return 1
}

// features answers GET_FEATURE_REQUEST: for each feature its tag, 4, and its control code, most significant byte first
// (PC/SC part 10 §2.2).
func (h *Handler) features(c *channel) []byte {
	var out []byte
	add := func(f Feature, code uint32) {
		out = append(out, byte(f), 4)
		out = binary.BigEndian.AppendUint32(out, code)
	}
	for _, f := range directFeatures {
		if direct(c, f) != nil {
			add(f, controlFeature+uint32(f))
		}
	}
	if h.options.Policy.Escape != nil || c.reader.Quirks().Escape.Always {
		add(FeatureCCIDEscCommand, ControlEscape)
	}
	return out
}

// anyCondition is bEntryValidationCondition with all conditions: maximum size, validation key, time-out.
const anyCondition = 7

// pinProperties answers IFD_PIN_PROPERTIES: PIN_PROPERTIES_STRUCTURE (PC/SC part 10 §2.6.10).
func pinProperties(c *channel) []byte {
	const timeOut2 = 0 // the same time for the first and for further digits
	condition := cmp.Or(c.reader.PINProperties().Condition, anyCondition)
	return append(binary.LittleEndian.AppendUint16(nil, c.reader.Class().WLcdLayout), uint8(condition), timeOut2)
}

// properties answers GET_TLV_PROPERTIES: for each property its tag, the value's length, and the value, least significant
// byte first (PC/SC part 10 §2.6.14). Those that are not known are left out.
func properties(ctx context.Context, c *channel) []byte {
	class, info, pad := c.reader.Class(), c.reader.Device().Info(), c.reader.PINProperties()
	var out []byte
	add := func(p Property, value ...byte) { out = append(append(out, byte(p), byte(len(value))), value...) }
	word := func(p Property, value uint16) { add(p, byte(value), byte(value>>8)) }

	word(PropertyLcdLayout, class.WLcdLayout)
	if class.WLcdLayout != 0 {
		word(PropertyLcdMaxCharacters, class.WLcdLayout&0xFF)
		word(PropertyLcdMaxLines, class.WLcdLayout>>8)
	}
	add(PropertyTimeOut2, 0)
	if version, err := c.slot.FirmwareVersion(ctx); err == nil && version != "" {
		version = version[:min(len(version), math.MaxUint8)]
		add(PropertyFirmwareID, []byte(version)...)
	}
	if pad.MaxSize > 0 {
		add(PropertyMinPINSize, pad.MinSize)
		add(PropertyMaxPINSize, pad.MaxSize)
	}
	if pad.Condition != 0 {
		add(PropertyEntryValidationCondition, uint8(pad.Condition))
	}
	add(PropertyPPDUSupport, 0)
	word(PropertyVendorID, info.IDVendor)
	word(PropertyProductID, info.IDProduct)
	add(PropertyMaxAPDUDataSize, binary.LittleEndian.AppendUint32(nil, maxAPDUData(class.DwFeatures.ExchangeLevel()))...)
	return out
}

// maxAPDUData is dwMaxAPDUDataSize: 0 where only short APDUs pass.
func maxAPDUData(level ccid.ExchangeLevel) uint32 {
	if level == ccid.LevelShortAPDU {
		return 0
	}
	return 0x10000
}
