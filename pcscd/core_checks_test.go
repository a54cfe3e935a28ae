package pcscd_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ifdhandler"
	"github.com/goccid/goccid/pcscd"
	"github.com/goccid/goccid/pcscd/pcscdtest"
	"github.com/goccid/goccid/pcscd/wire"
)

// trouble is what may be wrong with a handle; several things may be wrong at once.
type trouble uint8

const (
	locked trouble = 1 << iota // another client has a transaction
	reset                      // another client has reset the card
	fault                      // the driver can't tell the reader's status
	gone                       // the reader is removed
)

// in makes a handle that has these troubles.
func in(t *testing.T, tr trouble) (*client, int32) {
	t.Helper()
	w := newWorld(t, card(), pcscd.Options{})
	a, b := w.client(), w.client()
	ha, hb := a.open(wire.Shared), b.open(wire.Shared)
	if tr&reset != 0 {
		require.Equal(t, wire.Success, b.Begin(t.Context(), hb))
		require.Equal(t, wire.Success, b.End(t.Context(), hb, wire.ResetCard))
		_, code := b.Reconnect(t.Context(), hb, wire.Shared, wire.ProtocolAny, wire.LeaveCard)
		require.Equal(t, wire.Success, code)
	}
	if tr&locked != 0 {
		require.Equal(t, wire.Success, b.Begin(t.Context(), hb))
	}
	if tr&fault != 0 {
		w.fail(alphaLun)
	}
	if tr&gone != 0 {
		require.NoError(t, w.RemoveReader(t.Context(), alphaLun))
	}
	return a, ha
}

// fail makes the driver unable to tell a reader's status.
func (w *world) fail(lun ifdhandler.Lun) {
	w.Helper()
	w.driver.Hook(func(_ context.Context, c pcscdtest.Call) error {
		if c.Lun == lun && (c.Function == "ICCPresence" || c.Function == "WaitEvent") {
			return &ifdhandler.Error{Function: c.Function, Lun: c.Lun, Code: ifdhandler.CommunicationError}
		}
		return nil
	})
	w.driver.Insert(lun, card()) // an event that makes it look
	w.untilState(alpha, wire.StateUnknown)
}

