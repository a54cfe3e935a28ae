package pcscd

import (
	"context"

	"github.com/goccid/goccid/ifdhandler"
)

// Driver is what a Manager needs of a card driver: the functions of the IFD handler API 3.0, see ifdhandler.Handler,
// which is one. Calls end when their context does. The Manager makes one call at a time for each slot, save ICCPresence,
// WaitEvent and SetCapabilities, which may come at any time. The error of each is an *ifdhandler.Error or one that
// ifdhandler.CodeOf understands.
type Driver interface {
	PowerICC(ctx context.Context, lun ifdhandler.Lun, action ifdhandler.Action) (atr []byte, err error)
	SetProtocolParameters(ctx context.Context, lun ifdhandler.Lun, p ifdhandler.Protocol, flags byte, pts [3]byte) error
	TransmitToICC(ctx context.Context, lun ifdhandler.Lun, send ifdhandler.Protocol, command []byte) ([]byte, error)
	Control(ctx context.Context, lun ifdhandler.Lun, code uint32, in []byte) ([]byte, error)
	GetCapabilities(ctx context.Context, lun ifdhandler.Lun, tag ifdhandler.Tag) ([]byte, error)
	SetCapabilities(lun ifdhandler.Lun, tag ifdhandler.Tag, value []byte) error
	// ICCPresence tells whether a card is there; NoSuchDevice means that the reader is gone for good.
	ICCPresence(ctx context.Context, lun ifdhandler.Lun) (ifdhandler.Code, error)
	// WaitEvent waits until ICCPresence has something new to tell.
	WaitEvent(ctx context.Context, lun ifdhandler.Lun) error
	CloseChannel(ctx context.Context, lun ifdhandler.Lun) error
}

var _ Driver = (*ifdhandler.Handler)(nil)
