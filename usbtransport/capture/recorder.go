package capture

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
	"unicode/utf16"

	"github.com/goccid/goccid/apdu"
	"github.com/goccid/goccid/usbtransport"
)

// Options are what a Recorder can be made with. The zero value is good for most uses.
type Options struct {
	// IncludeSecrets leaves PINs in the recording.
	IncludeSecrets bool
	// MaxBytes ends the recording before the file gets longer; 0 is MaxFile, which is the most that Read takes.
	MaxBytes int64
	// Failed, when set, is called once, when the recording ends early: with the error of the file, or ErrTooLarge. It
	// must not call the Recorder.
	Failed func(error)
}

// Recorder is a usbtransport.Backend that writes down what goes over the interfaces of another one: every transfer, as usbmon
// would show it, with the descriptors of each device before its first; comments for arrivals and removals. Each packet
// is written at once and as a whole, so that a crash leaves a file that Read and Wireshark take.
//
// Recording never fails a transfer: when the file can't be written, it ends, and Err says so.
//
// PINs are replaced by asterisks before anything is written, see Options.IncludeSecrets: VERIFY, CHANGE REFERENCE DATA,
// DISABLE and ENABLE VERIFICATION REQUIREMENT and RESET RETRY COUNTER in PC_to_RDR_XfrBlock, at every exchange level, in T=1
// blocks (whose checksum is computed anew), chained or not, and in ENVELOPE; and the commands in PC_to_RDR_Secure. Lengths stay. The section header's
// comment tells which it is. Not recognised are PINs in PC_to_RDR_Escape and in a card's own commands.
type Recorder struct {
	backend usbtransport.Backend
	options Options

	mu       sync.Mutex
	writer   *writer
	reported bool
	nextID   uint64
	known    map[string]*recorded // by DeviceInfo.Key
}

// recorded is what the file has of one plug-in.
type recorded struct {
	introduced bool     // its descriptors are written
	gone       bool     // a transfer has said so
	comments   []string // for its next packet
}

var _ usbtransport.Backend = (*Recorder)(nil)

// NewRecorder begins a recording of backend in w, and fails if nothing can be written there. The caller closes w
// after the last use.
func NewRecorder(backend usbtransport.Backend, w io.Writer, o Options) (*Recorder, error) {
	comment := "goccid recording of USB transfers; " + redactedMark + " (asterisks in their place)"
	if o.IncludeSecrets {
		comment = "goccid recording of USB transfers; PINs included"
	}
	if o.MaxBytes <= 0 || o.MaxBytes > MaxFile {
		o.MaxBytes = MaxFile
	}
	out, err := newWriter(w, backend.Name(), comment, o.MaxBytes)
	if err != nil {
		return nil, fmt.Errorf("capture: %w", err)
	}
	return &Recorder{backend: backend, options: o, writer: out, known: map[string]*recorded{}}, nil
}

// Err returns why the recording has ended early, nil while it goes on.
func (r *Recorder) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.writer.err
}

// maxComments bounds the comments that wait for a packet.
const maxComments = 16

// Comment puts a comment on the next packet of a device, if any. What it says is written as it is.
func (r *Recorder) Comment(device usbtransport.DeviceInfo, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.device(device.Key)
	if len(k.comments) < maxComments {
		k.comments = append(k.comments, text)
	}
}

// shownAPDU is how many bytes of an APDU a comment has.
const shownAPDU = 256

// CommentAPDU puts a command APDU as a comment on the next packet of a device: whoever sends it to a slot calls this before,
// so that the recording tells which APDU caused which transfers. PINs are hidden as apdu.Redact does: the whole data of an
// ENVELOPE, because comments may be read in another order than they were written.
func (r *Recorder) CommentAPDU(device usbtransport.DeviceInfo, slot int, command []byte) {
	shown := command
	if !r.options.IncludeSecrets {
		shown = apdu.Redact(command)
	}
	more := ""
	if len(shown) > shownAPDU {
		more = fmt.Sprintf(" … (%d bytes)", len(shown))
	}
	r.Comment(device, fmt.Sprintf("slot %d: APDU %s%s", slot, spacedHex(shown[:min(len(shown), shownAPDU)]), more))
}

