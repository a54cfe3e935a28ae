package virtual

import (
	"encoding/binary"
	"sync"

	"github.com/goccid/goccid/usbtransport"
)

// Addresses of a Loopback's endpoints.
const (
	LoopbackOut       = 0x01
	LoopbackIn        = 0x82
	LoopbackInterrupt = 0x83
)

// Loopback is a device for tests of what lies between a host and a device: it sends each transfer on its bulk OUT
// endpoint back on its bulk IN endpoint.
type Loopback struct {
	mu   sync.Mutex
	port *Port
}

var _ Device = (*Loopback)(nil)

// NewLoopback makes a loopback device.
func NewLoopback() *Loopback { return &Loopback{} }

// LoopbackVendor and LoopbackProduct identify a Loopback: numbers of pid.codes for tests.
const (
	LoopbackVendor  = 0x1209
	LoopbackProduct = 0x0001
)

// Describe implements Device.
func (l *Loopback) Describe() usbtransport.DeviceInfo {
	bulk, interrupt := byte(usbtransport.TransferBulk), byte(usbtransport.TransferInterrupt)
	b := []byte{
		18, usbtransport.DescriptorDevice, 0x00, 0x02, 0xFF, 0, 0, maxPacketSize, 0, 0, 0, 0, 0x00, 0x01, 0, stringProduct, 0, 1,
		9, usbtransport.DescriptorConfiguration, 9 + 9 + 3*7, 0, 1, 1, 0, 0x80, 50,
		9, usbtransport.DescriptorInterface, 0, 0, 3, 0xFF, 0, 0, 0,
		7, usbtransport.DescriptorEndpoint, LoopbackOut, bulk, maxPacketSize, 0, 0,
		7, usbtransport.DescriptorEndpoint, LoopbackIn, bulk, maxPacketSize, 0, 0,
		7, usbtransport.DescriptorEndpoint, LoopbackInterrupt, interrupt, interruptPacketSize, 0, 1,
	}
	binary.LittleEndian.PutUint16(b[8:], LoopbackVendor)
	binary.LittleEndian.PutUint16(b[10:], LoopbackProduct)
	return usbtransport.DeviceInfo{
		IDVendor: LoopbackVendor, IDProduct: LoopbackProduct, BCDDevice: 0x0100, Product: "Loopback", Descriptors: b,
	}
}

// Attach implements Device.
func (l *Loopback) Attach(p *Port) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.port = p
}

// Detach implements Device.
func (l *Loopback) Detach() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.port = nil
}

// Control implements Device: there are no requests but the standard ones.
func (l *Loopback) Control(usbtransport.Setup, []byte) (int, bool) { return 0, false }

// Out implements Device.
func (l *Loopback) Out(_ uint8, data []byte) { l.send(LoopbackIn, data) }

// Interrupt sends data on the interrupt endpoint.
func (l *Loopback) Interrupt(data []byte) { l.send(LoopbackInterrupt, data) }

// Stall halts an endpoint until the host clears the halt.
func (l *Loopback) Stall(endpoint uint8) {
	l.mu.Lock()
	port := l.port
	l.mu.Unlock()
	if port != nil {
		port.Stall(endpoint)
	}
}

func (l *Loopback) send(endpoint uint8, data []byte) {
	l.mu.Lock()
	port := l.port
	l.mu.Unlock()
	if port != nil {
		port.Send(endpoint, append([]byte(nil), data...))
	}
}
