package usbip

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/goccid/goccid/usbtransport"
)

// Server exports the devices of a backend. The zero value of each field but Backend is useful.
//
// Each connection asks one question, as the protocol has it: for the list of devices, or for one device, whose transfers
// it carries from then on. A device is given to one client at a time, whole: all its interfaces are claimed. When the device is unplugged
// the connection ends, and when the connection ends the device is free.
//
// A client sends USB's own requests, and a backend does some of them by itself. So the server answers SET_ADDRESS, and
// SET_CONFIGURATION and SET_INTERFACE for what is active anyway; CLEAR_FEATURE(ENDPOINT_HALT) and the hub's request to reset a port are
// ClearHalt and Reset. Everything else on endpoint 0 is passed on, and alternate settings, isochronous and interrupt OUT
// transfers are refused.
//
// An OUT transfer is one transfer to the device even if it is a whole number of packets and the client does not ask for
// the empty packet that ends it; an empty transfer right after such a one is taken for that packet.
type Server struct {
	// Backend has the devices.
	Backend usbtransport.Backend
	// Export says which devices are exported; nil is all.
	Export func(usbtransport.DeviceInfo) bool
	// MaxConnections is how many connections may be open at once; 0 is 64. One more is closed at once.
	MaxConnections int
	// Logger is told of clients that come, go and break rules; nil discards.
	Logger logrus.FieldLogger
}

const (
	defaultMaxConnections = 64
	// questionTimeout bounds everything that happens on a connection before a device is imported.
	questionTimeout = 10 * time.Second
	// acceptPause is how long to wait when the system can't give us a connection, for want of file descriptors, say.
	acceptPause = 100 * time.Millisecond
	// handover is how long a device may be in use before a client is told so, and handoverInterval how often that is looked at.
	handover         = 200 * time.Millisecond
	handoverInterval = 10 * time.Millisecond
)

// service is one call of Serve.
type service struct {
	*Server
	log   logrus.FieldLogger
	slots chan struct{} // one is taken by each connection

	// mu protects the fields below.
	mu       sync.Mutex
	sessions map[*session]struct{}
}

// Serve accepts clients until ctx ends or the listener fails; it closes the listener. It returns when all connections are
// closed and all devices are given back; the error is that of the listener, nil when ctx has ended.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	v := &service{Server: s, log: s.Logger, sessions: map[*session]struct{}{}}
	if v.log == nil {
		discard := logrus.New()
		discard.SetOutput(io.Discard)
		v.log = discard
	}
	connections := s.MaxConnections
	if connections <= 0 {
		connections = defaultMaxConnections
	}
	v.slots = make(chan struct{}, connections)

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	context.AfterFunc(ctx, func() { _ = listener.Close() }) // Accept says what there is to say
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	if watcher, err := v.Backend.Watch(ctx); err == nil {
		running.Go(func() { v.watch(ctx, watcher) })
	} else if ctx.Err() == nil {
		v.log.WithError(err).Warn("usbip: the devices can't be watched")
	}
	for {
		conn, err := listener.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close() // nobody will talk on it
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("usbip: accept: %w", err)
		case err != nil:
			v.log.WithError(err).Warn("usbip: can't accept a connection")
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
			}
			continue
		}
		select {
		case v.slots <- struct{}{}:
			running.Go(func() {
				defer func() { <-v.slots }()
				v.converse(ctx, conn)
			})
		default:
			v.log.WithField("client", conn.RemoteAddr()).Warn("usbip: too many connections")
			_ = conn.Close() // refused
		}
	}
}

// watch ends the sessions of devices that are unplugged. Without events, a session ends with its next transfer.
func (v *service) watch(ctx context.Context, w usbtransport.Watcher) {
	defer func() { _ = w.Close() }()
	for {
		event, err := w.Next(ctx)
		switch {
		case err != nil && ctx.Err() != nil:
			return
		case err != nil:
			v.log.WithError(err).Warn("usbip: the devices can't be watched any more")
			return
		case event.Kind == usbtransport.Removed:
			v.unplugged(event.Device.Key)
		}
	}
}