// Name implements usbtransport.Backend; it is the name of the backend that is recorded.
func (r *Recorder) Name() string { return r.backend.Name() }

// Devices implements usbtransport.Backend.
func (r *Recorder) Devices(ctx context.Context) ([]usbtransport.DeviceInfo, error) {
	return r.backend.Devices(ctx)
}

// Watch implements usbtransport.Backend. What the watcher reports is recorded.
func (r *Recorder) Watch(ctx context.Context) (usbtransport.Watcher, error) {
	w, err := r.backend.Watch(ctx)
	if err != nil {
		return nil, err
	}
	return &recordedWatcher{Watcher: w, recorder: r}, nil
}

// Open implements usbtransport.Backend.
func (r *Recorder) Open(ctx context.Context, device usbtransport.DeviceInfo, number uint8) (usbtransport.Interface, error) {
	i, err := r.backend.Open(ctx, device, number)
	if err != nil {
		return nil, err
	}
	info := i.Device()
	r.introduce(info, "present: "+label(info))
	r.Comment(info, fmt.Sprintf("interface %d opened", number))
	return &recordedInterface{Interface: i, recorder: r, info: info, intervals: intervals(info.Descriptors), redactor: newRedactor()}, nil
}

// label names a device in a comment.
func label(d usbtransport.DeviceInfo) string {
	return fmt.Sprintf("%v, %s %s", d, orUnknown(d.Manufacturer), orUnknown(d.Product))
}

func orUnknown(s string) string {
	if s == "" {
		return "?"
	}
	return s
}

// intervals returns bInterval of each endpoint.
func intervals(raw []byte) map[uint8]uint8 {
	list, _ := usbtransport.ParseInterfaces(raw) // what stands before a fault is good
	out := map[uint8]uint8{}
	for _, i := range list {
		for _, e := range i.Endpoints {
			out[e.Address] = e.Interval
		}
	}
	return out
}

type recordedWatcher struct {
	usbtransport.Watcher
	recorder *Recorder
}

// Next implements usbtransport.Watcher.
func (w *recordedWatcher) Next(ctx context.Context) (usbtransport.Event, error) {
	e, err := w.Watcher.Next(ctx)
	if err != nil {
		return e, err
	}
	switch e.Kind {
	case usbtransport.Arrived:
		w.recorder.introduce(e.Device, "plugged in: "+label(e.Device))
	case usbtransport.Removed:
		w.recorder.removed(e.Device)
	case usbtransport.Changed:
	}
	return e, nil
}

// device returns what is known of a plug-in. It wants mu held.
func (r *Recorder) device(key string) *recorded {
	k := r.known[key]
	if k == nil {
		k = &recorded{}
		r.known[key] = k
	}
	return k
}

// introduce writes a device's descriptors, once for each plug-in, as an operating system asks for them: without them
// nobody knows what its endpoints are.
func (r *Recorder) introduce(d usbtransport.DeviceInfo, comment string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.device(d.Key)
	if k.introduced || len(d.Descriptors) < deviceDescriptorLength {
		return
	}
	k.introduced = true
	k.comments = append([]string{comment}, k.comments...)
	device, configuration := d.Descriptors[:deviceDescriptorLength], d.Descriptors[deviceDescriptorLength:]
	r.descriptor(d, usbtransport.DescriptorDevice<<8, 0, device)
	r.descriptor(d, usbtransport.DescriptorConfiguration<<8, 0, configuration)
	names := []struct {
		index uint8
		text  string
	}{{device[14], d.Manufacturer}, {device[15], d.Product}, {device[16], d.SerialNumber}}
	for _, n := range names {
		if n.index != 0 && n.text != "" {
			r.descriptor(d, descriptorString<<8|uint16(n.index), englishUS, stringDescriptor(n.text))
		}
	}
	if len(configuration) > 5 {
		r.exchange(d, usbtransport.Setup{Request: requestSetConfiguration, Value: uint16(configuration[5])}, nil, 0)
	}
}

// stringDescriptor is the reverse of descriptors.text.
func stringDescriptor(text string) []byte {
	const longest = 254
	b := []byte{0, descriptorString}
	for _, unit := range utf16.Encode([]rune(text)) {
		b = binary.LittleEndian.AppendUint16(b, unit)
	}
	b = b[:min(len(b), longest)]
	b[0] = byte(len(b))
	return b
}

