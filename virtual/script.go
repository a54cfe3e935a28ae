package virtual

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/usbtransport"
)

// Recording is what a real reader was seen to exchange with its host, as testdata/frames holds it:
//
//	{"source": "where it was published", "reader": "…", "idVendor": …, "idProduct": …,
//	 "about": "what is peculiar", "model": "the model whose descriptor plays it",
//	 "frames": ["> 6500…", "< 8100… @727751", "! 5003", "--"]}
//
// ">" is bulk OUT, "<" bulk IN, "!" interrupt IN, "c" a control IN answer; "@" the microseconds that passed since the
// frame before; "--" marks a gap: frames are missing there.
type Recording struct {
	// Source says where the frames were published, About what is peculiar in them.
	Source string `json:"source"`
	About  string `json:"about"`
	// Reader, IDVendor and IDProduct name the reader.
	Reader    string `json:"reader"`
	IDVendor  uint16 `json:"idVendor"`
	IDProduct uint16 `json:"idProduct"`
	// Model is the model whose descriptors a Script plays the frames with.
	Model string `json:"model"`
	// Frames are the frames, in order.
	Frames []Frame `json:"frames"`
}

// Direction says which way a Frame goes.
type Direction byte

// The directions.
const (
	FrameOut       Direction = '>'
	FrameIn        Direction = '<'
	FrameInterrupt Direction = '!'
	FrameControl   Direction = 'c'
	FrameGap       Direction = '-'
)

// Frame is one transfer of a Recording.
type Frame struct {
	Direction Direction
	Data      []byte
	// After is the time since the frame before.
	After time.Duration
}

// ParseRecording decodes a file of testdata/frames.
func ParseRecording(b []byte) (*Recording, error) {
	var r Recording
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("virtual: recording: %w", err)
	}
	return &r, nil
}

// UnmarshalText decodes the form that Recording describes.
func (f *Frame) UnmarshalText(text []byte) error {
	if string(text) == "--" {
		*f = Frame{Direction: FrameGap}
		return nil
	}
	var direction, data string
	var after int64
	n, err := fmt.Sscanf(string(text), "%s %s @%d", &direction, &data, &after)
	if n < 2 || len(direction) != 1 || after < 0 {
		return fmt.Errorf("frame %q: %w", text, err)
	}
	if !slices.Contains([]Direction{FrameOut, FrameIn, FrameInterrupt, FrameControl}, Direction(direction[0])) {
		return fmt.Errorf("frame %q: direction %q is not known", text, direction)
	}
	b, err := hex.DecodeString(data)
	if err != nil {
		return fmt.Errorf("frame %q: %w", text, err)
	}
	*f = Frame{Direction: Direction(direction[0]), Data: b, After: time.Duration(after) * time.Microsecond}
	return nil
}

// MarshalText is the reverse of UnmarshalText.
func (f Frame) MarshalText() ([]byte, error) {
	if f.Direction == FrameGap {
		return []byte("--"), nil
	}
	text := fmt.Sprintf("%c %X", f.Direction, f.Data)
	if f.After > 0 {
		text += fmt.Sprintf(" @%d", f.After.Microseconds())
	}
	return []byte(text), nil
}

// Step is what a Script does when one bulk OUT message has come: the answers, oddities included.
type Step struct {
	// Expect is the message that the recording has. Where it is nil, because the recording begins with its answer, any
	// message will do that is answered with messages of the first answer's type.
	Expect []byte
	// Answers are sent then, in order, on the endpoints that their Directions say.
	Answers []Frame
}

// matches reports whether a message is the one that the step waits for. bSeq does not count.
func (s Step) matches(message []byte) bool {
	if s.Expect == nil {
		if len(message) == 0 || len(s.Answers) == 0 || len(s.Answers[0].Data) == 0 {
			return false
		}
		kind, ok := ccid.MessageType(message[0]).ResponseType()
		return ok && uint8(kind) == s.Answers[0].Data[0]
	}
	if len(s.Expect) != len(message) {
		return false
	}
	for i := range message {
		if i != offsetSeq && message[i] != s.Expect[i] {
			return false
		}
	}
	return true
}