// TestOrderOfChecks asks each function with each combination of troubles: which of them it complains about.
func TestOrderOfChecks(t *testing.T) {
	const (
		ok       = wire.Success
		invalid  = wire.ErrInvalidValue
		sharing  = wire.ErrSharingViolation
		unavail  = wire.ErrReaderUnavailable
		wasReset = wire.ErrResetCard
	)
	ctx := context.Background()
	// order is of gone, locked, fault, reset; a code of ok means that the trouble is none for the function.
	functions := []struct {
		name string
		call func(*client, int32) wire.Code
		want func(trouble) wire.Code
	}{
		{
			"Status", func(c *client, h int32) wire.Code { return c.Status(h) },
			first(when(gone, invalid), when(locked, sharing), when(reset, wasReset), when(fault, unavail)),
		},
		{
			"Transmit", func(c *client, h int32) wire.Code { return c.transmit(h, wire.ProtocolRaw) },
			first(when(gone, invalid), when(locked, sharing), when(fault, unavail), when(reset, wasReset)),
		},
		{
			"Control", func(c *client, h int32) wire.Code {
				_, code := c.Control(ctx, h, ifdhandler.ControlEscape, nil)
				return code
			},
			first(when(gone, invalid), when(locked, sharing), when(fault, unavail)),
		},
		{
			"GetAttrib", func(c *client, h int32) wire.Code {
				_, code := c.GetAttrib(ctx, h, uint32(ifdhandler.AttrVendorName), 264)
				return code
			},
			first(when(gone, invalid), when(locked, sharing), when(fault, unavail), when(reset, wasReset)),
		},
		{
			"SetAttrib", func(c *client, h int32) wire.Code {
				return c.SetAttrib(ctx, h, uint32(ifdhandler.AttrVendorName), []byte{1})
			},
			orElse(wire.ErrUnsupportedFeature, first(when(gone, invalid), when(locked, sharing), when(fault, unavail), when(reset, wasReset))),
		},
		{
			"Begin", func(c *client, h int32) wire.Code { return c.Begin(ctx, h) },
			first(when(gone, invalid), when(fault, unavail), when(reset, wasReset), when(locked, sharing)),
		},
		{
			"End leave", func(c *client, h int32) wire.Code { return c.End(ctx, h, wire.LeaveCard) },
			orElse(wire.ErrNotTransacted, first(when(gone, invalid), when(reset, wasReset), when(locked, sharing))),
		},
		{
			"End reset", func(c *client, h int32) wire.Code { return c.End(ctx, h, wire.ResetCard) },
			orElse(wire.ErrNotTransacted, first(when(gone, invalid), when(reset, wasReset), when(locked, sharing))),
		},
		{"End 4", func(c *client, h int32) wire.Code { return c.End(ctx, h, 4) }, first(when(0, invalid))},
		{
			"Reconnect", func(c *client, h int32) wire.Code {
				_, code := c.Reconnect(ctx, h, wire.Shared, wire.ProtocolAny, wire.LeaveCard)
				return code
			},
			first(when(gone, invalid), when(fault, unavail), when(locked, sharing)),
		},
		{
			"Reconnect eject", func(c *client, h int32) wire.Code {
				_, code := c.Reconnect(ctx, h, 9, 0, wire.EjectCard)
				return code
			}, first(when(0, invalid)),
		},
		{
			"Reconnect mode before protocol", func(c *client, h int32) wire.Code {
				_, code := c.Reconnect(ctx, h, 9, 0, wire.LeaveCard)
				return code
			}, first(when(0, invalid)),
		},
		{
			"Reconnect protocol", func(c *client, h int32) wire.Code {
				_, code := c.Reconnect(ctx, h, wire.Shared, wire.ProtocolT15, wire.LeaveCard)
				return code
			}, first(when(0, wire.ErrProtoMismatch)),
		},
		{"Disconnect leave", func(c *client, h int32) wire.Code { return c.Disconnect(ctx, h, wire.LeaveCard) }, first()},
		{
			"Disconnect reset", func(c *client, h int32) wire.Code {
				ctx, cancel := context.WithTimeout(ctx, time.Second)
				defer cancel()
				return c.Disconnect(ctx, h, wire.ResetCard)
			}, first(when(gone, ok), when(locked, wire.ErrCancelled)),
		},
		{"Disconnect 4", func(c *client, h int32) wire.Code { return c.Disconnect(ctx, h, 4) }, first(when(0, invalid))},
		{"Status of no handle", func(c *client, h int32) wire.Code { return c.Status(h ^ 1) }, first(when(0, wire.ErrInvalidHandle))},
	}
	for _, f := range functions {
		t.Run(f.name, func(t *testing.T) {
			for tr := range gone << 1 {
				bubble(t, func(t *testing.T) {
					c, h := in(t, tr)
					require.Equal(t, f.want(tr), f.call(c, h), "with troubles %04b", tr)
				})
			}
		})
	}
}

type rule func(trouble) (wire.Code, bool)

// when says what is told about a trouble, or always for 0.
func when(tr trouble, code wire.Code) rule {
	return func(has trouble) (wire.Code, bool) { return code, has&tr == tr }
}

func first(rules ...rule) func(trouble) wire.Code { return orElse(wire.Success, nil, rules...) }

func orElse(none wire.Code, f func(trouble) wire.Code, rules ...rule) func(trouble) wire.Code {
	return func(has trouble) wire.Code {
		if f != nil {
			if code := f(has); code != wire.Success {
				return code
			}
		}
		for _, r := range rules {
			if code, applies := r(has); applies {
				return code
			}
		}
		return none
	}
}