func (r *Recorder) descriptor(d usbtransport.DeviceInfo, value, index uint16, answer []byte) {
	r.exchange(d, usbtransport.Setup{RequestType: 0x80, Request: requestGetDescriptor, Value: value, Index: index}, answer, 0)
}

// exchange writes a control transfer without data for the device that took no time. It wants mu held.
func (r *Recorder) exchange(d usbtransport.DeviceInfo, setup usbtransport.Setup, answer []byte, status int32) {
	p := r.begin(d, setup.RequestType&0x80, usbtransport.TransferControl)
	p.setup, p.length = setupBytes(setup, len(answer)), len(answer)
	r.write(p)
	p.kind, p.setup, p.data, p.status = usbmonComplete, nil, answer, status
	r.write(p)
}

func setupBytes(s usbtransport.Setup, length int) []byte {
	b := []byte{s.RequestType, s.Request}
	b = binary.LittleEndian.AppendUint16(b, s.Value)
	b = binary.LittleEndian.AppendUint16(b, s.Index)
	return binary.LittleEndian.AppendUint16(b, uint16(min(length, 0xFFFF)))
}

// begin makes the submission of a new transfer. It wants mu held.
func (r *Recorder) begin(d usbtransport.DeviceInfo, endpoint uint8, kind usbtransport.TransferType) usbmonPacket {
	r.nextID++
	p := usbmonPacket{
		kind: usbmonSubmit, id: r.nextID, info: d, endpoint: endpoint, transfer: kind, time: time.Now(), status: -linuxEINPROGRESS,
	}
	if endpoint&0x80 != 0 {
		p.flags = urbDirIn
	}
	return p
}

// write writes a packet with the comments that wait for it. It wants mu held.
func (r *Recorder) write(p usbmonPacket) {
	k := r.device(p.info.Key)
	r.writer.write(p, k.comments)
	k.comments = nil
	if r.writer.err != nil && !r.reported {
		r.reported = true
		if r.options.Failed != nil {
			r.options.Failed(r.writer.err)
		}
	}
}

// removed writes that a device was removed: as the kernel shows a transfer to one that is gone.
func (r *Recorder) removed(d usbtransport.DeviceInfo) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.known[d.Key]
	if k == nil || !k.introduced {
		return
	}
	k.comments = append(k.comments, "unplugged: "+d.String())
	p := r.begin(d, 0x80, usbtransport.TransferControl)
	p.setup, p.length = setupBytes(usbtransport.Setup{RequestType: 0x80, Request: requestGetStatus}, 2), 2
	r.write(p)
	p.kind, p.setup, p.status, p.length = usbmonError, nil, -linuxENODEV, 0
	r.write(p)
	delete(r.known, d.Key)
}

// recordedInterface implements usbtransport.Interface.
type recordedInterface struct {
	usbtransport.Interface
	recorder  *Recorder
	info      usbtransport.DeviceInfo
	intervals map[uint8]uint8
	redactor  *redactor // recorder.mu guards it
}

// submit writes that a transfer begins. fill adds what is special about it.
func (i *recordedInterface) submit(endpoint uint8, kind usbtransport.TransferType, fill func(*usbmonPacket)) usbmonPacket {
	r := i.recorder
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.begin(i.info, endpoint, kind)
	fill(&p)
	r.write(p)
	return p
}

// complete writes how a transfer has ended: data is what the device sent, n the bytes that went either way.
func (i *recordedInterface) complete(p usbmonPacket, n int, data []byte, err error) {
	r := i.recorder
	r.mu.Lock()
	defer r.mu.Unlock()
	p.kind, p.setup, p.time, p.status, p.length, p.data = usbmonComplete, nil, time.Now(), statusOf(err), n, data
	if errors.Is(err, usbtransport.ErrInvalid) || errors.Is(err, usbtransport.ErrNotSupported) {
		p.kind = usbmonError
	}
	if k := r.device(i.info.Key); errors.Is(err, usbtransport.ErrRemoved) && !k.gone {
		k.gone = true
		k.comments = append(k.comments, "device removed")
	}
	if p.transfer == usbtransport.TransferBulk && err == nil {
		i.redactor.learn(data)
	}
	r.write(p)
}

