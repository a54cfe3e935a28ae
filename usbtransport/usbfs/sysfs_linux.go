package usbfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unicode"

	"github.com/sirupsen/logrus"

	"github.com/goccid/goccid/usbtransport"
)

const (
	// maxDevices bounds an enumeration: 127 addresses on each of a hundred buses.
	maxDevices = 127 * 100
	// maxDescriptors bounds a device's descriptors: a device descriptor and 8 configurations (the kernel's own limit) of
	// 65,535 bytes.
	maxDescriptors = 18 + 8*0xFFFF
	// maxAttribute bounds a one-line attribute: a string descriptor has up to 126 characters, of up to 3 bytes each in UTF-8.
	maxAttribute = 512

	deviceDescriptorSize        = 18
	configurationDescriptorSize = 9
)

// errUnconfigured is why a device has no Descriptors: no configuration is active, since the device is not authorised, or has
// only just been plugged in.
var errUnconfigured = errors.New("the device is not configured")

// sysfs reads the kernel's view of USB devices.
type sysfs struct {
	root string
	log  logrus.FieldLogger
}

// devices is the folder that has a link to each device.
func (s sysfs) devices() string { return filepath.Join(s.root, "bus/usb/devices") }

// names lists the devices' names: "1-1.2", and "usb1" for a root hub.
func (s sysfs) names() ([]string, error) {
	dir, err := os.Open(s.devices())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // a kernel without USB has no devices
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	// Each device comes with its interfaces.
	entries, err := dir.Readdirnames(32 * maxDevices)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	names := slices.DeleteFunc(entries, func(name string) bool { return !isDeviceName(name) })
	return names[:min(len(names), maxDevices)], nil
}

// isDeviceName reports whether an entry of sysfs is a device: a bus and a chain of ports, or a root hub. Interfaces have a colon.
func isDeviceName(name string) bool {
	if rest, ok := strings.CutPrefix(name, "usb"); ok {
		return isNumber(rest)
	}
	bus, ports, ok := strings.Cut(name, "-")
	if !ok || !isNumber(bus) || len(name) > 64 {
		return false
	}
	for port := range strings.SplitSeq(ports, ".") {
		if !isNumber(port) {
			return false
		}
	}
	return true
}

func isNumber(s string) bool {
	return s != "" && len(s) <= 5 && strings.Trim(s, "0123456789") == ""
}

// list reads every device, ordered by bus and port path.
func (s sysfs) list(ctx context.Context) ([]usbtransport.DeviceInfo, error) {
	names, err := s.names()
	if err != nil {
		return nil, err
	}
	devices := make([]usbtransport.DeviceInfo, 0, len(names))
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		device, err := s.device(name)
		if err != nil {
			// It went since it was listed; or the kernel says nothing sensible of it, and others may be better.
			s.log.WithError(err).WithField("device", name).Debug("usbfs: device left out")
			continue
		}
		devices = append(devices, device)
	}
	slices.SortFunc(devices, compareDevices)
	return devices, nil
}

func compareDevices(a, b usbtransport.DeviceInfo) int {
	return cmp.Or(cmp.Compare(a.Bus, b.Bus), slices.Compare(ports(a.PortPath), ports(b.PortPath)))
}

// ports splits a port path into numbers, so that 1-2 comes before 1-10. A root hub has none.
func ports(path string) []int {
	_, chain, ok := strings.Cut(path, "-")
	if !ok {
		return nil
	}
	var numbers []int
	for port := range strings.SplitSeq(chain, ".") {
		n, _ := strconv.Atoi(port) // the name was checked when it was read
		numbers = append(numbers, n)
	}
	return numbers
}

// device reads one device. The error is os.ErrNotExist where it is gone.
func (s sysfs) device(name string) (usbtransport.DeviceInfo, error) {
	dir := filepath.Join(s.devices(), name)
	key, bus, address, err := s.identity(name)
	if err != nil {
		return usbtransport.DeviceInfo{}, err
	}
	info := usbtransport.DeviceInfo{
		Key: key, Bus: bus, Address: address, PortPath: name,
		Manufacturer: text(dir, "manufacturer"), Product: text(dir, "product"), SerialNumber: text(dir, "serial"),
	}
	raw, err := readBounded(filepath.Join(dir, "descriptors"), maxDescriptors)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENODEV) {
		return info, err
	}
	if err == nil {
		err = fillDescriptors(&info, raw, text(dir, "bConfigurationValue"))
	}
	info.Unreadable = err
	info.Drivers = drivers(dir, name, info.Descriptors)

	// Parts of two devices must not be taken for one: nothing of this counts if the device was replaced meanwhile.
	again, _, _, err := s.identity(name)
	if err == nil && again != key {
		err = os.ErrNotExist
	}
	return info, err
}

