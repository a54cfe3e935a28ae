package host_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/ccid/quirks"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/virtual"
)

func TestNamesAreThoseOfPcscLite(t *testing.T) {
	for want, n := range map[string]host.Name{
		"Yubico YubiKey OTP+FIDO+CCID 00 00":         {Friendly: "Yubico YubiKey OTP+FIDO+CCID"},
		"Gemalto PC Twin Reader (70D7E2EE) 00 00":    {Friendly: "Gemalto PC Twin Reader", Serial: "70D7E2EE"},
		"HID [Contact] (1) 0A 01":                    {Friendly: "HID", Interface: "Contact", Serial: "1", Number: 10, Slot: 1},
		"HID [Contact 77] FF 07":                     {Friendly: "HID", Interface: "Contact 77", Serial: "77", Number: 255, Slot: 7},
		"Caf.. [..] (.) x 00 00":                     {Friendly: "Café", Interface: "é", Serial: "\x01", Extend: " x"},
		strings.Repeat("a", 121) + " 01 00":          {Friendly: strings.Repeat("a", 200), Serial: "1", Number: 1},
		strings.Repeat("a", 117) + " (12" + " 01 00": {Friendly: strings.Repeat("a", 117), Serial: "1234", Number: 1},
	} {
		require.Equal(t, want, n.String())
		require.LessOrEqual(t, len(n.String())+1, 128)
	}
}

func TestModelsWithoutAnotherNameAreCalledByTheirStrings(t *testing.T) {
	for want, d := range map[string]usbtransport.DeviceInfo{
		"Yubico YubiKey":         {Manufacturer: " Yubico ", Product: "YubiKey"},
		"YubiKey":                {Product: "YubiKey "},
		"Yubico":                 {Manufacturer: "Yubico"},
		"CCID reader 08e7:3437":  {IDVendor: 0x08E7, IDProduct: 0x3437},
		"Gemalto PC Twin Reader": {IDVendor: 0x08E6, IDProduct: 0x3437, Manufacturer: "Gemplus", Product: "USB SmartCard Reader"},
		"ACS ACR 38U-CCID":       {IDVendor: 0x072F, IDProduct: 0x90CC, Product: "CCID USB Reader"},
	} {
		require.Equal(t, want, host.FriendlyName(d))
	}
}

// withInterfaceName is a reader whose interface has the product's string as its own.
type withInterfaceName struct{ *virtual.Reader }

func (w withInterfaceName) Describe() usbtransport.DeviceInfo {
	const (
		iInterface = 18 + 9 + 8 // after the device, the configuration, and what stands before it in the interface descriptor
		iProduct   = 2
	)
	d := w.Reader.Describe()
	d.Descriptors[iInterface] = iProduct
	return d
}

func TestOpenedReadersHaveTheNamesOfPcscd(t *testing.T) {
	const iccInterface = "ICC Interface 70D7E2EE"
	row, err := (*quirks.Table)(nil).Extend("test.toml", []byte("[[quirk]]\nid = \"desk\"\nreader = [\"08E6:3437\"]\nset.name = \"Front desk\"\n"))
	require.NoError(t, err)
	plain := func(r *virtual.Reader) virtual.Device { return r }
	named := func(r *virtual.Reader) virtual.Device { return withInterfaceName{r} }
	for _, test := range []struct {
		name    string
		config  virtual.Config
		device  func(*virtual.Reader) virtual.Device
		options host.Options
		want    string
	}{
		{"serial number", virtual.Config{SerialNumber: "70D7E2EE"}, plain, host.Options{}, "Gemalto PC Twin Reader (70D7E2EE) 00 00"},
		{"neither serial number nor interface", virtual.Config{Model: "au9540"}, plain, host.Options{}, "Alcor Micro AU9540 00 00"},
		{"name from strings", virtual.Config{Model: "yubikey-4", Product: "YubiKey OTP+CCID"}, plain, host.Options{}, "Yubico YubiKey OTP+CCID 00 00"},
		{"second of its kind", virtual.Config{}, plain, host.Options{Number: 1}, "Gemalto PC Twin Reader 01 00"},
		{"interface", virtual.Config{Product: "Contact"}, named, host.Options{}, "Gemalto PC Twin Reader [Contact] 00 00"},
		{"both", virtual.Config{Product: "Contact", SerialNumber: "70D7E2EE"}, named, host.Options{}, "Gemalto PC Twin Reader [Contact] (70D7E2EE) 00 00"},
		{"serial number in interface", virtual.Config{Product: iccInterface, SerialNumber: "70D7E2EE"}, named, host.Options{}, "Gemalto PC Twin Reader [ICC Interface 70D7E2EE] 00 00"},
		{"-I", virtual.Config{Product: iccInterface, SerialNumber: "70D7E2EE"}, named, host.Options{NoInterfaceName: true}, "Gemalto PC Twin Reader (70D7E2EE) 00 00"},
		{"-S", virtual.Config{Product: "Contact", SerialNumber: "70D7E2EE"}, named, host.Options{NoSerial: true}, "Gemalto PC Twin Reader [Contact] 00 00"},
		{"-I and -S", virtual.Config{Product: "Contact", SerialNumber: "1"}, named, host.Options{NoInterfaceName: true, NoSerial: true}, "Gemalto PC Twin Reader 00 00"},
		{"program's name", virtual.Config{SerialNumber: "1"}, plain, host.Options{FriendlyName: "Mine"}, "Mine (1) 00 00"},
		{"administrator's name", virtual.Config{SerialNumber: "1"}, plain, host.Options{FriendlyName: "Mine", Quirks: row}, "Front desk (1) 00 00"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, err := virtual.NewReader(test.config)
			require.NoError(t, err)
			bus := virtual.NewBus()
			t.Cleanup(func() { require.NoError(t, errors.Join(bus.Close(), r.Close())) })
			_, err = bus.Plug(test.device(r))
			require.NoError(t, err)
			reader, err := host.OpenFirst(t.Context(), bus, test.options)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, reader.Close()) })
			require.Equal(t, test.want, reader.Name())
		})
	}
}

