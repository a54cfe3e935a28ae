package usbip

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/goccid/goccid/usbtransport"
)

// poller is the goroutine that asks the server for its list while there are watchers.
type poller struct {
	cancel context.CancelFunc
	ended  chan struct{}
}

// poll asks the server, at once and until ctx ends. While the server fails, it waits longer and longer.
func (b *Backend) poll(ctx context.Context) {
	delay := b.interval
	for {
		err := b.take(ctx)
		if err == nil {
			err = b.refresh(ctx, false)
			b.release()
		}
		if ctx.Err() != nil {
			return
		}
		b.note(err)
		if err == nil {
			delay = b.interval
		} else {
			delay = max(min(2*delay, maxPollInterval), b.interval)
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return
		}
	}
}

// note tells, once, that the server does not answer, and that it does again. err is what a question has come to.
func (b *Backend) note(err error) {
	b.mu.Lock()
	before := b.away
	b.away = err != nil
	b.mu.Unlock()
	switch {
	case err != nil && !before:
		b.log.WithError(err).Warnf("USB/IP server %s does not answer; trying on", b.address)
	case err == nil && before:
		b.log.Infof("USB/IP server %s answers", b.address)
	}
}

// Watch implements usbtransport.Backend. It waits for no answer of the server: what is known of its devices is reported at once, the
// rest when the server has told of it. A server that can't be reached has no devices; the watcher reports them when it can.
// Changed is reported when the descriptors of a device could be read at last, since another client has given it back, or when the reason
// why they can't be read is another one.
func (b *Backend) Watch(ctx context.Context) (usbtransport.Watcher, error) {
	const op = "watch"
	if ctx.Err() != nil {
		return nil, fail(op, "", usbtransport.ContextKind(ctx), nil)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.watchers++
	if b.poller == nil {
		polling, cancel := context.WithCancel(context.Background())
		p := &poller{cancel: cancel, ended: make(chan struct{})}
		b.poller = p
		go func() {
			defer close(p.ended)
			b.poll(polling)
		}()
	}
	return &watcher{backend: b, known: map[string]seen{}, closed: make(chan struct{})}, nil
}

// unwatch ends the poller with the last watcher.
func (b *Backend) unwatch() {
	b.mu.Lock()
	b.watchers--
	var p *poller
	if b.watchers == 0 {
		p, b.poller = b.poller, nil
	}
	b.mu.Unlock()
	if p != nil {
		p.cancel()
		<-p.ended
	}
}

// watcher is a usbtransport.Watcher. It holds no events: Next compares what it has reported with what there is. So one that
// nobody reads costs nothing, and what came and went meanwhile is left out.
type watcher struct {
	backend *Backend
	known   map[string]seen // by Key; Backend.mu guards it
	closed  chan struct{}
	once    sync.Once
}

// seen is what was reported of a plug-in.
type seen struct {
	info     usbtransport.DeviceInfo
	revision int
}

// Next implements usbtransport.Watcher.
func (w *watcher) Next(ctx context.Context) (usbtransport.Event, error) {
	const op = "watch"
	for {
		select {
		case <-w.closed:
			return usbtransport.Event{}, fail(op, "", usbtransport.ErrClosed, nil)
		default:
		}
		if ctx.Err() != nil {
			return usbtransport.Event{}, fail(op, "", usbtransport.ContextKind(ctx), nil)
		}
		event, news, changed := w.compare()
		if news {
			return event, nil
		}
		select {
		case <-changed:
		case <-w.closed:
		case <-ctx.Done():
		}
	}
}

// compare finds the next event, removals first, or a channel that is closed when it is worth to compare again.
func (w *watcher) compare() (event usbtransport.Event, news bool, changed <-chan struct{}) {
	b := w.backend
	b.mu.Lock()
	defer b.mu.Unlock()
	present := b.sorted()
	for _, key := range slices.SortedFunc(maps.Keys(w.known), w.order) {
		if !slices.ContainsFunc(present, func(e *entry) bool { return e.info.Key == key }) {
			gone := w.known[key]
			delete(w.known, key)
			return usbtransport.Event{Kind: usbtransport.Removed, Device: gone.info}, true, nil
		}
	}
	for _, e := range present {
		before, known := w.known[e.info.Key]
		if known && before.revision == e.revision {
			continue
		}
		w.known[e.info.Key] = seen{info: e.describe(), revision: e.revision}
		kind := usbtransport.Arrived
		if known {
			kind = usbtransport.Changed
		}
		return usbtransport.Event{Kind: kind, Device: e.describe()}, true, nil
	}
	return usbtransport.Event{}, false, b.changed
}

// order is that of port paths, so that removals come in the same order everywhere.
func (w *watcher) order(x, y string) int {
	return cmp.Compare(w.known[x].info.PortPath, w.known[y].info.PortPath)
}

// Close implements usbtransport.Watcher.
func (w *watcher) Close() error {
	w.once.Do(func() {
		close(w.closed)
		w.backend.unwatch()
	})
	return nil
}
