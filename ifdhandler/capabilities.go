package ifdhandler

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
)

// capability returns the value of one tag.
type capability func(ctx context.Context, c *channel) ([]byte, error)

// capabilities has what GetCapabilities answers. Numbers are in the machine's byte order, as the API wants them, strings
// end with a NUL.
var capabilities = join(attributes(), map[Tag]capability{
	TagATR:                 atr,
	AttrATRString:          atr,
	TagSimultaneousAccess:  constant(255),
	TagThreadSafe:          constant(1),
	TagSlotThreadSafe:      constant(1),
	TagDeviceRemoved:       constant(1),
	TagSlotsNumber:         slots,
	AttrICCPresence:        presence(2),
	AttrICCInterfaceStatus: interfaceStatus,
	AttrVendorName: func(_ context.Context, c *channel) ([]byte, error) {
		return text(c.reader.Device().Info().Manufacturer), nil
	},
	AttrVendorIFDSerialNo: func(_ context.Context, c *channel) ([]byte, error) {
		return text(c.reader.Device().Info().SerialNumber), nil
	},
	AttrVendorIFDVersion: func(_ context.Context, c *channel) ([]byte, error) {
		return number(uint32(c.reader.Device().Info().BCDDevice) << 16), nil
	},
	AttrMaxInput: func(_ context.Context, c *channel) ([]byte, error) { return number(uint32(c.reader.MaxCommand())), nil },
	AttrChannelID: func(_ context.Context, c *channel) ([]byte, error) {
		const usb = 0x0020
		info := c.reader.Device().Info()
		return number(usb<<16 | uint32(info.Bus&0xFF)<<8 | uint32(info.Address&0xFF)), nil
	},
})

// join returns a map with the entries of both.
func join(a, b map[Tag]capability) map[Tag]capability {
	maps.Copy(a, b)
	return a
}

func constant(b byte) capability {
	return func(context.Context, *channel) ([]byte, error) { return []byte{b}, nil }
}

func atr(_ context.Context, c *channel) ([]byte, error) { return c.slot.ATR(), nil }

func slots(_ context.Context, c *channel) ([]byte, error) {
	return []byte{byte(min(len(c.reader.Slots()), 255))}, nil
}

// presence answers the given value when a card is present, 0 otherwise.
func presence(value byte) capability {
	return func(ctx context.Context, c *channel) ([]byte, error) {
		if _, err := c.slot.Status(ctx); err != nil {
			return nil, err
		}
		if !c.slot.State().Present {
			return []byte{0}, nil
		}
		return []byte{value}, nil
	}
}

// interfaceStatus answers 1 when the card has power.
func interfaceStatus(_ context.Context, c *channel) ([]byte, error) {
	if c.slot.State().Powered {
		return []byte{1}, nil
	}
	return []byte{0}, nil
}

// text returns a string with its NUL, nothing for none.
func text(s string) []byte {
	if s == "" {
		return nil
	}
	return append([]byte(s), 0)
}

func number(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

// GetCapabilities returns the value of a tag, nil where it is known but empty. Codes: ErrorTag for a tag that is not
// known, and those of the driver where the reader has to be asked.
func (h *Handler) GetCapabilities(ctx context.Context, lun Lun, tag Tag) ([]byte, error) {
	const function = "GetCapabilities"
	c, err := h.channel(function, lun)
	if err != nil {
		return nil, err
	}
	get := capabilities[tag]
	if get == nil {
		return nil, &Error{Function: function, Lun: lun, Code: ErrorTag, Err: fmt.Errorf("tag 0x%X", uint32(tag))}
	}
	value, err := get(ctx, c)
	return value, h.fail(function, lun, err)
}

// SetCapabilities sets the value of a tag. Only TagDeviceRemoved can be set, with one byte that is not 0: it puts the
// reader with all its slots, and all readers of the same device, into the removed state, see host.Device.SetRemoved.
// Codes: ErrorTag, ErrorValueReadOnly for what can only be read, ErrorSetFailure for another value.
func (h *Handler) SetCapabilities(lun Lun, tag Tag, value []byte) error {
	const function = "SetCapabilities"
	c, err := h.channel(function, lun)
	if err != nil {
		return err
	}
	switch {
	case tag != TagDeviceRemoved && capabilities[tag] != nil:
		return &Error{Function: function, Lun: lun, Code: ErrorValueReadOnly}
	case tag != TagDeviceRemoved:
		return &Error{Function: function, Lun: lun, Code: ErrorTag, Err: fmt.Errorf("tag 0x%X", uint32(tag))}
	case len(value) != 1 || value[0] == 0:
		return &Error{Function: function, Lun: lun, Code: ErrorSetFailure, Err: fmt.Errorf("value % X", value)}
	}
	h.setRemoved(c)
	return nil
}

// setRemoved marks every reader of the channel's device, whatever host.Device it was opened by.
func (h *Handler) setRemoved(c *channel) {
	c.reader.SetRemoved()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, other := range h.channels {
		if other.reader.Device().Info().Key == c.reader.Device().Info().Key {
			other.reader.SetRemoved()
		}
	}
}
