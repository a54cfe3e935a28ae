package pcscd

import (
	"context"
	"errors"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/goccid/goccid/ifdhandler"
	"github.com/goccid/goccid/pcscd/wire"
)

// Options are what a Manager can be made with. The zero value of each field but Driver is a useful one.
type Options struct {
	Driver Driver
	// Logger gets events; nil is none. Nothing about a removal is logged above debug level: the driver logs its line.
	Logger logrus.FieldLogger
	// PowerOffGrace is how long a card that nobody uses keeps its power: 0 is 5 s, below 0 is for ever.
	PowerOffGrace time.Duration
	// StartTimeout bounds the wait for a new reader's first status, after which it counts as being in error: 0 is 5 s.
	StartTimeout time.Duration
	// MaxReaders is how many readers there may be: 0 is 256.
	MaxReaders int
	// MaxHandles is how many handles one client may have: 0 is 200.
	MaxHandles int
	// MaxReaderHandles is how many handles there may be on one reader: 0 is 200.
	MaxReaderHandles int
}

// Reader is one slot as clients shall see it.
type Reader struct {
	// Name is the whole name, with its " XX YY"; 1 to 127 bytes, none of them 0.
	Name string
	// Lun is the driver's open channel for it. Slots of one reader share Lun.Reader().
	Lun ifdhandler.Lun
}

// Errors of AddReader, to be tested with errors.Is.
var (
	ErrDuplicateReader = errors.New("pcscd: reader name or logical unit is taken")
	ErrReaderName      = errors.New("pcscd: reader name has no or more than 127 bytes, or a NUL")
	ErrTooManyReaders  = errors.New("pcscd: too many readers")
	ErrManagerClosed   = errors.New("pcscd: resource manager is closed")
)

// Manager is a PC/SC resource manager. Its methods may be called at any time.
type Manager struct{}

// NewManager makes a manager without readers.
func NewManager(o Options) *Manager { return &Manager{} }

// AddReader makes a reader known to clients and starts to watch it; its first status comes later, see Ready. The
// channel, which the caller has opened, is the manager's to close from now on, when there is no error.
func (m *Manager) AddReader(r Reader) error { return nil }

// RemoveReader takes a reader away, with all its slots, as hot plug tells it: the driver hears of it first
// (TAG_IFD_DEVICE_REMOVED), then clients. All calls and waits on it end. It waits until the channels are closed and the
// Lun may be used again; ctx bounds only that. A reader that is not, or no longer, there is no error: the manager also
// removes a reader by itself when the driver says that it is gone.
func (m *Manager) RemoveReader(ctx context.Context, lun ifdhandler.Lun) error { return nil }

// Close removes all readers, taking the cards' power away, and waits for the end of their goroutines or of ctx.
func (m *Manager) Close(ctx context.Context) error { return nil }

// States returns the readers' table and its generation. The slice must not be changed. It never waits.
func (m *Manager) States() (states []wire.ReaderState, generation uint64) { return nil, 0 }

// Changed returns a channel that is closed as soon as the table is newer than this generation. It never waits.
func (m *Manager) Changed(generation uint64) <-chan struct{} { return nil }

// ReaderEvents counts readers that came and went, from 1; it wraps from 32767 to 1.
func (m *Manager) ReaderEvents() uint32 { return 1 }

// Ready waits until the first status of every reader is known, or has failed, which takes StartTimeout at most.
func (m *Manager) Ready(ctx context.Context) error { return nil }
