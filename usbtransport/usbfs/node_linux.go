package usbfs

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// node is what the package needs of an open device node: one method for each system call, so that tests can stand in
// for the kernel. Errors are unix.Errno values, or another error after close.
type node interface {
	claim(number uint8) error
	release(number uint8) error
	// driver names the kernel driver of an interface; ENODATA where it has none.
	driver(number uint8) (string, error)
	clearHalt(endpoint uint8) error
	reset() error
	// connected returns ENODEV once the kernel has noticed that the device is gone.
	connected() error

	submit(*urb) error
	// discard takes a submitted urb back. The kernel then hands it out for reaping, like any other; EINVAL says that
	// it had already done so.
	discard(*urb) error
	// reap returns the address of a urb that is finished, EAGAIN when none is, and ENODEV when none is and the
	// device is gone.
	reap() (uintptr, error)
	// await calls step, and again each time that there may be something to reap, until step returns true or the
	// node is closed.
	await(step func() bool) error

	// descriptor is the number of the file descriptor.
	descriptor() int
	close() error
}

// file is a node of the real usbfs.
type file struct {
	file   *os.File
	raw    syscall.RawConn
	number int
}

func openNode(path string) (node, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	// With O_NONBLOCK set, os.NewFile puts the descriptor into the runtime's poller.
	f := os.NewFile(uintptr(fd), path)
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &file{file: f, raw: raw, number: fd}, nil
}

// do runs a system call with the descriptor, which can't be closed meanwhile.
func (f *file) do(call func(fd uintptr) error) error {
	var result error
	err := f.raw.Control(func(fd uintptr) {
		for {
			result = call(fd)
			if result != unix.EINTR {
				return
			}
		}
	})
	if err != nil {
		return err
	}
	return result
}

func (f *file) claim(number uint8) error {
	return f.do(func(fd uintptr) error { return ioctlNumber(fd, ioctlClaimInterface, uint32(number)) })
}

func (f *file) release(number uint8) error {
	return f.do(func(fd uintptr) error { return ioctlNumber(fd, ioctlReleaseInterface, uint32(number)) })
}

func (f *file) driver(number uint8) (name string, err error) {
	err = f.do(func(fd uintptr) (err error) {
		name, err = ioctlDriver(fd, number)
		return err
	})
	return name, err
}

func (f *file) clearHalt(endpoint uint8) error {
	return f.do(func(fd uintptr) error { return ioctlNumber(fd, ioctlClearHalt, uint32(endpoint)) })
}

func (f *file) reset() error {
	return f.do(func(fd uintptr) error { return ioctlPlain(fd, ioctlReset) })
}

func (f *file) connected() error { return f.do(ioctlConnected) }

func (f *file) submit(u *urb) error {
	return f.do(func(fd uintptr) error { return ioctlURB(fd, ioctlSubmitURB, u) })
}

func (f *file) discard(u *urb) error {
	return f.do(func(fd uintptr) error { return ioctlURB(fd, ioctlDiscardURB, u) })
}

func (f *file) reap() (address uintptr, err error) {
	err = f.do(func(fd uintptr) (err error) {
		address, err = ioctlReap(fd)
		return err
	})
	return address, err
}

// await waits for writability: usbfs reports POLLOUT while a urb can be reaped, and POLLHUP when the device is gone.
func (f *file) await(step func() bool) error {
	return f.raw.Write(func(uintptr) bool { return step() })
}

func (f *file) descriptor() int { return f.number }

func (f *file) close() error { return f.file.Close() }