// identity returns the key of the plug-in that has a name now. The kernel gives each device that it meets another address on
// the bus (it wraps around after 127) and its folder another inode number; together they don't come back.
func (s sysfs) identity(name string) (key string, bus, address int, err error) {
	if !isDeviceName(name) {
		return "", 0, 0, fmt.Errorf("%q is no port path: %w", name, os.ErrNotExist)
	}
	dir := filepath.Join(s.devices(), name)
	status, err := os.Stat(dir)
	if err != nil {
		return "", 0, 0, err
	}
	var inode uint64
	if system, ok := status.Sys().(*syscall.Stat_t); ok {
		inode = system.Ino
	}
	if bus, err = number(dir, "busnum", 0xFFFF); err != nil {
		return "", 0, 0, err
	}
	if address, err = number(dir, "devnum", 127); err != nil {
		return "", 0, 0, err
	}
	return fmt.Sprintf("%s/%d/%d", name, address, inode), bus, address, nil
}

// fillDescriptors takes the device descriptor and the active configuration out of what sysfs holds: the device descriptor, then all
// configurations.
func fillDescriptors(info *usbtransport.DeviceInfo, raw []byte, active string) error {
	if len(raw) < deviceDescriptorSize || raw[1] != usbtransport.DescriptorDevice {
		return fmt.Errorf("descriptors of %d bytes hold no device descriptor", len(raw))
	}
	device := raw[:deviceDescriptorSize]
	info.IDVendor = uint16(device[8]) | uint16(device[9])<<8
	info.IDProduct = uint16(device[10]) | uint16(device[11])<<8
	info.BCDDevice = uint16(device[12]) | uint16(device[13])<<8
	value, err := strconv.ParseUint(active, 10, 8)
	if err != nil {
		return errUnconfigured
	}
	configuration := findConfiguration(raw[deviceDescriptorSize:], uint8(value))
	if configuration == nil {
		return fmt.Errorf("no descriptor of the active configuration %d", value)
	}
	info.Descriptors = append(slices.Clone(device), configuration...)
	return nil
}

// findConfiguration returns the configuration with a bConfigurationValue, up to where the next one starts: the
// wTotalLength that the device gives may be wrong.
func findConfiguration(raw []byte, value uint8) []byte {
	start := -1
	for offset := 0; offset+2 <= len(raw); {
		length := int(raw[offset])
		if length < 2 {
			break
		}
		if raw[offset+1] == usbtransport.DescriptorConfiguration && length >= configurationDescriptorSize && len(raw)-offset >= configurationDescriptorSize {
			if start >= 0 {
				return raw[start:offset]
			}
			if raw[offset+5] == value {
				start = offset
			}
		}
		offset += length
	}
	if start < 0 {
		return nil
	}
	return raw[start:]
}

// drivers reads which kernel driver each interface is bound to.
func drivers(dir, name string, descriptors []byte) map[uint8]string {
	if len(descriptors) < deviceDescriptorSize+configurationDescriptorSize {
		return nil
	}
	configuration := descriptors[deviceDescriptorSize+5]
	bound := make(map[uint8]string)
	interfaces, _ := usbtransport.ParseInterfaces(descriptors) // what can be parsed is enough
	for _, i := range interfaces {
		link, err := os.Readlink(driverLink(dir, name, configuration, i.Number))
		if err == nil {
			bound[i.Number] = filepath.Base(link)
		}
	}
	return bound
}

// bound reports whether a driver has an interface of a configured device now; a process that has claimed it counts as one.
func (s sysfs) bound(info usbtransport.DeviceInfo, number uint8) bool {
	_, err := os.Readlink(driverLink(filepath.Join(s.devices(), info.PortPath), info.PortPath, info.Descriptors[deviceDescriptorSize+5], number))
	return err == nil
}

func driverLink(dir, name string, configuration, number uint8) string {
	return filepath.Join(dir, fmt.Sprintf("%s:%d.%d", name, configuration, number), "driver")
}

// number reads an attribute that is a decimal number from 1 to limit.
func number(dir, attribute string, limit int) (int, error) {
	raw, err := readBounded(filepath.Join(dir, attribute), maxAttribute)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil || n < 1 || n > limit {
		return 0, fmt.Errorf("%s is %q", attribute, raw)
	}
	return n, nil
}

// text reads an attribute that is text from the device, "" where there is none. Control characters would let a device write on the
// user's terminal, so they become spaces.
func text(dir, attribute string) string {
	raw, err := readBounded(filepath.Join(dir, attribute), maxAttribute)
	if err != nil {
		return ""
	}
	printable := func(r rune) rune {
		if unicode.IsGraphic(r) {
			return r
		}
		return ' '
	}
	return strings.TrimSpace(strings.Map(printable, strings.ToValidUTF8(string(raw), "")))
}

// readBounded reads a file of sysfs, up to limit bytes of it.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}