// recordedSeq is bSeq of the recorded message; of its answer where only that is there.
func (s Step) recordedSeq() (byte, bool) {
	message := s.Expect
	if message == nil && len(s.Answers) > 0 {
		message = s.Answers[0].Data
	}
	if len(message) <= offsetSeq {
		return 0, false
	}
	return message[offsetSeq], true
}

const offsetSeq = 6

// ScriptConfig says how a Script plays.
type ScriptConfig struct {
	// Model is the model whose descriptors are shown; empty is that of the default reader.
	Model string
	// Descriptor, when set, replaces the class descriptor.
	Descriptor *ccid.ClassDescriptor
	// Speed divides the recorded times; 0 sends everything at once.
	Speed int
	// KeepSeq sends bSeq as it was recorded. Without it, an answer whose recorded bSeq was that of the recorded command
	// gets the bSeq of the command that came; others are left as they are, since that is what is peculiar about them.
	KeepSeq bool
	// Other answers a message that is not the next of the script; nil leaves it without an answer.
	Other func(ccid.Command) (ccid.Response, bool)
	// Before is sent when the device is plugged in.
	Before []Frame
	// IDVendor and IDProduct replace those of the model where they are not 0.
	IDVendor, IDProduct uint16
}

// Script is a device that answers exactly as was recorded.
//
// A message is the next of the script when it is the same but for bSeq. Any other is Other's business, is noted for
// Unexpected, and does not move the script on.
//
// To play a recording to the driver:
//
//	recording, err := virtual.ParseRecording(file)
//	script, err := recording.Script(virtual.ScriptConfig{})
//	bus.Plug(script)
//	// … drive it …
//	script.Done(), script.Unexpected()
type Script struct {
	config ScriptConfig
	shell  *Reader // for descriptors only

	mu         sync.Mutex
	port       *Port
	steps      []Step
	next       int
	unexpected [][]byte
	stop       chan struct{}
	playing    sync.WaitGroup
}

var _ Device = (*Script)(nil)

// Steps cuts the recording at its bulk OUT frames, and returns what comes before the first of them apart: the interrupt
// messages that a Script sends when it is plugged in. Where a gap hides a message, its answer makes a Step without Expect.
func (r *Recording) Steps() (before []Frame, steps []Step) {
	gap := true
	for _, f := range r.Frames {
		switch f.Direction {
		case FrameOut:
			steps = append(steps, Step{Expect: f.Data})
			gap = false
		case FrameIn:
			if gap {
				steps = append(steps, Step{})
				gap = false
			}
			last := &steps[len(steps)-1]
			last.Answers = append(last.Answers, f)
		case FrameInterrupt:
			if len(steps) == 0 {
				before = append(before, f)
				continue
			}
			last := &steps[len(steps)-1]
			last.Answers = append(last.Answers, f)
		case FrameGap:
			gap = true
		case FrameControl:
		}
	}
	return before, steps
}

// Script makes a device that plays the recording, with the recorded reader's numbers and the descriptors of its model, and
// answers QuietReader's questions besides. config's Speed and KeepSeq count, and what else is set in it.
func (r *Recording) Script(config ScriptConfig) (*Script, error) {
	if config.Model == "" {
		config.Model = r.Model
	}
	config.IDVendor, config.IDProduct = r.IDVendor, r.IDProduct
	if config.Other == nil {
		config.Other = QuietReader
	}
	before, steps := r.Steps()
	config.Before = before
	return NewScript(config, steps)
}

// NewScript makes a device that plays steps.
func NewScript(c ScriptConfig, steps []Step) (*Script, error) {
	config := Config{Model: c.Model}
	if c.Descriptor != nil {
		config.Override = func(d *ccid.ClassDescriptor) { *d = *c.Descriptor }
	}
	shell, err := NewReader(config)
	if err != nil {
		return nil, err
	}
	return &Script{config: c, shell: shell, steps: steps}, nil
}

