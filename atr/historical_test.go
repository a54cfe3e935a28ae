package atr_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/goccid/goccid/atr"
)

func TestHistoricalFormats(t *testing.T) {
	tests := []struct {
		name, bytes string
		format      atr.HistoricalFormat
		text        string
		objects     int
		status      string
		rest        string
	}{
		{"none", "", atr.NoHistorical, "none", 0, "", ""},
		{"00: status is the last three bytes", "00 31 C0 64 77 E3 03 00 82 90 00", atr.CompactTLVStatus, "compact-TLV and status", 2, "life cycle 82 (proprietary), SW 9000", ""},
		{"00: nothing but status", "00 05 90 00", atr.CompactTLVStatus, "compact-TLV and status", 0, "life cycle 05 (operational, activated), SW 9000", ""},
		{"00: too short for status", "00 90 00", atr.CompactTLVStatus, "compact-TLV and status", 0, "", "90 00"},
		{"00: nothing more", "00", atr.CompactTLVStatus, "compact-TLV and status", 0, "", ""},
		{"10", "10 05", atr.DIRReference, "DIR data reference", 0, "", "05"},
		{"80: status object of 3 bytes", "80 31 80 65 B0 83 11 48 C8 83 00 90 00", atr.CompactTLV, "compact-TLV", 3, "life cycle 00 (no information), SW 9000", ""},
		{"80: status object of 2 bytes", "80 82 90 00", atr.CompactTLV, "compact-TLV", 1, "SW 9000", ""},
		{"80: status object of 1 byte", "80 81 0C", atr.CompactTLV, "compact-TLV", 1, "life cycle 0C (termination)", ""},
		{"80: status object of 4 bytes", "80 84 01 02 03 04", atr.CompactTLV, "compact-TLV", 1, "", ""},
		{"80: a value too short", "80 31 C0 65 01 02", atr.CompactTLV, "compact-TLV", 1, "", "65 01 02"},
		{"8F", "8F 01", atr.ReservedHistorical, "reserved", 0, "", "01"},
		{"text", "41 42 43", atr.Proprietary, "proprietary", 0, "", "42 43"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := atr.ParseHistorical(unhex(t, tt.bytes))
			assert.Equal(t, tt.format, h.Format)
			assert.Equal(t, tt.text, h.Format.String())
			assert.Len(t, h.Objects, tt.objects)
			assert.Equal(t, string(unhex(t, tt.rest)), string(h.Rest))
			require.Equal(t, tt.status != "", h.Status != nil)
			if h.Status != nil {
				assert.Equal(t, tt.status, h.Status.String())
			}
		})
	}
	assert.Equal(t, "HistoricalFormat(99)", atr.HistoricalFormat(99).String())
	assert.Equal(t, "none", atr.CardStatus{}.String())
}

func TestHistoricalObjects(t *testing.T) {
	h := parse(t, "3B 0F 80 31 E0 73 FE 21 D3 66 D0 00 49 00 C0 00 00").Information()
	s, ok := h.Service()
	require.True(t, ok)
	assert.True(t, s.SelectByFullName() && s.SelectByPartialName() && s.ObjectsInDIR() && !s.ObjectsInATR() && s.HasMF())
	c, ok := h.Capabilities()
	require.True(t, ok)
	assert.True(t, c.CommandChaining() && c.ExtendedLength() && !c.ExtendedLengthInfo())
	assert.Equal(t, 4, c.MaxChannels())
	assert.Equal(t, "the card", c.ChannelAssignment())
	assert.Equal(t, 2, c.DataUnit())
	assert.Equal(t, "proprietary", c.WriteBehaviour())
	v, ok := h.Object(atr.TagPreIssuing)
	require.True(t, ok)
	assert.Equal(t, unhex(t, "D0 00 49 00 C0 00"), v)
	_, ok = h.Object(atr.TagAID)
	assert.False(t, ok)
}

func TestObjectsOfWrongLengthAreNotDecoded(t *testing.T) {
	h := atr.ParseHistorical(unhex(t, "80 32 00 00 74 01 02 03 04"))
	_, ok := h.Service()
	assert.False(t, ok)
	_, ok = h.Capabilities()
	assert.False(t, ok)
	_, ok = atr.ParseHistorical(unhex(t, "80 70")).Capabilities()
	assert.False(t, ok)
}

func TestCapabilitiesByDefault(t *testing.T) {
	c, ok := atr.ParseHistorical(unhex(t, "80 71 80")).Capabilities()
	require.True(t, ok)
	assert.Equal(t, 2, c.DataUnit(), "a byte")
	assert.Equal(t, 1, c.MaxChannels())
	assert.False(t, c.ExtendedLength())
}

func TestServiceAccess(t *testing.T) {
	for s, want := range map[atr.CardService]string{0x00: "READ RECORD", 0x08: "READ BINARY", 0x04: "GET DATA", 0x02: "a reserved command", 0x0E: "a reserved command"} {
		assert.Equal(t, want, s.Access())
	}
}

func TestLifeCycle(t *testing.T) {
	for l, want := range map[atr.LifeCycle]string{
		0x00: "no information", 0x01: "creation", 0x02: "reserved", 0x03: "initialisation",
		0x04: "operational, deactivated", 0x05: "operational, activated", 0x06: "operational, deactivated", 0x07: "operational, activated",
		0x08: "reserved", 0x0C: "termination", 0x0F: "termination", 0x10: "proprietary", 0xFF: "proprietary",
	} {
		assert.Equal(t, want, l.String(), "%02X", byte(l))
	}
}

func TestPropertyObjectsAndRestAreTheBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "bytes")
		if len(b) > 0 && rapid.Bool().Draw(t, "compact") {
			b[0] = 0x80
		}
		checkHistorical(t, b)
	})
}

// checkHistorical holds what must be true of each result of ParseHistorical.
func checkHistorical(t reporter, b []byte) {
	h := atr.ParseHistorical(b)
	require.NotEmpty(t, h.Format.String())
	h.Service()
	h.Capabilities()
	if h.Status != nil {
		require.NotEqual(t, "none", h.Status.String())
	}
	if len(b) == 0 {
		return
	}
	again := []byte{h.Category}
	for _, o := range h.Objects {
		again = append(append(again, byte(o.Tag)<<4|byte(len(o.Value))), o.Value...)
	}
	again = append(again, h.Rest...)
	if h.Format == atr.CompactTLVStatus && h.Status != nil && len(again) < len(b) {
		again = append(again, b[len(b)-3:]...)
	}
	if h.Format != atr.CompactTLVStatus || h.Status != nil {
		require.Equal(t, b, again)
	}
}
