package pcscd

import (
	"github.com/goccid/goccid/ifdhandler"
	"github.com/goccid/goccid/pcscd/wire"
)

// What clients are told of the driver's response codes, for each kind of call. What is not listed is
// ErrNotTransacted.
var (
	transmitCodes = map[ifdhandler.Code]wire.Code{
		ifdhandler.ICCNotPresent: wire.ErrNoSmartcard,
		ifdhandler.NoSuchDevice:  wire.ErrReaderUnavailable,
	}
	controlCodes = map[ifdhandler.Code]wire.Code{
		ifdhandler.NoSuchDevice:       wire.ErrReaderUnavailable,
		ifdhandler.ErrorNotSupported:  wire.ErrUnsupportedFeature,
		ifdhandler.NotSupported:       wire.ErrUnsupportedFeature,
		ifdhandler.InsufficientBuffer: wire.ErrInsufficientBuffer,
	}
	attributeCodes = map[ifdhandler.Code]wire.Code{
		ifdhandler.NoSuchDevice:       wire.ErrReaderUnavailable,
		ifdhandler.InsufficientBuffer: wire.ErrInsufficientBuffer,
	}
)

func lookUp(codes map[ifdhandler.Code]wire.Code, c ifdhandler.Code) wire.Code {
	if c == ifdhandler.Success {
		return wire.Success
	}
	if code, ok := codes[c]; ok {
		return code
	}
	return wire.ErrNotTransacted
}