func TestOrderOfChecksOfConnect(t *testing.T) {
	const mode9 = wire.ShareMode(9)
	for _, tt := range []struct {
		name      string
		trouble   trouble
		exclusive bool
		noCard    bool
		wrong     bool // context
		reader    string
		mode      wire.ShareMode
		preferred wire.Protocol
		want      wire.Code
	}{
		{name: "protocol before mode", mode: mode9, preferred: wire.ProtocolT15, reader: "?", want: wire.ErrProtoMismatch},
		{name: "mode before reader", mode: mode9, preferred: 3, reader: "?", want: wire.ErrInvalidValue},
		{name: "reader", mode: wire.Shared, preferred: 3, reader: "?", want: wire.ErrUnknownReader},
		{name: "reader, part of its name", mode: wire.Shared, preferred: 3, reader: "Alpha", want: wire.ErrUnknownReader},
		{name: "reader gone", trouble: gone, mode: wire.Shared, preferred: 3, reader: alpha, want: wire.ErrUnknownReader},
		{name: "fault before exclusive", trouble: fault, exclusive: true, mode: wire.Shared, preferred: 3, reader: alpha, want: wire.ErrReaderUnavailable},
		{name: "fault before lock", trouble: fault | locked, mode: wire.Direct, reader: alpha, want: wire.ErrReaderUnavailable},
		{name: "exclusive before card", exclusive: true, noCard: true, mode: wire.Direct, reader: alpha, want: wire.ErrSharingViolation},
		{name: "lock", trouble: locked, mode: wire.Direct, reader: alpha, want: wire.ErrCancelled},
		{name: "no card", noCard: true, mode: wire.Shared, preferred: 3, reader: alpha, want: wire.ErrNoSmartcard},
		{name: "no card before protocol", noCard: true, mode: wire.Exclusive, preferred: 2, reader: alpha, want: wire.ErrNoSmartcard},
		{name: "protocol before sharing", mode: wire.Exclusive, preferred: 1, reader: alpha, want: wire.ErrProtoMismatch},
		{name: "sharing", mode: wire.Exclusive, preferred: 2, reader: alpha, want: wire.ErrSharingViolation},
		{name: "sharing before context", wrong: true, mode: wire.Exclusive, preferred: 2, reader: alpha, want: wire.ErrSharingViolation},
		{name: "context", wrong: true, mode: wire.Shared, preferred: 2, reader: alpha, want: wire.ErrInvalidValue},
		{name: "shared", mode: wire.Shared, preferred: 2, reader: alpha},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, card(), pcscd.Options{})
				owner := w.client()
				h := owner.open(wire.Shared)
				if tt.exclusive {
					_, code := owner.Reconnect(t.Context(), h, wire.Exclusive, wire.ProtocolAny, wire.LeaveCard)
					require.Equal(t, wire.Success, code)
				}
				if tt.trouble&locked != 0 {
					require.Equal(t, wire.Success, owner.Begin(t.Context(), h))
				}
				if tt.noCard {
					w.driver.Insert(alphaLun, nil)
					w.untilState(alpha, wire.StateAbsent)
				}
				if tt.trouble&gone != 0 {
					require.NoError(t, w.RemoveReader(t.Context(), alphaLun))
				}
				if tt.trouble&fault != 0 {
					w.fail(alphaLun)
				}
				c := w.client()
				if tt.wrong {
					c.hContext++
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				handles := w.Report().Handles
				hCard, _, code := c.Connect(ctx, c.hContext, tt.reader, tt.mode, tt.preferred)
				require.Equal(t, tt.want, code, "%v", code)
				require.Equal(t, code == wire.Success, c.Owns(hCard))
				require.Equal(t, tt.want == wire.Success || tt.wrong && code == wire.ErrInvalidValue, hCard != 0)
				if code != wire.Success {
					require.Equal(t, handles, w.Report().Handles)
				}
			})
		})
	}
}

