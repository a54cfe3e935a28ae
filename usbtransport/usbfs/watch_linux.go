package usbfs

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/goccid/goccid/usbtransport"
)

// The multicast groups of NETLINK_KOBJECT_UEVENT.
const (
	groupKernel = 1
	groupUdev   = 2
)

// socketBuffer is what may wait in the socket, in bytes. When it is not enough the kernel says so, and the watcher reads sysfs.
const socketBuffer = 1 << 20

// watcher is a usbtransport.Watcher. It has no goroutine: Next reads the socket.
//
// Uevents say when to look, and sysfs says what is there; so an event that is late, doubled or lost does no
// harm. The exception is a removal: the event precedes the end of the device's folder, so it is believed if it is
// about the plug-in that is known.
type watcher struct {
	backend *Backend
	file    *os.File
	raw     syscall.RawConn
	closed  chan struct{}
	once    sync.Once

	// turn is held by the Next that reads; a channel, so that a context ends the wait for it.
	turn chan struct{}
	// The fields below belong to who has the turn.

	// queue holds events that have not been returned yet.
	queue []usbtransport.Event
	// known holds the plug-ins that were reported, by port path.
	known map[string]usbtransport.DeviceInfo
	// left holds the keys of plug-ins whose removal was reported while sysfs still had them, by port path.
	left   map[string]string
	buffer []byte
	oob    []byte

	// news holds what Open was refused and would get now. It belongs to Backend.refusals.
	news []claim
}

// Watch starts a watcher, as usbtransport.Backend says. Changed is reported when udev has dealt with a device (if it
// runs), when the device gets an interface anew, and when an Open that was refused for want of permission or since the interface
// was busy would now succeed. The kernel does not tell of the latter, so the watchers look, as long as there is such a refusal.
func (b *Backend) Watch(ctx context.Context) (usbtransport.Watcher, error) {
	if ctx.Err() != nil {
		return nil, watchError(usbtransport.ContextKind(ctx), nil)
	}
	// The socket comes first, so that nothing is missed between the two.
	f, err := b.subscribe()
	if err != nil {
		return nil, watchError(kindOf(err), err)
	}
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, watchError(usbtransport.ErrIO, err)
	}
	w := &watcher{
		backend: b, file: f, raw: raw, closed: make(chan struct{}), turn: make(chan struct{}, 1),
		known: make(map[string]usbtransport.DeviceInfo), left: make(map[string]string),
		buffer: make([]byte, maxUevent), oob: make([]byte, unix.CmsgSpace(unix.SizeofUcred)),
	}
	if err := w.rescan(ctx); err != nil {
		f.Close()
		if ctx.Err() != nil {
			return nil, watchError(usbtransport.ContextKind(ctx), nil)
		}
		return nil, watchError(usbtransport.ErrIO, err)
	}
	b.refusals.join(w)
	return w, nil
}

// subscribe opens a netlink socket for the uevents of the kernel and of udev.
func subscribe() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, err
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, socketBuffer) // the default serves, with a rescan more often
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groupKernel | groupUdev})
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "uevents"), nil
}

func (w *watcher) Next(ctx context.Context) (usbtransport.Event, error) {
	if w.isClosed() {
		return usbtransport.Event{}, watchError(usbtransport.ErrClosed, nil)
	}
	if ctx.Err() != nil {
		return usbtransport.Event{}, watchError(usbtransport.ContextKind(ctx), nil)
	}
	select {
	case w.turn <- struct{}{}:
	case <-w.closed:
		return usbtransport.Event{}, watchError(usbtransport.ErrClosed, nil)
	case <-ctx.Done():
		return usbtransport.Event{}, watchError(usbtransport.ContextKind(ctx), nil)
	}
	defer func() { <-w.turn }()

	if len(w.queue) == 0 {
		if err := w.fill(ctx); err != nil {
			return usbtransport.Event{}, err
		}
	}
	event := w.queue[0]
	w.queue = slices.Delete(w.queue, 0, 1)
	return event, nil
}

func (w *watcher) Close() error {
	w.once.Do(func() {
		close(w.closed)
		w.backend.refusals.leave(w)
		w.file.Close() // wakes a reading Next
	})
	return nil
}

func (w *watcher) isClosed() bool {
	select {
	case <-w.closed:
		return true
	default:
		return false
	}
}

// fill reads the socket until there is something to report.
func (w *watcher) fill(ctx context.Context) error {
	// The deadline is how a wait in the poller is ended. AfterFunc's function has either not started or is waited for, so
	// that it does not end the wait of the next reader, who sets his own deadline.
	expired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(expired)
		_ = w.file.SetReadDeadline(time.Unix(1, 0))
	})
	defer func() {
		if !stop() {
			<-expired
		}
	}()
	for len(w.queue) == 0 {
		// In this order: a context that ends from here on sets its deadline after this one.
		w.backend.refusals.setDeadline(w)
		if ctx.Err() != nil {
			return watchError(usbtransport.ContextKind(ctx), nil)
		}
		message, err := w.receive()
		switch {
		case err == nil:
			w.handle(message)
		case errors.Is(err, unix.ENOBUFS):
			// The kernel had more to say than the socket holds.
			w.backend.log.Debug("usbfs: uevents were lost, reading all devices")
			// It is done to its end even if ctx ends: the socket won't say it again.
			if err := w.rescan(context.WithoutCancel(ctx)); err != nil {
				return watchError(usbtransport.ErrIO, err)
			}
		case w.isClosed():
			return watchError(usbtransport.ErrClosed, nil)
		case errors.Is(err, os.ErrDeadlineExceeded):
			w.tell(w.backend.refusals.news(w))
		default:
			return watchError(usbtransport.ErrIO, err)
		}
	}
	return nil
}