// classDescriptor is that of a Gemalto PC Twin Reader.
const classDescriptor = "36210101000703000000C0120000C01200000067320000CE990C0035FE0000000000000000000000300201000F010000000000000001"

// device makes the descriptors of a device with these interfaces.
func device(t *testing.T, interfaces ...string) usbtransport.DeviceInfo {
	t.Helper()
	raw := "1201000200000040e6083734000101020301" + "0902" + "5d00" + "01" + "01" + "00" + "a0" + "32"
	return usbtransport.DeviceInfo{Key: "k", PortPath: "1-1", Descriptors: hexBytes(t, raw+strings.Join(interfaces, ""))}
}

const (
	bulkOut   = "07050102400000"
	bulkIn    = "07058202400000"
	interrupt = "07058303080018"
)

func TestFunctions(t *testing.T) {
	vendorType := "36FF" + classDescriptor[4:]
	for name, test := range map[string]struct {
		interfaces []string
		count      int
		unusable   string
	}{
		"descriptor on the interface":        {[]string{"0904000003" + "0b000000", classDescriptor, bulkOut, bulkIn, interrupt}, 1, ""},
		"endpoints in another order":         {[]string{"0904000003" + "0b000000", classDescriptor, interrupt, bulkIn, bulkOut}, 1, ""},
		"no interrupt endpoint":              {[]string{"0904000002" + "0b000000", classDescriptor, bulkIn, bulkOut}, 1, ""},
		"descriptor on the last endpoint":    {[]string{"0904000003" + "0b000000", bulkOut, bulkIn, interrupt, classDescriptor}, 1, ""},
		"descriptor on the first endpoint":   {[]string{"0904000003" + "0b000000", bulkOut, classDescriptor, bulkIn, interrupt}, 1, ""},
		"descriptor of type FF":              {[]string{"0904000003" + "0b000000", vendorType, bulkOut, bulkIn}, 1, ""},
		"another class descriptor before it": {[]string{"0904000003" + "0b000000", "0524010203", classDescriptor, bulkOut, bulkIn}, 1, ""},
		"vendor class with a descriptor":     {[]string{"0904000003" + "ff000000", classDescriptor, bulkOut, bulkIn}, 1, ""},
		"vendor class without one":           {[]string{"0904000003" + "ff000000", bulkOut, bulkIn}, 0, ""},
		"another class with a descriptor":    {[]string{"0904000003" + "03000000", classDescriptor, bulkOut, bulkIn}, 0, ""},
		"descriptor on an alternate setting": {[]string{"0904000002" + "0b000000", bulkOut, bulkIn, "0904000102" + "0b000000", classDescriptor, bulkOut, bulkIn}, 1, ""},
		"no descriptor":                      {[]string{"0904000002" + "0b000000", bulkOut, bulkIn}, 1, "none there"},
		"descriptor that is too short":       {[]string{"0904000002" + "0b000000", "0a210101000703000000", bulkOut, bulkIn}, 1, "found only type 0x21 with 10 bytes"},
		"no bulk IN":                         {[]string{"0904000002" + "0b000000", classDescriptor, bulkOut, interrupt}, 1, "no bulk IN endpoint"},
		"no bulk OUT":                        {[]string{"0904000002" + "0b000000", classDescriptor, bulkIn, interrupt}, 1, "no bulk OUT endpoint"},
		"packet size 0":                      {[]string{"0904000002" + "0b000000", classDescriptor, bulkOut, "07058202000000"}, 1, "wMaxPacketSize is 0"},
		"ICCD with one bulk endpoint":        {[]string{"0904000001" + "0b000200", classDescriptor, bulkIn}, 1, "no bulk OUT endpoint"},
		"ICCD in name, with bulk endpoints":  {[]string{"0904000002" + "0b000100", classDescriptor, bulkOut, bulkIn}, 1, ""},
		"two interfaces":                     {[]string{"0904000002" + "0b000000", classDescriptor, bulkOut, bulkIn, "0904010002" + "0b000000", classDescriptor, bulkOut, bulkIn}, 2, ""},
	} {
		t.Run(name, func(t *testing.T) {
			list, err := host.Functions(device(t, test.interfaces...))
			require.NoError(t, err)
			require.Len(t, list, test.count)
			for _, f := range list {
				if test.unusable != "" {
					require.ErrorIs(t, f.Unusable, host.ErrNotAReader)
					require.ErrorContains(t, f.Unusable, test.unusable)
					continue
				}
				require.NoError(t, f.Unusable)
				require.Equal(t, uint32(4800), f.Class.DwDefaultClock)
				require.Equal(t, uint8(0x82), f.BulkIn.Address)
				require.Equal(t, uint8(0x01), f.BulkOut.Address)
			}
		})
	}
}