// received returns what a transfer has put into a buffer, whatever the backend says of its length.
func received(buf []byte, n int) []byte { return buf[:max(0, min(n, len(buf)))] }

// Control implements usbtransport.Interface.
func (i *recordedInterface) Control(ctx context.Context, setup usbtransport.Setup, data []byte) (int, error) {
	in := setup.RequestType&0x80 != 0
	p := i.submit(setup.RequestType&0x80, usbtransport.TransferControl, func(p *usbmonPacket) {
		p.setup, p.length = setupBytes(setup, len(data)), len(data)
		if !in {
			p.data = i.hideRequest(setup, data)
		}
	})
	n, err := i.Interface.Control(ctx, setup, data)
	var answer []byte
	if in {
		answer = received(data, n)
		i.learnRequest(setup, answer)
	}
	i.complete(p, n, answer, err)
	return n, err
}

// hideRequest hides PINs in the data of a control request: ICCD tokens take their APDUs there. It wants the recorder's mu
// held.
func (i *recordedInterface) hideRequest(setup usbtransport.Setup, data []byte) []byte {
	if i.recorder.options.IncludeSecrets {
		return data
	}
	return i.redactor.hideRequest(setup, data)
}

func (i *recordedInterface) learnRequest(setup usbtransport.Setup, answer []byte) {
	i.recorder.mu.Lock()
	defer i.recorder.mu.Unlock()
	i.redactor.learnRequest(setup, answer)
}

// BulkOut implements usbtransport.Interface.
func (i *recordedInterface) BulkOut(ctx context.Context, endpoint uint8, data []byte) (int, error) {
	p := i.submit(endpoint, usbtransport.TransferBulk, func(p *usbmonPacket) {
		p.data, p.length, p.flags = data, len(data), urbZeroPacket
		if !i.recorder.options.IncludeSecrets {
			p.data = i.redactor.hide(data)
		}
	})
	n, err := i.Interface.BulkOut(ctx, endpoint, data)
	i.complete(p, n, nil, err)
	return n, err
}

// BulkIn implements usbtransport.Interface.
func (i *recordedInterface) BulkIn(ctx context.Context, endpoint uint8, buf []byte) (int, error) {
	p := i.submit(endpoint, usbtransport.TransferBulk, func(p *usbmonPacket) { p.length = len(buf) })
	n, err := i.Interface.BulkIn(ctx, endpoint, buf)
	i.complete(p, n, received(buf, n), err)
	return n, err
}

// InterruptIn implements usbtransport.Interface.
func (i *recordedInterface) InterruptIn(ctx context.Context, endpoint uint8, buf []byte) (int, error) {
	p := i.submit(endpoint, usbtransport.TransferInterrupt, func(p *usbmonPacket) {
		p.length, p.interval = len(buf), int32(i.intervals[endpoint])
	})
	n, err := i.Interface.InterruptIn(ctx, endpoint, buf)
	i.complete(p, n, received(buf, n), err)
	return n, err
}

// ClearHalt implements usbtransport.Interface. It is recorded as the request that it makes (USB 2.0 §9.4.1).
func (i *recordedInterface) ClearHalt(ctx context.Context, endpoint uint8) error {
	p := i.submit(0, usbtransport.TransferControl, func(p *usbmonPacket) {
		p.setup = setupBytes(usbtransport.Setup{RequestType: recipientEndpoint, Request: requestClearFeature, Index: uint16(endpoint)}, 0)
	})
	err := i.Interface.ClearHalt(ctx, endpoint)
	i.complete(p, 0, nil, err)
	return err
}

// Reset implements usbtransport.Interface. usbmon does not see it either: it is recorded as the request for the device
// descriptor with which the kernel checks what has come back, with a comment.
func (i *recordedInterface) Reset(ctx context.Context) error {
	err := i.Interface.Reset(ctx)
	r := i.recorder
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.device(i.info.Key)
	k.comments = append(k.comments, "port reset")
	answer := i.info.Descriptors[:min(len(i.info.Descriptors), deviceDescriptorLength)]
	if err != nil {
		answer = nil
	}
	r.exchange(i.info, usbtransport.Setup{RequestType: 0x80, Request: requestGetDescriptor, Value: usbtransport.DescriptorDevice << 8}, answer, statusOf(err))
	return err
}