func (v *service) unplugged(key string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for s := range v.sessions {
		if s.info.Key == key {
			s.end(usbtransport.ErrRemoved)
		}
	}
}

// converse answers the question that a connection begins with, and carries a device's transfers if that was the question.
func (v *service) converse(ctx context.Context, conn net.Conn) {
	defer func() { _ = conn.Close() }() // the client has gone, or is being sent away
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	tune(conn)
	log := v.log.WithField("client", conn.RemoteAddr())
	if err := conn.SetDeadline(time.Now().Add(questionTimeout)); err != nil {
		return
	}
	header, err := readOpHeader(conn)
	if err != nil {
		log.WithError(err).Debug("usbip: no question")
		return
	}
	bounded, cancel := context.WithTimeout(ctx, questionTimeout)
	defer cancel()
	switch header.code {
	case opRequestDevlist:
		_, err = conn.Write(appendDevlist(nil, v.list(bounded)))
	case opRequestImport:
		var s *session
		if s, err = v.give(bounded, conn, log); err == nil {
			cancel()
			v.carry(ctx, s)
		}
	default:
		err = violation("operation 0x%04x", header.code)
	}
	if err != nil {
		log.WithError(err).Info("usbip: a question was not answered")
	}
}

// exported returns the devices that a client may have.
func (v *service) exported(ctx context.Context) ([]usbtransport.DeviceInfo, error) {
	devices, err := v.Backend.Devices(ctx)
	if err != nil {
		return nil, err
	}
	devices = slices.DeleteFunc(devices, func(d usbtransport.DeviceInfo) bool {
		return len(d.Descriptors) < deviceDescriptorSize+configurationDescriptorSize || len(d.PortPath) >= busIDSize || d.PortPath == "" ||
			v.Export != nil && !v.Export(d)
	})
	return devices[:min(len(devices), maxDevices)], nil
}

// list is the answer to the question for the list. What can't be listed is not there.
func (v *service) list(ctx context.Context) []listed {
	devices, err := v.exported(ctx)
	if err != nil {
		v.log.WithError(err).Warn("usbip: the devices can't be listed")
	}
	list := make([]listed, 0, len(devices))
	for _, d := range devices {
		record, classes := recordOf(d)
		list = append(list, listed{deviceRecord: record, classes: classes})
	}
	return list
}

// recordOf tells of a device in the protocol's terms. The path is only for people, and tells plug-ins apart for our own client.
func recordOf(d usbtransport.DeviceInfo) (deviceRecord, [][3]uint8) {
	raw := d.Descriptors
	r := deviceRecord{
		path: "/goccid/" + d.Key, busID: d.PortPath, bus: uint32(d.Bus), address: uint32(d.Address), speed: speedFull,
		vendor: d.IDVendor, product: d.IDProduct, bcdDevice: d.BCDDevice,
		class: raw[4], subClass: raw[5], protocol: raw[6], configurations: raw[17], configuration: raw[deviceDescriptorSize+5],
	}
	if _, ok := text(append([]byte(r.path), 0)); !ok || len(r.path) >= pathSize {
		r.path = "/goccid"
	}
	interfaces, _ := usbtransport.ParseInterfaces(raw) // as far as they can be parsed
	var classes [][3]uint8
	for _, i := range interfaces {
		for _, e := range i.Endpoints {
			r.speed = max(r.speed, speedOf(e))
		}
		if i.AlternateSetting == 0 && len(classes) < 255 {
			classes = append(classes, [3]uint8{i.Class, i.SubClass, i.Protocol})
		}
	}
	r.interfaces = uint8(len(classes))
	return r, classes
}

// speedOf is the lowest speed at which an endpoint may have its packet size (USB 2.0 §5.8.3, USB 3.2 §8.12.1).
func speedOf(e usbtransport.EndpointDescriptor) uint32 {
	switch {
	case e.Type == usbtransport.TransferBulk && e.MaxPacketSize >= 1024:
		return speedSuper
	case e.MaxPacketSize > 64:
		return speedHigh
	}
	return speedFull
}

