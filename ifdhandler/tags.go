package ifdhandler

// Tag names a capability of a reader, a slot or a card (DWORD Tag): TAG_IFD_… and SCARD_ATTR_….
type Tag uint32

// The tags that GetCapabilities answers. The comment is the API's name.
const (
	TagATR                Tag = 0x0303 // TAG_IFD_ATR
	TagSlotThreadSafe     Tag = 0x0FAC // TAG_IFD_SLOT_THREAD_SAFE
	TagThreadSafe         Tag = 0x0FAD // TAG_IFD_THREAD_SAFE
	TagSlotsNumber        Tag = 0x0FAE // TAG_IFD_SLOTS_NUMBER
	TagSimultaneousAccess Tag = 0x0FAF // TAG_IFD_SIMULTANEOUS_ACCESS
	TagDeviceRemoved      Tag = 0x0FB4 // TAG_IFD_DEVICE_REMOVED

	AttrVendorName        Tag = 0x00010100 // SCARD_ATTR_VENDOR_NAME
	AttrVendorIFDType     Tag = 0x00010101 // SCARD_ATTR_VENDOR_IFD_TYPE
	AttrVendorIFDVersion  Tag = 0x00010102 // SCARD_ATTR_VENDOR_IFD_VERSION
	AttrVendorIFDSerialNo Tag = 0x00010103 // SCARD_ATTR_VENDOR_IFD_SERIAL_NO
	AttrChannelID         Tag = 0x00020110 // SCARD_ATTR_CHANNEL_ID
	AttrMaxInput          Tag = 0x0007A007 // SCARD_ATTR_MAXINPUT

	// What the reader can do (PC/SC part 3).
	AttrAsyncProtocolTypes Tag = 0x00030120 // SCARD_ATTR_ASYNC_PROTOCOL_TYPES
	AttrDefaultClk         Tag = 0x00030121 // SCARD_ATTR_DEFAULT_CLK, kHz
	AttrMaxClk             Tag = 0x00030122 // SCARD_ATTR_MAX_CLK, kHz
	AttrDefaultDataRate    Tag = 0x00030123 // SCARD_ATTR_DEFAULT_DATA_RATE, bit/s
	AttrMaxDataRate        Tag = 0x00030124 // SCARD_ATTR_MAX_DATA_RATE, bit/s
	AttrMaxIFSD            Tag = 0x00030125 // SCARD_ATTR_MAX_IFSD, bytes
	AttrSyncProtocolTypes  Tag = 0x00030126 // SCARD_ATTR_SYNC_PROTOCOL_TYPES

	// What is in use with the card; without a protocol that was set their values are empty.
	AttrCurrentProtocolType Tag = 0x00080201 // SCARD_ATTR_CURRENT_PROTOCOL_TYPE
	AttrCurrentClk          Tag = 0x00080202 // SCARD_ATTR_CURRENT_CLK, kHz
	AttrCurrentF            Tag = 0x00080203 // SCARD_ATTR_CURRENT_F
	AttrCurrentD            Tag = 0x00080204 // SCARD_ATTR_CURRENT_D
	AttrCurrentN            Tag = 0x00080205 // SCARD_ATTR_CURRENT_N
	AttrCurrentW            Tag = 0x00080206 // SCARD_ATTR_CURRENT_W: the integer WI, T=0 only
	AttrCurrentIFSC         Tag = 0x00080207 // SCARD_ATTR_CURRENT_IFSC, bytes, T=1 only
	AttrCurrentIFSD         Tag = 0x00080208 // SCARD_ATTR_CURRENT_IFSD, bytes, T=1 only
	AttrCurrentBWT          Tag = 0x00080209 // SCARD_ATTR_CURRENT_BWT: the integer BWI, T=1 only
	AttrCurrentCWT          Tag = 0x0008020A // SCARD_ATTR_CURRENT_CWT: the integer CWI, T=1 only
	AttrCurrentEBCEncoding  Tag = 0x0008020B // SCARD_ATTR_CURRENT_EBC_ENCODING: 0 LRC, 1 CRC, T=1 only
	AttrICCPresence         Tag = 0x00090300 // SCARD_ATTR_ICC_PRESENCE
	AttrICCInterfaceStatus  Tag = 0x00090301 // SCARD_ATTR_ICC_INTERFACE_STATUS
	AttrATRString           Tag = 0x00090303 // SCARD_ATTR_ATR_STRING
)

