//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/ccid/quirks"
	"github.com/goccid/goccid/ifdhandler"
	"github.com/goccid/goccid/pcscd"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/usbtransport/libusb"
	"github.com/goccid/goccid/usbtransport/usbfs"
	"github.com/goccid/goccid/usbtransport/usbip"
	"github.com/goccid/goccid/virtual"
	"github.com/goccid/goccid/virtual/control"
)

// plugTime bounds the start of one virtual reader, whose card may be another program.
const plugTime = 10 * time.Second

// readers are all readers that the settings ask for, under one numbering.
type readers struct {
	log     logrus.FieldLogger
	backend *usbtransport.Combined
	handler *ifdhandler.Handler
	hotplug *ifdhandler.HotPlug
	// bench has the virtual readers, nil where there is none.
	bench *control.Bench
	// closers undo what was started, in this order.
	closers []func() error

	mu       sync.Mutex
	unusable map[string]unusableReader // by device
}

// unusableReader is a reader that is there and can't be used.
type unusableReader struct {
	Device string    `json:"device"`
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`
}

// openReaders starts the backends and the watch on them. Readers are opened when follow is called.
func openReaders(ctx context.Context, s readerSettings, log logrus.FieldLogger) (*readers, error) {
	table, err := loadQuirks(s.QuirksDir)
	if err != nil {
		return nil, err
	}
	r := &readers{log: log, unusable: map[string]unusableReader{}}
	backends, err := r.backends(ctx, s)
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	r.backend = usbtransport.Combine(backends...)
	r.handler = ifdhandler.New(ifdhandler.Options{
		Backend: r.backend,
		Reader: host.Options{
			Logger: log, Quirks: table, NoSerial: !s.SerialName, NoInterfaceName: !s.InterfaceName, NameExtension: s.Extension,
			Ignore: s.ignores, Speeds: &host.SpeedMemory{},
		},
		Policy: escapePolicy(s.Escape),
	})
	r.hotplug, err = r.handler.HotPlug(ctx)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("watch for readers: %w", err), r.Close())
	}
	// Readers are closed before what they are reached through.
	r.closers = slices.Insert(r.closers, 0, r.hotplug.Close)
	return r, nil
}

// ignores tells whether a reader is left alone for its name: it has one of the texts of the setting in it.
func (s readerSettings) ignores(name string) bool {
	return slices.ContainsFunc(s.Ignored, func(part string) bool { return part != "" && strings.Contains(name, part) })
}

// escapePolicy lets clients send all vendor commands, or none but those that quirks allow.
func escapePolicy(allowed bool) ifdhandler.Policy {
	if !allowed {
		return ifdhandler.Policy{}
	}
	return ifdhandler.Policy{Escape: func(*host.Reader, []byte) bool { return true }}
}

// loadQuirks reads the files in a folder, which has to be there unless it is the default one.
func loadQuirks(directory string) (*quirks.Table, error) {
	if directory != defaultQuirksDir {
		if _, err := os.Stat(directory); err != nil && directory != "" {
			return nil, &usageError{wrong("readers.quirks-dir", "%w", err)}
		}
	}
	table, err := quirks.Load(directory)
	if err != nil {
		return nil, usage("quirks: %w", err)
	}
	return table, nil
}

// backends starts what the settings ask for.
func (r *readers) backends(ctx context.Context, s readerSettings) ([]usbtransport.Backend, error) {
	var list []usbtransport.Backend
	if s.USB.name != "none" {
		backend, err := openUSB(s.USB.name, r.log)
		if err != nil {
			return nil, err
		}
		if c, ok := backend.(io.Closer); ok {
			r.closers = append(r.closers, c.Close)
		}
		list = append(list, backend)
	}
	for _, t := range s.USBIP {
		address, busID, err := usbip.ParseTarget(t.text)
		if err != nil {
			return nil, err
		}
		list = append(list, usbip.New(usbip.Options{Address: address, BusID: busID, Logger: r.log}))
	}
	if len(s.Virtual) == 0 {
		return list, nil
	}
	bus := virtual.NewBus()
	r.closers = append(r.closers, bus.Close)
	r.bench = control.NewBench(bus)
	r.bench.Endless() // its clients have the readers, not the daemon
	for _, v := range s.Virtual {
		if err := r.plug(ctx, v.text); err != nil {
			return nil, fmt.Errorf("virtual reader %s: %w", v.text, err)
		}
	}
	return append(list, bus), nil
}

func openUSB(name string, log logrus.FieldLogger) (usbtransport.Backend, error) {
	if name == "usbfs" {
		return usbfs.New(usbfs.Options{Logger: log}), nil
	}
	backend, err := libusb.New(libusb.Options{Logger: log})
	if errors.Is(err, usbtransport.ErrNotSupported) {
		return nil, usage("this goccidd was built without libusb (it needs cgo and the build tag libusb): use --usb usbfs on Linux, or --usb none")
	}
	if err != nil {
		return nil, err
	}
	return backend, nil
}

// plug starts a virtual reader. Its name at the bench is that of its model, as it was given.
func (r *readers) plug(ctx context.Context, text string) error {
	spec, err := virtual.ParseSpec(text)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, plugTime)
	defer cancel()
	station, err := spec.Start(ctx)
	if err != nil {
		return err
	}
	r.closers = append(r.closers, station.Close)
	_, err = r.bench.Add(spec.Name(), station)
	return err
}

// follow makes the manager know of readers as they come and go, until ctx ends.
func (r *readers) follow(ctx context.Context, m *pcscd.Manager) {
	for {
		e, err := r.hotplug.Next(ctx)
		if err != nil {
			if ctx.Err() == nil {
				r.log.Errorf("watching for readers has ended: %v", err)
			}
			return
		}
		r.note(e)
		switch e.Kind {
		case ifdhandler.ReaderArrived:
			r.add(ctx, m, e)
		case ifdhandler.ReaderRemoved:
			for _, slot := range e.Slots {
				// What can fail is only the wait, at our own end.
				if err := m.RemoveReader(ctx, slot.Lun); err != nil {
					r.log.Debugf("remove reader %s: %v", slot.Name, err)
				}
			}
		case ifdhandler.ReaderUnusable:
			r.logUnusable(e)
		}
	}
}

// logUnusable says why a reader can't be used. That one goes which could not be is no news.
func (r *readers) logUnusable(e ifdhandler.ReaderEvent) {
	switch {
	case errors.Is(e.Err, usbtransport.ErrRemoved):
		r.log.Debugf("reader %s, which could not be used, is gone", e.Device)
	case errors.Is(e.Err, host.ErrIgnored):
		r.log.Infof("reader %s is not used: %v", e.Device, e.Err)
	default:
		r.log.Warnf("reader %s can't be used: %v", e.Device, e.Err)
	}
}

// note keeps the list of what is unusable. That a reader is left alone as the user wishes is nothing that is wrong.
func (r *readers) note(e ifdhandler.ReaderEvent) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.Kind == ifdhandler.ReaderUnusable && !errors.Is(e.Err, host.ErrIgnored) && !errors.Is(e.Err, usbtransport.ErrRemoved) {
		r.unusable[e.Device] = unusableReader{Device: e.Device, Reason: e.Err.Error(), Since: time.Now()}
		return
	}
	delete(r.unusable, e.Device)
}

// add makes the slots of a reader known.
func (r *readers) add(ctx context.Context, m *pcscd.Manager, e ifdhandler.ReaderEvent) {
	for _, slot := range e.Slots {
		err := m.AddReader(pcscd.Reader{Name: slot.Name, Lun: slot.Lun})
		if err == nil {
			continue
		}
		r.log.Errorf("reader %s is left out: %v", slot.Name, err)
		// The channel is still ours.
		if err := r.handler.CloseChannel(ctx, slot.Lun); err != nil {
			r.log.Debugf("close %s: %v", slot.Name, err)
		}
	}
}

// settled waits until each reader that was there at the start can be used, or is known to be unusable.
func (r *readers) settled(ctx context.Context) error { return r.hotplug.Settled(ctx) }

// rescan looks for readers that the watch has missed.
func (r *readers) rescan(ctx context.Context) error { return r.backend.Rescan(ctx) }

// problems are the readers that can't be used.
func (r *readers) problems() []unusableReader {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]unusableReader, 0, len(r.unusable))
	for _, u := range r.unusable {
		list = append(list, u)
	}
	slices.SortFunc(list, func(a, b unusableReader) int { return a.Since.Compare(b.Since) })
	return list
}

// Close closes the readers and all that they are reached through.
func (r *readers) Close() error {
	var errs []error
	for _, c := range r.closers {
		errs = append(errs, c())
	}
	return errors.Join(errs...)
}