func TestEstablishAndRelease(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{})
		s := w.NewSession(pcscd.Client{})
		require.False(t, s.HasContext())
		require.Equal(t, wire.ErrInvalidHandle, s.Release(t.Context(), 1))
		_, _, code := s.Connect(t.Context(), 1, alpha, wire.Shared, wire.ProtocolAny)
		require.Equal(t, wire.ErrInvalidHandle, code)
		n, code := s.Establish(4)
		require.Equal(t, wire.ErrInvalidValue, code)
		require.Zero(t, n)
		one, code := s.Establish(wire.ScopeTerminal)
		require.Equal(t, wire.Success, code)
		require.True(t, s.HasContext())
		require.Positive(t, int32(one))
		h, _, code := s.Connect(t.Context(), one, alpha, wire.Shared, wire.ProtocolAny)
		require.Equal(t, wire.Success, code)
		two, _ := s.Establish(wire.ScopeUser)
		require.NotEqual(t, one, two)
		require.True(t, s.Owns(h), "handles stay")
		require.Equal(t, wire.ErrInvalidValue, s.Release(t.Context(), one))
		require.Equal(t, wire.Success, s.Release(t.Context(), two))
		require.False(t, s.Owns(h))
		require.Zero(t, w.state(alpha).Sharing)
		s.Close(t.Context())
		s.Close(t.Context())
		_, code = s.Establish(wire.ScopeUser)
		require.NotEqual(t, wire.Success, code)
		require.Zero(t, w.Report().Sessions)
	})
}

func TestLimits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{MaxHandles: 2, MaxReaderHandles: 3, MaxReaders: 2})
		a, b := w.client(), w.client()
		a.open(wire.Shared)
		a.open(wire.Direct)
		_, _, code := a.Connect(t.Context(), a.hContext, alpha, wire.Shared, wire.ProtocolAny)
		require.Equal(t, wire.ErrNoMemory, code)
		require.EqualValues(t, 2, w.state(alpha).Sharing)
		b.open(wire.Shared)
		_, _, code = b.Connect(t.Context(), b.hContext, alpha, wire.Shared, wire.ProtocolAny)
		require.Equal(t, wire.ErrInternalError, code)
		w.add(beta, betaLun, nil)
		require.ErrorIs(t, w.AddReader(pcscd.Reader{Name: "Gamma", Lun: 0x00020000}), pcscd.ErrTooManyReaders)
	})
}

func TestAddReaderRefuses(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{})
		for _, name := range []string{"", strings.Repeat("x", 128), "a\x00b"} {
			require.ErrorIs(t, w.AddReader(pcscd.Reader{Name: name, Lun: betaLun}), pcscd.ErrReaderName)
		}
		require.ErrorIs(t, w.AddReader(pcscd.Reader{Name: alpha, Lun: betaLun}), pcscd.ErrDuplicateReader)
		require.ErrorIs(t, w.AddReader(pcscd.Reader{Name: beta, Lun: alphaLun}), pcscd.ErrDuplicateReader)
		require.NoError(t, w.Close(t.Context()))
		require.ErrorIs(t, w.AddReader(pcscd.Reader{Name: beta, Lun: betaLun}), pcscd.ErrManagerClosed)
	})
}

func TestAttributes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{})
		c := w.client()
		h := c.open(wire.Shared)
		for _, tt := range []struct {
			id    uint32
			limit int
			value string
			code  wire.Code
		}{
			{uint32(ifdhandler.AttrVendorName), 264, "goccid", wire.Success},
			{uint32(ifdhandler.AttrVendorName), 5, "goccid", wire.ErrInsufficientBuffer},
			{wire.AttrDeviceFriendlyName, 264, alpha + "\x00", wire.Success},
			{wire.AttrDeviceSystemName, len(alpha) + 1, alpha + "\x00", wire.Success},
			{wire.AttrDeviceSystemName, len(alpha), alpha + "\x00", wire.ErrInsufficientBuffer},
			{0x7FFF0005, 264, "", wire.ErrUnsupportedFeature},
			{uint32(ifdhandler.AttrATRString), 264, string(atrBoth), wire.Success},
		} {
			value, code := c.GetAttrib(t.Context(), h, tt.id, tt.limit)
			require.Equal(t, tt.code, code, "%08X", tt.id)
			require.Equal(t, tt.value, string(value))
		}
		require.Equal(t, wire.ErrUnsupportedFeature, c.SetAttrib(t.Context(), h, uint32(ifdhandler.TagDeviceRemoved), []byte{1}))
		require.Equal(t, wire.Success, c.Status(h), "no client can tell the driver that a reader is gone")
	})
}