// Action is what PowerICC does.
type Action uint32

// The actions.
const (
	PowerUp   Action = 500 // IFD_POWER_UP
	PowerDown Action = 501 // IFD_POWER_DOWN
	Reset     Action = 502 // IFD_RESET
)

// String returns the API's name.
func (a Action) String() string {
	switch a {
	case PowerUp:
		return "IFD_POWER_UP"
	case PowerDown:
		return "IFD_POWER_DOWN"
	case Reset:
		return "IFD_RESET"
	}
	return "unknown action"
}

// Protocol is a protocol as PC/SC numbers it (SCARD_PROTOCOL_…).
type Protocol uint32

// The protocols.
const (
	ProtocolT0  Protocol = 1 // SCARD_PROTOCOL_T0
	ProtocolT1  Protocol = 2 // SCARD_PROTOCOL_T1
	ProtocolRaw Protocol = 4 // SCARD_PROTOCOL_RAW
)

// t returns T of T=0 and T=1.
func (p Protocol) t() (uint8, bool) { return uint8(p - ProtocolT0), p == ProtocolT0 || p == ProtocolT1 }

// Control codes: SCARD_CTL_CODE(n) is 0x42000000 + n.
const (
	// ControlEscape is IOCTL_SMARTCARD_VENDOR_IFD_EXCHANGE: data for the reader's PC_to_RDR_Escape.
	ControlEscape uint32 = 0x42000001
	// ControlGetFeatureRequest is CM_IOCTL_GET_FEATURE_REQUEST (PC/SC part 10 §2.2).
	ControlGetFeatureRequest uint32 = 0x42000D48
	// ControlGetFeatureRequestWindows is the same as programs made for Windows send it.
	ControlGetFeatureRequestWindows uint32 = 0x00313520

	// ControlUSBPath is SCARD_CTL_CODE(3601) of the reference driver: where the reader is plugged in.
	ControlUSBPath uint32 = 0x42000E11

	// controlFeature plus a Feature is the code that a feature is called by.
	controlFeature uint32 = 0x42330000
)

// Feature is a feature tag of PC/SC part 10 §2.3.
type Feature uint8

// The features.
const (
	FeatureVerifyPINDirect  Feature = 0x06 // FEATURE_VERIFY_PIN_DIRECT
	FeatureModifyPINDirect  Feature = 0x07 // FEATURE_MODIFY_PIN_DIRECT
	FeatureMCTReaderDirect  Feature = 0x08 // FEATURE_MCT_READER_DIRECT
	FeatureIFDPINProperties Feature = 0x0A // FEATURE_IFD_PIN_PROPERTIES
	FeatureGetTLVProperties Feature = 0x12 // FEATURE_GET_TLV_PROPERTIES
	FeatureCCIDEscCommand   Feature = 0x13 // FEATURE_CCID_ESC_COMMAND
)

// Property is a tag of FEATURE_GET_TLV_PROPERTIES (PC/SC part 10 §2.6.14).
type Property uint8

// The properties.
const (
	PropertyLcdLayout                Property = 0x01 // wLcdLayout
	PropertyEntryValidationCondition Property = 0x02 // bEntryValidationCondition
	PropertyTimeOut2                 Property = 0x03 // bTimeOut2
	PropertyLcdMaxCharacters         Property = 0x04 // wLcdMaxCharacters
	PropertyLcdMaxLines              Property = 0x05 // wLcdMaxLines
	PropertyMinPINSize               Property = 0x06 // bMinPINSize
	PropertyMaxPINSize               Property = 0x07 // bMaxPINSize
	PropertyFirmwareID               Property = 0x08 // sFirmwareID
	PropertyPPDUSupport              Property = 0x09 // bPPDUSupport
	PropertyMaxAPDUDataSize          Property = 0x0A // dwMaxAPDUDataSize
	PropertyVendorID                 Property = 0x0B // wIdVendor
	PropertyProductID                Property = 0x0C // wIdProduct
)
