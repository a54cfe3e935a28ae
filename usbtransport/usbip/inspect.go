package usbip

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/goccid/goccid/usbtransport"
)

const (
	// maxLooks is how many devices are looked at side by side, so that one that does not answer takes no time from others.
	maxLooks = 8
	// maxBusyDelay bounds the pause between tries to read the descriptors of a device that another client has: a refusal costs little,
	// and somebody may wait for the reader.
	maxBusyDelay = 5 * time.Second
)

// classSmartCard and classVendor are the interface classes that readers have.
const classSmartCard, classVendor = 0x0B, 0xFF

// errNoReader is why descriptors have not been asked for.
var errNoReader = errors.New("no smart card or vendor-specific interface: not imported to read the descriptors")

// errNoTime is why descriptors have not been asked for yet.
var errNoTime = errors.New("the server has taken too long over other devices")

// look is one look at a device, and what has come of it.
type look struct {
	entry  *entry
	listed listed
	// tried says that there was time for it.
	tried   bool
	info    usbtransport.DeviceInfo
	settled time.Time
	err     error
}

// due returns the looks that are to be taken: at devices that are new, and at those whose descriptors could not be read and may be by
// now, or with again at all of the latter. Who has waited longest comes first, so that the slow ones do not keep others from their turn.
func (b *Backend) due(list []listed, again bool) []*look {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	var looks []*look
	for _, d := range list {
		e := b.entries[d.busID]
		switch {
		case e == nil:
			e = &entry{record: d.deviceRecord, info: d.basics(), holders: map[uint8]bool{}}
		case e.attached != nil || e.info.Descriptors != nil || e.retry.IsZero() || !again && now.Before(e.retry):
			continue
		}
		looks = append(looks, &look{entry: e, listed: d, info: e.info, settled: e.settled})
	}
	slices.SortStableFunc(looks, func(x, y *look) int { return x.entry.retry.Compare(y.entry.retry) })
	return looks
}

// inspectAll takes the looks. It ends after the backend's Timeout; some may not have been taken then.
func (b *Backend) inspectAll(ctx context.Context, looks []*look) {
	end := time.Now().Add(b.timeout)
	ctx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	free := make(chan struct{}, maxLooks)
	var taken sync.WaitGroup
	defer taken.Wait()
	for _, l := range looks {
		l.err = errNoTime
		select {
		case free <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil || !time.Now().Before(end) {
			continue
		}
		l.tried = true
		taken.Go(func() {
			l.err = b.inspect(ctx, l)
			<-free
		})
	}
}

// commit puts down what has come of a look. cut says that who asked did not wait for it. It wants mu held.
func (b *Backend) commit(l *look, cut bool) {
	e := l.entry
	e.settled = l.settled
	known := b.entries[e.record.busID]
	if cut && l.err != nil {
		return // it says nothing of the device
	}
	if l.err != nil {
		l.info.Unreadable = l.unreadable()
		e.retryLater(l)
	}
	if known == nil {
		b.keys++
		l.info.Key = fmt.Sprintf("usbip:%s/%s#%d", b.address, e.record.busID, b.keys)
		b.entries[e.record.busID] = e
	}
	news := known == nil || l.err == nil || l.info.Unreadable.Error() != e.info.Unreadable.Error()
	e.info = l.info
	if news {
		e.revision++
		b.broadcast()
	}
}

// unreadable is why the descriptors could not be read, as DeviceInfo has it.
func (l *look) unreadable() error {
	if errors.Is(l.err, errNoReader) {
		return l.err
	}
	return fail("read descriptors", l.info.PortPath, cmp.Or(importKind(l.err), usbtransport.ErrIO), l.err)
}

// retryLater sets when to look again after a look that has failed.
func (e *entry) retryLater(l *look) {
	switch {
	case errors.Is(l.err, errNoReader):
		return
	case !l.tried:
		if e.retry.IsZero() { // else it keeps its place in the order
			e.retry = time.Now()
		}
		return
	}
	most := maxPollInterval
	if errors.Is(l.info.Unreadable, usbtransport.ErrBusy) {
		most = maxBusyDelay
	}
	e.delay = min(max(2*e.delay, time.Second), most)
	e.retry = time.Now().Add(e.delay)
}

// basics is what is known of a device that is not imported.
func (d listed) basics() usbtransport.DeviceInfo {
	info := usbtransport.DeviceInfo{
		Bus: int(d.bus & 0x7FFFFFFF), Address: int(d.address & 0x7FFFFFFF), PortPath: d.busID,
		IDVendor: d.vendor, IDProduct: d.product, BCDDevice: d.bcdDevice,
	}
	for _, c := range d.classes {
		info.Classes = append(info.Classes, c[0])
	}
	return info
}

// worthImporting reports whether a device may be a reader. A device that is not configured lists no interfaces.
func (d listed) worthImporting() bool {
	return len(d.classes) == 0 || slices.ContainsFunc(d.classes, func(c [3]uint8) bool { return c[0] == classSmartCard || c[0] == classVendor })
}

// inspect imports a device for as long as it takes to read its descriptors.
func (b *Backend) inspect(ctx context.Context, l *look) error {
	if !l.listed.worthImporting() {
		return errNoReader
	}
	a, err := b.importDevice(ctx, l.entry.record, l.settled, func(*attachment) {})
	if err != nil {
		return err
	}
	defer func() { l.settled = time.Now().Add(settleTime) }()
	defer a.close()
	// The import is nobody else's: its end takes all back, and waits for no server.
	defer context.AfterFunc(ctx, func() { a.fail(errNoAnswer) })()
	l.info, err = readInfo(ctx, a, l.info)
	b.mu.Lock()
	unknown := b.hides == nil
	b.mu.Unlock()
	if unknown {
		if list, err := b.fetch(ctx); err == nil {
			b.mu.Lock()
			b.noteHiding(list, l.entry.record)
			b.mu.Unlock()
		}
	}
	return err
}
