package usbfs

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// This is the only file of the package that uses unsafe. It holds the kernel's structures (linux/usbdevice_fs.h) and
// the ioctls that take them.

// urb is struct usbdevfs_urb. The kernel keeps its address, and that of the buffer, from submit to reap.
type urb struct {
	kind         uint8
	endpoint     uint8
	status       int32
	flags        uint32
	buffer       unsafe.Pointer
	bufferLength int32
	actualLength int32
	startFrame   int32
	packets      int32
	errorCount   int32
	signal       uint32
	userContext  uintptr
}

// The kinds of urb, and the flag that asks for a closing zero-length packet.
const (
	urbInterrupt  = 1
	urbControl    = 2
	urbBulk       = 3
	urbZeroPacket = 0x40
)

// getDriver is struct usbdevfs_getdriver.
type getDriver struct {
	number uint32
	name   [256]byte
}

// connectInfo is struct usbdevfs_connectinfo.
type connectInfo struct {
	address uint32
	slow    uint8
}

// The direction bits of an ioctl's number differ between architectures; those of ioctls that x/sys knows don't lie.
const (
	directionMask = 0xE0000000
	ioNone        = unix.RNDZAPENTCNT & directionMask
	ioRead        = unix.RNDGETENTCNT & directionMask
	ioWrite       = unix.RNDADDTOENTCNT & directionMask
	ioGroup       = 'U' << 8
)

// The ioctls of a device node.
const (
	ioctlGetDriver        = ioWrite | unsafe.Sizeof(getDriver{})<<16 | ioGroup | 8
	ioctlSubmitURB        = ioRead | unsafe.Sizeof(urb{})<<16 | ioGroup | 10
	ioctlDiscardURB       = ioNone | ioGroup | 11
	ioctlReapURBNoDelay   = ioWrite | unsafe.Sizeof(uintptr(0))<<16 | ioGroup | 13
	ioctlClaimInterface   = ioRead | unsafe.Sizeof(uint32(0))<<16 | ioGroup | 15
	ioctlReleaseInterface = ioRead | unsafe.Sizeof(uint32(0))<<16 | ioGroup | 16
	ioctlConnectInfo      = ioWrite | unsafe.Sizeof(connectInfo{})<<16 | ioGroup | 17
	ioctlReset            = ioNone | ioGroup | 20
	ioctlClearHalt        = ioRead | unsafe.Sizeof(uint32(0))<<16 | ioGroup | 21
)

// setBuffer pins the urb and its buffer until unpin, and lets the urb point to the buffer.
func (u *urb) setBuffer(buffer []byte, pinner *runtime.Pinner) {
	pinner.Pin(u)
	u.buffer, u.bufferLength = nil, int32(len(buffer))
	if len(buffer) > 0 {
		pinner.Pin(&buffer[0])
		u.buffer = unsafe.Pointer(&buffer[0])
	}
}

// address is what the kernel calls this urb when it hands it back.
func (u *urb) address() uintptr { return uintptr(unsafe.Pointer(u)) }

func ioctlURB(fd uintptr, request uintptr, u *urb) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(unsafe.Pointer(u)))
	return asError(errno)
}

func ioctlReap(fd uintptr) (uintptr, error) {
	var address uintptr
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, ioctlReapURBNoDelay, uintptr(unsafe.Pointer(&address)))
	return address, asError(errno)
}

func ioctlNumber(fd uintptr, request uintptr, number uint32) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(unsafe.Pointer(&number)))
	return asError(errno)
}

func ioctlDriver(fd uintptr, number uint8) (string, error) {
	request := getDriver{number: uint32(number)}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, ioctlGetDriver, uintptr(unsafe.Pointer(&request)))
	return unix.ByteSliceToString(request.name[:]), asError(errno)
}

func ioctlConnected(fd uintptr) error {
	var info connectInfo
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, ioctlConnectInfo, uintptr(unsafe.Pointer(&info)))
	return asError(errno)
}

func ioctlPlain(fd uintptr, request uintptr) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, request, 0)
	return asError(errno)
}

func asError(errno unix.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}