// give imports a device for a client.
func (v *service) give(ctx context.Context, conn net.Conn, log logrus.FieldLogger) (*session, error) {
	busID, err := readImportRequest(conn)
	if err != nil {
		return nil, err
	}
	info, interfaces, status, err := v.claim(ctx, busID)
	answer := opHeader{code: opReplyImport, status: status}.append(nil)
	if err == nil {
		record, _ := recordOf(info)
		s := newSession(conn, info, record, interfaces, log.WithField("device", busID))
		if _, err = conn.Write(record.append(answer)); err == nil {
			return s, nil
		}
		s.giveBack()
		return nil, err
	}
	_, writeErr := conn.Write(answer)
	return nil, errors.Join(err, writeErr)
}

// claim claims all interfaces of a device. The status is what to tell the client if that fails.
func (v *service) claim(ctx context.Context, busID string) (info usbtransport.DeviceInfo, claimed []usbtransport.Interface, status uint32, err error) {
	devices, err := v.exported(ctx)
	if err != nil {
		return info, nil, statusError, err
	}
	i := slices.IndexFunc(devices, func(d usbtransport.DeviceInfo) bool { return d.PortPath == busID })
	if i < 0 {
		return info, nil, statusNoDevice, fmt.Errorf("usbip: no device %q", busID)
	}
	info = devices[i]
	interfaces, err := usbtransport.ParseInterfaces(info.Descriptors)
	if err == nil && len(interfaces) == 0 {
		err = errors.New("usbip: a device without interfaces")
	}
	if err != nil {
		return info, nil, statusDeviceErr, err
	}
	if claimed, err = v.openAll(ctx, info, interfaces); err != nil {
		return info, nil, refusalFor(err), err
	}
	return info, claimed, statusOK, nil
}

// openAll opens all interfaces of a device, or none. If some are in use it may be by a client that has just gone.
func (v *service) openAll(ctx context.Context, info usbtransport.DeviceInfo, interfaces []usbtransport.InterfaceDescriptor) ([]usbtransport.Interface, error) {
	var claimed []usbtransport.Interface
	patience := time.Now().Add(handover)
	for _, d := range interfaces {
		if d.AlternateSetting != 0 {
			continue
		}
		opened, err := v.Backend.Open(ctx, info, d.Number)
		for errors.Is(err, usbtransport.ErrBusy) && time.Now().Before(patience) && ctx.Err() == nil {
			time.Sleep(handoverInterval)
			opened, err = v.Backend.Open(ctx, info, d.Number)
		}
		if err != nil {
			for _, o := range claimed {
				err = errors.Join(err, o.Close())
			}
			return nil, err
		}
		claimed = append(claimed, opened)
	}
	return claimed, nil
}

// refusalFor is the status that tells a client why it can't have a device.
func refusalFor(err error) uint32 {
	switch {
	case errors.Is(err, usbtransport.ErrBusy):
		return statusBusy
	case errors.Is(err, usbtransport.ErrRemoved):
		return statusNoDevice
	}
	return statusDeviceErr
}

// carry runs a session to its end.
func (v *service) carry(ctx context.Context, s *session) {
	v.mu.Lock()
	v.sessions[s] = struct{}{}
	v.mu.Unlock()
	if !v.present(ctx, s.info.Key) {
		s.end(usbtransport.ErrRemoved) // before watch knew of the session
	}
	s.log.Info("usbip: the device is imported")
	err := s.serve(ctx)
	v.mu.Lock()
	delete(v.sessions, s)
	v.mu.Unlock()
	s.log.WithError(err).Info("usbip: the device is given back")
}

func (v *service) present(ctx context.Context, key string) bool {
	devices, err := v.Backend.Devices(ctx)
	return err == nil && slices.ContainsFunc(devices, func(d usbtransport.DeviceInfo) bool { return d.Key == key })
}

// setupOf takes a SETUP packet apart (USB 2.0 table 9-2).
func setupOf(b [setupSize]byte) (setup usbtransport.Setup, length int) {
	return usbtransport.Setup{
		RequestType: b[0], Request: b[1], Value: binary.LittleEndian.Uint16(b[2:]), Index: binary.LittleEndian.Uint16(b[4:]),
	}, int(binary.LittleEndian.Uint16(b[6:]))
}
