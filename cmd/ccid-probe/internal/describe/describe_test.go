package describe

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/usbtransport"
)

// sound is the descriptor of a TPDU-level reader without a fault.
func sound() ccid.ClassDescriptor {
	return ccid.ClassDescriptor{
		BLength: 54, BDescriptorType: 0x21, BcdCCID: 0x0110, BVoltageSupport: 7, DwProtocols: 3, DwDefaultClock: 4800, DwMaximumClock: 8000,
		BNumClockSupported: 4, DwDataRate: 12903, DwMaxDataRate: 825806, BNumDataRatesSupported: 106, DwMaxIFSD: 254,
		DwFeatures: 0x000100BA, DwMaxCCIDMessageLength: 271, BMaxCCIDBusySlots: 1,
	}
}

func TestClassExplainsEachField(t *testing.T) {
	d := sound()
	d.WLcdLayout, d.BPINSupport, d.BClassEnvelope, d.DwSynchProtocols = 0x0210, 3, 0xFF, 5
	got := map[string]Field{}
	names := []string{}
	for _, f := range Class(&d) {
		got[f.Name] = f
		names = append(names, f.Name)
	}

	encoded, err := json.Marshal(d)
	require.NoError(t, err)
	var keys map[string]any
	require.NoError(t, json.Unmarshal(encoded, &keys))
	assert.Len(t, names, len(keys))
	for key := range keys {
		assert.Contains(t, names, key)
	}
	tests := map[string]Field{
		"bcdCCID":           {Value: "0x0110", Meaning: "CCID 1.10"},
		"bMaxSlotIndex":     {Value: "0", Meaning: "1 slot"},
		"bVoltageSupport":   {Value: "0x07", Meaning: "5 V, 3 V, 1.8 V"},
		"dwProtocols":       {Value: "0x00000003", Meaning: "T=0, T=1"},
		"dwDefaultClock":    {Value: "4800", Meaning: "4.8 MHz"},
		"dwDataRate":        {Value: "12903", Meaning: "12.903 kbit/s"},
		"dwSynchProtocols":  {Value: "0x00000005", Meaning: "2-wire, I²C"},
		"wLcdLayout":        {Value: "0x0210", Meaning: "display of 2 × 16 characters"},
		"bPINSupport":       {Value: "0x03", Meaning: "PIN verification, PIN modification"},
		"bClassEnvelope":    {Value: "0xFF", Meaning: "the class byte of the APDU"},
		"bMaxCCIDBusySlots": {Value: "1", Meaning: "1 slot at a time"},
		"dwFeatures": {Value: "0x000100BA", Meaning: "exchanges at TPDU level", Details: []string{
			"automatic parameter configuration from the ATR", "automatic voltage selection", "automatic clock frequency change",
			"automatic baud rate change", "automatic PPS", "TPDU level",
		}},
	}
	for name, want := range tests {
		want.Name = name
		assert.Equal(t, want, got[name])
	}
}

func TestClassFindings(t *testing.T) {
	tests := map[string]struct {
		change func(*ccid.ClassDescriptor)
		field  string
		text   string
	}{
		"a sound reader has none":     {func(*ccid.ClassDescriptor) {}, "", ""},
		"character level needs less":  {func(d *ccid.ClassDescriptor) { d.DwFeatures = 0x30; d.DwMaxCCIDMessageLength = 64 }, "", ""},
		"IFSD means nothing for APDU": {func(d *ccid.ClassDescriptor) { d.DwFeatures = 0x200BA; d.DwMaxIFSD = 0 }, "", ""},
		"a USB card negotiates none":  {func(d *ccid.ClassDescriptor) { d.DwFeatures = 0x20800 }, "", ""},
		"vendor's type":               {func(d *ccid.ClassDescriptor) { d.BDescriptorType = 0xFF }, "bDescriptorType", "not 0x21"},
		"odd release":                 {func(d *ccid.ClassDescriptor) { d.BcdCCID = 0x1001 }, "bcdCCID", "10.01"},
		"no voltage":                  {func(d *ccid.ClassDescriptor) { d.BVoltageSupport = 0 }, "bVoltageSupport", "no voltage"},
		"reserved voltage":            {func(d *ccid.ClassDescriptor) { d.BVoltageSupport = 0x0F }, "bVoltageSupport", "reserved"},
		"no protocol":                 {func(d *ccid.ClassDescriptor) { d.DwProtocols = 0 }, "dwProtocols", "no protocol"},
		"reserved protocol":           {func(d *ccid.ClassDescriptor) { d.DwProtocols = 0x10003 }, "dwProtocols", "reserved"},
		"maximum clock below default": {func(d *ccid.ClassDescriptor) { d.DwMaximumClock = 4000 }, "dwMaximumClock", "less than dwDefaultClock"},
		"maximum clock in Hz":         {func(d *ccid.ClassDescriptor) { d.DwMaximumClock = 8_000_000 }, "dwMaximumClock", "mixed up"},
		"rate is not clock/372":       {func(d *ccid.ClassDescriptor) { d.DwDataRate = 9600 }, "dwDataRate", "12903 bit/s"},
		"no rate":                     {func(d *ccid.ClassDescriptor) { d.DwDataRate = 0 }, "dwDataRate", "is 0"},
		"maximum rate below default":  {func(d *ccid.ClassDescriptor) { d.DwMaxDataRate = 9600 }, "dwMaxDataRate", "less than dwDataRate"},
		"IFSD 0":                      {func(d *ccid.ClassDescriptor) { d.DwMaxIFSD = 0 }, "dwMaxIFSD", "TPDU level"},
		"IFSD 256":                    {func(d *ccid.ClassDescriptor) { d.DwMaxIFSD = 256 }, "dwMaxIFSD", "254"},
		"two levels":                  {func(d *ccid.ClassDescriptor) { d.DwFeatures |= 0x20000 }, "dwFeatures", "short APDU level"},
		"reserved feature":            {func(d *ccid.ClassDescriptor) { d.DwFeatures |= 1 }, "dwFeatures", "bit 0"},
		"parameters and PPS":          {func(d *ccid.ClassDescriptor) { d.DwFeatures |= 0x40 }, "dwFeatures", "exclude each other"},
		"APDU level, no negotiation":  {func(d *ccid.ClassDescriptor) { d.DwFeatures = 0x40030 }, "dwFeatures", "neither"},
		"message too short":           {func(d *ccid.ClassDescriptor) { d.DwMaxCCIDMessageLength = 64 }, "dwMaxCCIDMessageLength", "needs 271"},
		"message of 0":                {func(d *ccid.ClassDescriptor) { d.DwMaxCCIDMessageLength = 0 }, "dwMaxCCIDMessageLength", "no room"},
		"message of 4 GiB":            {func(d *ccid.ClassDescriptor) { d.DwMaxCCIDMessageLength = 1<<32 - 1 }, "dwMaxCCIDMessageLength", "more than the largest"},
		"reserved PIN function":       {func(d *ccid.ClassDescriptor) { d.BPINSupport = 4 }, "bPINSupport", "reserved"},
		"no busy slot":                {func(d *ccid.ClassDescriptor) { d.BMaxCCIDBusySlots = 0 }, "bMaxCCIDBusySlots", "is 0"},
		"more busy slots than slots":  {func(d *ccid.ClassDescriptor) { d.BMaxCCIDBusySlots = 2 }, "bMaxCCIDBusySlots", "only 1 slot"},
		"slow clock": {
			func(d *ccid.ClassDescriptor) { d.DwDefaultClock = 4; d.DwDataRate = 11 }, "dwDefaultClock", "below",
		},
		"no clock": {func(d *ccid.ClassDescriptor) { d.DwDefaultClock = 0 }, "dwDefaultClock", "is 0"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			d := sound()
			tt.change(&d)
			got := ClassFindings(&d)
			if tt.field == "" {
				require.Empty(t, got)
				return
			}
			require.Len(t, got, 1)
			assert.Equal(t, tt.field, got[0].Field)
			assert.Contains(t, got[0].Text, tt.text)
		})
	}
}

