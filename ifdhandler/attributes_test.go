package ifdhandler_test

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/ccid/quirks"
	"github.com/goccid/goccid/ifdhandler"
	"github.com/goccid/goccid/virtual"
	"github.com/goccid/goccid/virtual/card"
)

// none says that a value is known, but empty.
const none = -1

func (r *rig) requireAttributes(t *testing.T, want map[ifdhandler.Tag]int) {
	t.Helper()
	for tag, value := range want {
		var bytes []byte
		if value != none {
			bytes = binary.NativeEndian.AppendUint32(nil, uint32(value))
		}
		got, err := r.GetCapabilities(t.Context(), lun, tag)
		require.NoError(t, err, "tag 0x%X", uint32(tag))
		require.Equal(t, bytes, got, "tag 0x%X", uint32(tag))
		code(t, ifdhandler.ErrorValueReadOnly, r.SetCapabilities(lun, tag, []byte{1}))
	}
}

// tpdu is a reader that leaves everything to the host.
func tpdu(c card.Card) virtual.Config {
	level := ccid.LevelTPDU
	return virtual.Config{Level: &level, Cards: []card.Card{c}, Override: func(d *ccid.ClassDescriptor) {
		d.DwFeatures &^= ccid.FeatureAutoParameters | ccid.FeatureAutoPPS | ccid.FeatureAutoIFSD | ccid.FeatureAutoClock
		d.DwProtocols, d.DwDefaultClock, d.DwMaximumClock, d.DwDataRate, d.DwMaxDataRate, d.BNumDataRatesSupported = 3, 4000, 8000, 10753, 400000, 0
		d.DwMaxIFSD, d.DwSynchProtocols = 254, 5
	}}
}

func (r *rig) connect(t *testing.T, p ifdhandler.Protocol) {
	t.Helper()
	_, err := r.PowerICC(t.Context(), lun, ifdhandler.PowerUp)
	require.NoError(t, err)
	require.NoError(t, r.SetProtocolParameters(t.Context(), lun, p, 0, [3]byte{}))
}

func TestAttributesOfReaderAndSession(t *testing.T) {
	t.Run("T=1", func(t *testing.T) {
		r := newRig(t, tpdu(card.New(card.NewISO(), card.Options{Protocol: 1, TA1: 0x96, IFSC: 200, CRC: true})), ifdhandler.Policy{})
		r.open(t)
		r.requireAttributes(t, map[ifdhandler.Tag]int{
			ifdhandler.AttrAsyncProtocolTypes: 3, ifdhandler.AttrSyncProtocolTypes: 5,
			ifdhandler.AttrDefaultClk: 4000, ifdhandler.AttrMaxClk: 8000,
			ifdhandler.AttrDefaultDataRate: 10753, ifdhandler.AttrMaxDataRate: 400000, ifdhandler.AttrMaxIFSD: 254,
			ifdhandler.AttrCurrentProtocolType: none, ifdhandler.AttrCurrentF: none, ifdhandler.AttrCurrentClk: none,
		})
		product, err := r.GetCapabilities(t.Context(), lun, ifdhandler.AttrVendorIFDType)
		require.NoError(t, err)
		require.Equal(t, r.info.Product+"\x00", string(product))

		r.connect(t, ifdhandler.ProtocolT1)
		r.requireAttributes(t, map[ifdhandler.Tag]int{
			ifdhandler.AttrCurrentProtocolType: 2, ifdhandler.AttrCurrentClk: 4000,
			ifdhandler.AttrCurrentF: 512, ifdhandler.AttrCurrentD: 32, ifdhandler.AttrCurrentN: 0, ifdhandler.AttrCurrentW: none,
			ifdhandler.AttrCurrentIFSC: 200, ifdhandler.AttrCurrentIFSD: 254, ifdhandler.AttrCurrentEBCEncoding: 1,
			ifdhandler.AttrCurrentBWT: 4, ifdhandler.AttrCurrentCWT: 5,
		})
		_, err = r.PowerICC(t.Context(), lun, ifdhandler.PowerDown)
		require.NoError(t, err)
		r.requireAttributes(t, map[ifdhandler.Tag]int{ifdhandler.AttrCurrentProtocolType: none, ifdhandler.AttrCurrentBWT: none})
	})
	t.Run("T=0", func(t *testing.T) {
		r := newRig(t, tpdu(card.New(card.NewISO(), card.Options{TA1: 0x11})), ifdhandler.Policy{})
		r.open(t)
		r.connect(t, ifdhandler.ProtocolT0)
		r.requireAttributes(t, map[ifdhandler.Tag]int{
			ifdhandler.AttrCurrentProtocolType: 1, ifdhandler.AttrCurrentF: 372, ifdhandler.AttrCurrentD: 1, ifdhandler.AttrCurrentW: 10,
			ifdhandler.AttrCurrentIFSC: none, ifdhandler.AttrCurrentIFSD: none, ifdhandler.AttrCurrentBWT: none,
			ifdhandler.AttrCurrentCWT: none, ifdhandler.AttrCurrentEBCEncoding: none,
		})
	})
}

func TestControlTellsTheUSBPath(t *testing.T) {
	r := newRig(t, virtual.Config{}, ifdhandler.Policy{})
	r.open(t)
	path, err := r.Control(t.Context(), lun, ifdhandler.ControlUSBPath, nil)
	require.NoError(t, err)
	require.Equal(t, r.info.PortPath+":1.0\x00", string(path))
}

// TestEscapesThatQuirksAllow sends escape commands where the policy allows none.
func TestEscapesThatQuirksAllow(t *testing.T) {
	for name, tt := range map[string]struct {
		set                 string
		one, other, feature bool
	}{
		"none":   {"set.name = \"x\"", false, false, false},
		"some":   {"set.escape.allow = [\"02\"]", true, false, false},
		"always": {"set.escape.always = true", true, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			table, err := (*quirks.Table)(nil).Extend("test.toml", []byte("[[quirk]]\nid = \"test\"\nreader = [\"*:*\"]\n"+tt.set))
			require.NoError(t, err)
			r := newRig(t, virtual.Config{}, ifdhandler.Policy{})
			r.Handler = ifdhandler.New(ifdhandler.Options{Backend: r.bus, Reader: host.Options{Quirks: table}})
			r.open(t)
			for command, allowed := range map[byte]bool{2: tt.one, 3: tt.other} {
				got, err := r.Control(t.Context(), lun, ifdhandler.ControlEscape, []byte{command})
				if !allowed {
					code(t, ifdhandler.ErrorNotSupported, err)
					continue
				}
				require.NoError(t, err)
				require.Equal(t, []byte{command}, got)
			}
			features, err := r.Control(t.Context(), lun, ifdhandler.ControlGetFeatureRequest, nil)
			require.NoError(t, err)
			require.Equal(t, tt.feature, hasFeature(features, ifdhandler.FeatureCCIDEscCommand))
		})
	}
}

func hasFeature(list []byte, f ifdhandler.Feature) bool {
	for ; len(list) >= 6; list = list[6:] {
		if list[0] == byte(f) {
			return true
		}
	}
	return false
}
