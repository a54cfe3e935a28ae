package virtual

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/usbtransport/transporttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestBusKeepsTheRulesOfUSBTransport(t *testing.T) {
	t.Run("loopback", func(t *testing.T) {
		transporttest.Run(t, func(t testing.TB) transporttest.Fixture {
			bus, device := NewBus(), NewLoopback()
			f := fixture(t, bus, device)
			f.Loopback = true
			f.Stall = func(endpoint uint8) error { device.Stall(endpoint); return nil }
			f.QueueInterrupt = func(data []byte) error { device.Interrupt(data); return nil }
			return f
		})
	})
	t.Run("reader", func(t *testing.T) {
		transporttest.Run(t, func(t testing.TB) transporttest.Fixture {
			level := ccid.LevelTPDU
			reader, err := NewReader(Config{Level: &level})
			if err != nil {
				t.Fatal(err)
			}
			return fixture(t, NewBus(), reader)
		})
	})
}

func fixture(t testing.TB, bus *Bus, device Device) transporttest.Fixture {
	plug := func() error {
		_, err := bus.Plug(device)
		return err
	}
	if err := plug(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = bus.Close() })
	id := device.Describe()
	return transporttest.Fixture{
		Backend: bus,
		Match:   func(d usbtransport.DeviceInfo) bool { return d.IDVendor == id.IDVendor && d.IDProduct == id.IDProduct },
		Unplug:  func() error { bus.Unplug(device); return nil },
		Plug:    plug,
	}
}