func TestInterfaceFindings(t *testing.T) {
	bulkOut := usbtransport.EndpointDescriptor{Address: 0x01, Type: usbtransport.TransferBulk, MaxPacketSize: 64}
	bulkIn := usbtransport.EndpointDescriptor{Address: 0x82, Type: usbtransport.TransferBulk, MaxPacketSize: 64}
	tests := map[string]struct {
		d    usbtransport.InterfaceDescriptor
		want []string
	}{
		"no interrupt endpoint is fine": {usbtransport.InterfaceDescriptor{Endpoints: []usbtransport.EndpointDescriptor{bulkOut, bulkIn}}, nil},
		"ICCD needs no endpoint":        {usbtransport.InterfaceDescriptor{Protocol: 2}, nil},
		"no bulk at all":                {usbtransport.InterfaceDescriptor{}, []string{"bNumEndpoints", "bNumEndpoints"}},
		"unknown protocol":              {usbtransport.InterfaceDescriptor{Protocol: 9}, []string{"bInterfaceProtocol"}},
		"packet size 0": {usbtransport.InterfaceDescriptor{Endpoints: []usbtransport.EndpointDescriptor{
			bulkOut, {Address: 0x82, Type: usbtransport.TransferBulk},
		}}, []string{"endpoint 0x82"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var fields []string
			for _, f := range InterfaceFindings(tt.d) {
				fields = append(fields, f.Field)
			}
			assert.Equal(t, tt.want, fields)
		})
	}
}

func TestFindingsOfRealReadersAreTheException(t *testing.T) {
	raw, err := os.ReadFile("../../../../virtual/readers.jsonl")
	require.NoError(t, err)
	readers, suspicious := 0, 0
	for line := range strings.Lines(string(raw)) {
		var row struct {
			Name, Descriptor string
		}
		require.NoError(t, json.Unmarshal([]byte(line), &row))
		b, err := hex.DecodeString(row.Descriptor)
		require.NoError(t, err, row.Name)
		d, err := ccid.ParseClassDescriptor(b)
		require.NoError(t, err, row.Name)
		readers++
		if len(ClassFindings(d)) > 0 {
			suspicious++
		}
	}
	t.Logf("%d of %d real readers have a finding", suspicious, readers)
	assert.Greater(t, readers, 600)
	assert.Less(t, suspicious, readers/2, "a finding in most readers would tell a user nothing")
}

func TestNumbersAsPeopleWriteThem(t *testing.T) {
	assert.Equal(t, "3.58 MHz", Clock(3580))
	assert.Equal(t, "4 MHz", Clock(4000))
	assert.Equal(t, "0 MHz", Clock(0))
	assert.Equal(t, "1.2 Mbit/s", Rate(1_200_000))
	assert.Equal(t, "10.753 kbit/s", Rate(10753))
	assert.Equal(t, "300 bit/s", Rate(300))
	assert.Equal(t, "1.10", BCD(0x0110))
	assert.Equal(t, "10.01", BCD(0x1001))
}