func TestDriverErrorsBecomeCodes(t *testing.T) {
	for _, tt := range []struct {
		function string
		err      error
		want     wire.Code
	}{
		{"TransmitToICC", ifdhandler.ICCNotPresent, wire.ErrNoSmartcard},
		{"TransmitToICC", ifdhandler.NoSuchDevice, wire.ErrReaderUnavailable},
		{"TransmitToICC", ifdhandler.ResponseTimeout, wire.ErrNotTransacted},
		{"TransmitToICC", ifdhandler.ErrCardReset, wire.ErrResetCard},
		{"TransmitToICC", errors.New("anything"), wire.ErrNotTransacted},
		{"Control", ifdhandler.NoSuchDevice, wire.ErrReaderUnavailable},
		{"Control", ifdhandler.ErrorNotSupported, wire.ErrUnsupportedFeature},
		{"Control", ifdhandler.NotSupported, wire.ErrUnsupportedFeature},
		{"Control", ifdhandler.InsufficientBuffer, wire.ErrInsufficientBuffer},
		{"Control", ifdhandler.CommunicationError, wire.ErrNotTransacted},
		{"GetCapabilities", ifdhandler.ErrorTag, wire.ErrUnsupportedFeature},
		{"GetCapabilities", ifdhandler.InsufficientBuffer, wire.ErrInsufficientBuffer},
		{"GetCapabilities", ifdhandler.CommunicationError, wire.ErrNotTransacted},
		{"GetCapabilities", ifdhandler.NoSuchDevice, wire.ErrReaderUnavailable},
		{"SetCapabilities", ifdhandler.ErrorSetFailure, wire.ErrNotTransacted},
	} {
		t.Run(tt.function+" "+tt.err.Error(), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, card(), pcscd.Options{})
				c := w.client()
				h := c.open(wire.Shared)
				w.driver.Hook(func(_ context.Context, call pcscdtest.Call) error {
					if code, ok := tt.err.(ifdhandler.Code); ok && call.Function == tt.function {
						return &ifdhandler.Error{Function: call.Function, Code: code}
					}
					if call.Function == tt.function {
						return tt.err
					}
					return nil
				})
				_, transmit := c.Transmit(t.Context(), h, wire.ProtocolT1, nil)
				_, control := c.Control(t.Context(), h, ifdhandler.ControlEscape, nil)
				_, get := c.GetAttrib(t.Context(), h, uint32(ifdhandler.AttrVendorName), 264)
				set := c.SetAttrib(t.Context(), h, uint32(ifdhandler.AttrVendorName), nil)
				got := map[string]wire.Code{"TransmitToICC": transmit, "Control": control, "GetCapabilities": get, "SetCapabilities": set}
				if ifdhandler.CodeOf(tt.err) == ifdhandler.NoSuchDevice && tt.function == "Control" {
					require.Equal(t, wire.ErrInvalidValue, get, "gone for good")
				}
				require.Equal(t, tt.want, got[tt.function])
				synctest.Wait()
			})
		})
	}
}

func TestEject(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{})
		c := w.client()
		h := c.open(wire.Shared)
		require.Equal(t, wire.Success, c.Begin(t.Context(), h))
		require.Equal(t, wire.ErrUnsupportedFeature, c.End(t.Context(), h, wire.EjectCard))
		require.Nil(t, w.Report().Readers[0].Lock, "the transaction has ended all the same")
		require.Equal(t, wire.Success, c.Disconnect(t.Context(), h, wire.EjectCard))
	})
}
