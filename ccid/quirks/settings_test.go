package quirks

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/goccid/goccid/ccid"
)

func class() ccid.ClassDescriptor {
	return ccid.ClassDescriptor{
		BLength: 54, BDescriptorType: 0x21, DwProtocols: 3, DwDefaultClock: 4000, DwMaxDataRate: 307200, DwMaxIFSD: 252,
		DwFeatures: ccid.FeatureLevelShortAPDU | ccid.FeatureAutoVoltage, DwMaxCCIDMessageLength: 271, BPINSupport: 3,
	}
}

func TestCorrect(t *testing.T) {
	level := func(l ccid.ExchangeLevel) Settings { return Settings{Descriptor: Descriptor{Level: &l}} }
	tests := []struct {
		name     string
		settings Settings
		want     func(*ccid.ClassDescriptor)
	}{
		{"nothing", Settings{}, func(*ccid.ClassDescriptor) {}},
		{"protocols", Settings{Descriptor: Descriptor{Protocols: 2}}, func(c *ccid.ClassDescriptor) { c.DwProtocols = 2 }},
		{"IFSD", Settings{Descriptor: Descriptor{MaxIFSD: 254}}, func(c *ccid.ClassDescriptor) { c.DwMaxIFSD = 254 }},
		{"message length", Settings{Descriptor: Descriptor{MaxMessageLength: 300}}, func(c *ccid.ClassDescriptor) { c.DwMaxCCIDMessageLength = 300 }},
		{"features", Settings{Descriptor: Descriptor{SetFeatures: ccid.FeatureAutoPPS, ClearFeatures: ccid.FeatureAutoVoltage}}, func(c *ccid.ClassDescriptor) {
			c.DwFeatures = ccid.FeatureLevelShortAPDU | ccid.FeatureAutoPPS
		}},
		{"a feature that is set and cleared is set", Settings{Descriptor: Descriptor{SetFeatures: ccid.FeatureAutoPPS, ClearFeatures: ccid.FeatureAutoPPS}}, func(c *ccid.ClassDescriptor) {
			c.DwFeatures |= ccid.FeatureAutoPPS
		}},
		{"character", level(ccid.LevelCharacter), func(c *ccid.ClassDescriptor) { c.DwFeatures = ccid.FeatureAutoVoltage }},
		{"TPDU", level(ccid.LevelTPDU), func(c *ccid.ClassDescriptor) { c.DwFeatures = ccid.FeatureAutoVoltage | ccid.FeatureLevelTPDU }},
		{"short APDU", level(ccid.LevelShortAPDU), func(*ccid.ClassDescriptor) {}},
		{"extended APDU", level(ccid.LevelExtendedAPDU), func(c *ccid.ClassDescriptor) {
			c.DwFeatures = ccid.FeatureAutoVoltage | ccid.FeatureLevelExtendedAPDU
		}},
		{"no IFSD negotiation", Settings{Protocol: Protocol{NoIFSD: true}}, func(c *ccid.ClassDescriptor) { c.DwFeatures |= ccid.FeatureAutoIFSD }},
		{"lower data rate", Settings{Protocol: Protocol{MaxDataRate: 9600}}, func(c *ccid.ClassDescriptor) { c.DwMaxDataRate = 9600 }},
		{"higher data rate", Settings{Protocol: Protocol{MaxDataRate: 400000}}, func(*ccid.ClassDescriptor) {}},
		{"no PIN pad", Settings{PINPad: PINPad{Off: true}}, func(c *ccid.ClassDescriptor) { c.BPINSupport = 0 }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			original, want := class(), class()
			test.want(&want)
			assert.Equal(t, want, test.settings.Correct(original))
			assert.Equal(t, class(), original, "the descriptor that was given")
		})
	}
}

func TestDataRates(t *testing.T) {
	secondary := []uint32{10753, 125000, 0xFFFFFFFF}
	tests := []struct {
		name     string
		protocol Protocol
		slot     int
		listed   []int
		want     []int
	}{
		{"no quirk", Protocol{}, 1, []int{9600, 500000}, []int{9600, 500000}},
		{"no list", Protocol{MaxDataRate: 9600}, 0, nil, nil},
		{"highest rate", Protocol{MaxDataRate: 200000}, 0, []int{9600, 200000, 200001, 500000}, []int{9600, 200000}},
		{"first slot", Protocol{SecondarySlotDataRates: secondary}, 0, []int{500000}, []int{500000}},
		{"second slot", Protocol{SecondarySlotDataRates: secondary}, 1, []int{500000}, []int{10753, 125000, 0x7FFFFFFF}},
		{"second slot without a list", Protocol{SecondarySlotDataRates: secondary[:1]}, 1, nil, []int{10753}},
		{"both", Protocol{SecondarySlotDataRates: secondary, MaxDataRate: 100000}, 4, nil, []int{10753}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			listed := append([]int(nil), test.listed...)
			assert.Equal(t, test.want, test.protocol.DataRates(test.slot, test.listed))
			assert.Equal(t, listed, test.listed, "the list that was given")
		})
	}
}

func TestEscapeAllows(t *testing.T) {
	e := Escape{Allow: []Pattern{pattern(t, "02"), pattern(t, "52 F8 xx")}}
	assert.True(t, e.Allows([]byte{0x02}))
	assert.True(t, e.Allows([]byte{0x52, 0xF8, 0x00}))
	assert.True(t, e.Allows([]byte{0x52, 0xF8, 0xFF}))
	assert.False(t, e.Allows([]byte{0x52, 0xF9, 0xFF}))
	assert.False(t, e.Allows([]byte{0x02, 0x00}))
	assert.False(t, e.Allows(nil))
	assert.False(t, Escape{}.Allows([]byte{0x02}))
	assert.True(t, Escape{Always: true}.Allows(nil))
}