// Describe implements Device.
func (s *Script) Describe() usbtransport.DeviceInfo {
	info := s.shell.Describe()
	if s.config.IDVendor != 0 {
		info.IDVendor, info.IDProduct = s.config.IDVendor, s.config.IDProduct
		binary.LittleEndian.PutUint16(info.Descriptors[8:], info.IDVendor)
		binary.LittleEndian.PutUint16(info.Descriptors[10:], info.IDProduct)
	}
	return info
}

// Attach implements Device.
func (s *Script) Attach(p *Port) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.port, s.stop = p, make(chan struct{})
	s.play(p, s.stop, s.config.Before)
}

// Detach implements Device.
func (s *Script) Detach() {
	s.mu.Lock()
	close(s.stop)
	s.port = nil
	s.mu.Unlock()
	s.playing.Wait()
}

// Control implements Device, with the frequencies of the model.
func (s *Script) Control(setup usbtransport.Setup, data []byte) (int, bool) {
	return s.shell.Control(setup, data)
}

// Out implements Device.
func (s *Script) Out(_ uint8, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	port := s.port
	if port == nil {
		return
	}
	if s.next < len(s.steps) && s.steps[s.next].matches(data) {
		step := s.steps[s.next]
		s.next++
		s.play(port, s.stop, s.renumbered(step, data))
		return
	}
	s.unexpected = append(s.unexpected, slices.Clone(data))
	if c, err := ccid.ParseCommand(data); err == nil && s.config.Other != nil {
		if r, ok := s.config.Other(c); ok {
			b, _ := r.AppendBinary(nil) // never fails
			port.Send(s.shell.functions[0].in, b)
		}
	}
}

// renumbered gives those answers that carried the recorded command's bSeq the bSeq of the command that came.
func (s *Script) renumbered(step Step, got []byte) []Frame {
	seq, ok := step.recordedSeq()
	if s.config.KeepSeq || !ok || len(got) <= offsetSeq {
		return step.Answers
	}
	answers := slices.Clone(step.Answers)
	for i, a := range answers {
		if a.Direction == FrameIn && len(a.Data) > offsetSeq && a.Data[offsetSeq] == seq {
			answers[i].Data = slices.Clone(a.Data)
			answers[i].Data[offsetSeq] = got[offsetSeq]
		}
	}
	return answers
}

// play sends frames, in their time. It wants mu held.
func (s *Script) play(port *Port, stop <-chan struct{}, frames []Frame) {
	f := s.shell.functions[0]
	send := func(frame Frame) {
		endpoint := f.in
		if frame.Direction == FrameInterrupt {
			endpoint = f.interrupt
		}
		port.Send(endpoint, frame.Data)
	}
	if s.config.Speed == 0 {
		for _, frame := range frames {
			send(frame)
		}
		return
	}
	s.playing.Go(func() {
		for _, frame := range frames {
			timer := time.NewTimer(frame.After / time.Duration(s.config.Speed))
			select {
			case <-timer.C:
				send(frame)
			case <-stop:
				timer.Stop()
				return
			}
		}
	})
}

// Done reports whether the host has sent every message of the script.
func (s *Script) Done() bool { return s.Remaining() == 0 }

// Remaining is how many messages of the script have not come yet.
func (s *Script) Remaining() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.steps) - s.next
}

// Unexpected returns the messages that were not the script's next, in order.
func (s *Script) Unexpected() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.unexpected)
}

// QuietReader answers what drivers ask besides what was recorded, for ScriptConfig.Other: GetSlotStatus with an active card,
// IccPowerOff, parameters as they were set, and nothing else.
func QuietReader(c ccid.Command) (ccid.Response, bool) {
	kind, _ := c.Type.ResponseType()
	r := ccid.Response{Type: kind, Slot: c.Slot, Seq: c.Seq}
	switch c.Type {
	case ccid.TypeGetSlotStatus:
	case ccid.TypeIccPowerOff:
		r.Status = ccid.NewStatus(ccid.ICCInactive, ccid.CommandOK)
	case ccid.TypeSetParameters:
		r.Specific, r.Data = c.Specific[0], c.Data
	default:
		return ccid.Response{}, false
	}
	return r, true
}