// receive reads one message. It returns nil for one that neither the kernel nor root sent, or that is too long.
func (w *watcher) receive() ([]byte, error) {
	var n, oobn, flags int
	var from unix.Sockaddr
	var err error
	waitErr := w.raw.Read(func(fd uintptr) bool {
		n, oobn, flags, from, err = unix.Recvmsg(int(fd), w.buffer, w.oob, 0)
		return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
	})
	if waitErr != nil {
		return nil, waitErr
	}
	if err != nil {
		return nil, err
	}
	if flags&unix.MSG_TRUNC != 0 || !trusted(from, w.oob[:oobn]) {
		return nil, nil
	}
	return w.buffer[:n], nil
}

// trusted reports whether a message comes from the kernel, or from a process of root on udev's group.
func trusted(from unix.Sockaddr, oob []byte) bool {
	sender, ok := from.(*unix.SockaddrNetlink)
	if !ok {
		return false
	}
	if sender.Groups == groupKernel {
		return sender.Pid == 0
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) != 1 || sender.Groups != groupUdev {
		return false
	}
	credentials, err := unix.ParseUnixCredentials(&messages[0])
	return err == nil && credentials.Uid == 0
}

// handle takes one uevent in.
func (w *watcher) handle(message []byte) {
	event, err := parseUevent(message)
	if err != nil {
		return
	}
	name, ok := event.device()
	if !ok {
		return
	}
	known, isKnown := w.known[name]
	switch {
	case event.kind == "usb_device" && event.action == "remove" && !event.fromUdev:
		if isKnown && known.Bus == event.bus && known.Address == event.address {
			w.left[name] = known.Key
			w.remove(name)
		}
	case event.action == "add", event.action == "bind", event.action == "change":
		w.look(name, event.kind == "usb_device" && event.action == "bind")
		if isKnown && w.known[name].Key == known.Key && event.worthAnotherTry() {
			w.queue = append(w.queue, usbtransport.Event{Kind: usbtransport.Changed, Device: w.known[name]})
		}
	}
}

// tell reports that an Open which was refused would now succeed.
func (w *watcher) tell(news []claim) {
	for _, c := range news {
		for _, info := range w.known {
			if info.Key == c.key {
				w.queue = append(w.queue, usbtransport.Event{Kind: usbtransport.Changed, Device: info})
			}
		}
	}
}

// look reads what is plugged in at a name and reports what is new. The kernel announces a device before it has set its
// configuration; such a one is reported with the next event that it causes, at the latest when a driver is bound to the device as such
// (final), which is the end of the kernel's work on it.
func (w *watcher) look(name string, final bool) {
	info, err := w.backend.sysfs.device(name)
	if err != nil {
		return // it is gone again; its removal is in the socket
	}
	known, isKnown := w.known[name]
	switch {
	case w.left[name] == info.Key:
	case isKnown && known.Key == info.Key:
		w.known[name] = info
	case errors.Is(info.Unreadable, errUnconfigured) && !final:
		if isKnown {
			w.remove(name)
		}
	default:
		if isKnown {
			w.remove(name)
		}
		w.arrive(info)
	}
}

// rescan compares what is known with what is there.
func (w *watcher) rescan(ctx context.Context) error {
	present, err := w.backend.sysfs.list(ctx)
	if err != nil {
		return err
	}
	keys := make(map[string]string, len(present))
	for _, info := range present {
		keys[info.PortPath] = info.Key
	}
	for name, key := range w.left {
		if keys[name] != key {
			delete(w.left, name)
		}
	}
	known := make([]usbtransport.DeviceInfo, 0, len(w.known))
	for _, info := range w.known {
		known = append(known, info)
	}
	slices.SortFunc(known, compareDevices)
	for _, info := range known {
		if keys[info.PortPath] != info.Key {
			w.remove(info.PortPath)
		}
	}
	for _, info := range present {
		if _, isKnown := w.known[info.PortPath]; !isKnown && w.left[info.PortPath] != info.Key {
			w.arrive(info)
		}
	}
	return nil
}

func (w *watcher) arrive(info usbtransport.DeviceInfo) {
	delete(w.left, info.PortPath)
	w.known[info.PortPath] = info
	w.queue = append(w.queue, usbtransport.Event{Kind: usbtransport.Arrived, Device: info})
}

func (w *watcher) remove(name string) {
	info := w.known[name]
	delete(w.known, name)
	w.queue = append(w.queue, usbtransport.Event{Kind: usbtransport.Removed, Device: info})
}

func watchError(kind, cause error) error {
	return &usbtransport.Error{Op: "watch", Kind: kind, Cause: cause}
}
