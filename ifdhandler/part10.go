package ifdhandler

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/goccid/goccid/ccid"
)

// Lengths of PIN_VERIFY_STRUCTURE and PIN_MODIFY_STRUCTURE before their data, the command APDU (PC/SC part 10 §2.5.2,
// §2.5.3), and of the shortest command.
const (
	verifyHeader = 19
	modifyHeader = 24
	minAPDU      = 4
)

// verifyPIN answers VERIFY_PIN_DIRECT. 6400 and 6401 are the answers to a time-out and to the holder's cancelling.
func verifyPIN(ctx context.Context, c *channel, in []byte) ([]byte, error) {
	p, err := parseVerify(in)
	if err != nil {
		return nil, err
	}
	return c.slot.VerifyPIN(ctx, p)
}

// modifyPIN answers MODIFY_PIN_DIRECT.
func modifyPIN(ctx context.Context, c *channel, in []byte) ([]byte, error) {
	p, err := parseModify(in)
	if err != nil {
		return nil, err
	}
	return c.slot.ModifyPIN(ctx, p)
}

// parseVerify decodes PIN_VERIFY_STRUCTURE. bTimerOut2, the time-out after the first key, has no place in CCID.
func parseVerify(b []byte) (ccid.PINVerificationData, error) {
	order, err := structureOrder("PIN_VERIFY_STRUCTURE", b, verifyHeader)
	if err != nil {
		return ccid.PINVerificationData{}, err
	}
	return ccid.PINVerificationData{
		BTimeOut: b[0], BmFormatString: ccid.PINFormatString(b[2]), BmPINBlockString: ccid.PINBlockString(b[3]),
		BmPINLengthFormat: ccid.PINLengthFormat(b[4]), WPINMaxExtraDigit: ccid.PINSize(order.Uint16(b[5:])),
		BEntryValidationCondition: ccid.PINCondition(b[7]), BNumberMessage: b[8], WLangID: order.Uint16(b[9:]), BMsgIndex: b[11],
		PINAPDU: b[verifyHeader:],
	}, nil
}

// parseModify decodes PIN_MODIFY_STRUCTURE.
func parseModify(b []byte) (ccid.PINModificationData, error) {
	order, err := structureOrder("PIN_MODIFY_STRUCTURE", b, modifyHeader)
	if err != nil {
		return ccid.PINModificationData{}, err
	}
	if number := b[11]; number > 3 && number != 0xFF {
		return ccid.PINModificationData{}, errStructure("PIN_MODIFY_STRUCTURE: bNumberMessage is %d, not 0 to 3 or 255", number)
	}
	return ccid.PINModificationData{
		BTimeOut: b[0], BmFormatString: ccid.PINFormatString(b[2]), BmPINBlockString: ccid.PINBlockString(b[3]),
		BmPINLengthFormat: ccid.PINLengthFormat(b[4]), BInsertionOffsetOld: b[5], BInsertionOffsetNew: b[6],
		WPINMaxExtraDigit: ccid.PINSize(order.Uint16(b[7:])), BConfirmPIN: ccid.PINConfirm(b[9]),
		BEntryValidationCondition: ccid.PINCondition(b[10]), BNumberMessage: b[11], WLangID: order.Uint16(b[12:]),
		BMsgIndex: [3]uint8(b[14:]), PINAPDU: b[modifyHeader:],
	}, nil
}

// structureOrder returns the byte order in which a client has written a structure, the one in which ulDataLength, the
// last four bytes of the header, is the number of bytes that follow. Clients write it as their machine does, or always
// with the least significant byte first.
func structureOrder(name string, b []byte, header int) (binary.ByteOrder, error) {
	if len(b) < header+minAPDU {
		return nil, errStructure("%s of %d bytes, needs %d", name, len(b), header+minAPDU)
	}
	length := b[header-4:]
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		if uint64(order.Uint32(length)) == uint64(len(b)-header) {
			return order, nil
		}
	}
	return nil, errStructure("%s: ulDataLength is % X, but %d bytes follow", name, length[:4], len(b)-header)
}

func errStructure(format string, args ...any) error {
	return &Error{Code: NotSupported, Err: fmt.Errorf(format, args...)}
}

// mctDirect answers MCT_READER_DIRECT: a command for the reader itself, of class 20 (PC/SC part 10 §2.5.4), which goes out
// as it is.
func mctDirect(ctx context.Context, c *channel, in []byte) ([]byte, error) {
	const header, class, first, last = 5, 0x20, 0x70, 0x74
	switch {
	case len(in) < header:
		return nil, errStructure("MCT command of %d bytes, needs %d", len(in), header)
	case in[0] != class || in[1] < first || in[1] > last || in[2] != 0 || in[3] != 0 || in[4] != 0:
		return nil, &Error{Code: ErrorNotSupported, Err: errors.New("command is none of MCT's")}
	}
	return c.slot.Escape(ctx, in)
}

// direct returns what answers a feature's control code, nil where the reader does not have the feature.
func direct(c *channel, f Feature) func(context.Context, *channel, []byte) ([]byte, error) {
	support := c.reader.PINSupport()
	switch {
	case f == FeatureVerifyPINDirect && support&ccid.PINVerification != 0:
		return verifyPIN
	case f == FeatureModifyPINDirect && support&ccid.PINModification != 0:
		return modifyPIN
	case f == FeatureMCTReaderDirect && c.reader.Quirks().PINPad.MCT:
		return mctDirect
	case f == FeatureIFDPINProperties && support != 0:
		return func(context.Context, *channel, []byte) ([]byte, error) { return pinProperties(c), nil }
	case f == FeatureGetTLVProperties:
		return func(ctx context.Context, c *channel, _ []byte) ([]byte, error) { return properties(ctx, c), nil }
	}
	return nil
}

// directFeatures are those that have a control code of their own, in the order in which they are told.
var directFeatures = []Feature{
	FeatureVerifyPINDirect, FeatureModifyPINDirect, FeatureIFDPINProperties, FeatureMCTReaderDirect, FeatureGetTLVProperties,
}
