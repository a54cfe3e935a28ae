package usbfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/goccid/goccid/usbtransport"
)

// usbfsDriver is the kernel's name for an interface that a process has claimed.
const usbfsDriver = "usbfs"

// Backend is a usbtransport.Backend over Linux usbfs.
type Backend struct {
	sysfs    sysfs
	devRoot  string
	procRoot string
	log      logrus.FieldLogger
	openNode func(path string) (node, error)
	// subscribe opens a socket that receives uevents.
	subscribe func() (*os.File, error)

	refusals refusals
}

var _ usbtransport.Backend = (*Backend)(nil)

// New returns a backend. It does no I/O.
func New(options Options) *Backend {
	log := options.Logger
	if log == nil {
		discard := logrus.New()
		discard.SetOutput(io.Discard)
		log = discard
	}
	orDefault := func(root, standard string) string {
		if root == "" {
			return standard
		}
		return root
	}
	return &Backend{
		sysfs:     sysfs{root: orDefault(options.SysRoot, "/sys"), log: log},
		devRoot:   orDefault(options.DevRoot, "/dev"),
		procRoot:  orDefault(options.ProcRoot, "/proc"),
		log:       log,
		openNode:  openNode,
		subscribe: subscribe,
	}
}

// Name returns "usbfs".
func (b *Backend) Name() string { return "usbfs" }

// Devices reads sysfs. Where the kernel has no USB at all the list is empty.
func (b *Backend) Devices(ctx context.Context) ([]usbtransport.DeviceInfo, error) {
	const op = "devices"
	devices, err := b.sysfs.list(ctx)
	switch {
	case ctx.Err() != nil:
		return nil, &usbtransport.Error{Op: op, Kind: usbtransport.ContextKind(ctx)}
	case errors.Is(err, os.ErrPermission):
		return nil, &usbtransport.Error{Op: op, Kind: usbtransport.ErrPermission, Cause: err}
	case err != nil:
		return nil, &usbtransport.Error{Op: op, Kind: usbtransport.ErrIO, Cause: err}
	}
	return devices, nil
}

// Open claims an interface, as usbtransport.Backend says. While the kernel still sets the device up, opening its node
// blocks; ctx ends the wait, and what was opened late is closed again.
//
// The user needs read and write access to the node, /dev/bus/usb/BBB/DDD; the cause of an ErrPermission names its owner
// and mode.
func (b *Backend) Open(ctx context.Context, device usbtransport.DeviceInfo, number uint8) (usbtransport.Interface, error) {
	if ctx.Err() != nil {
		return nil, openError(device, usbtransport.ContextKind(ctx), nil)
	}
	type result struct {
		opened *claimed
		err    error
	}
	results := make(chan result, 1)
	go func() {
		opened, err := b.open(ctx, device, number)
		results <- result{opened, err}
	}()
	select {
	case r := <-results:
		if r.err != nil {
			return nil, r.err
		}
		return r.opened, nil
	case <-ctx.Done():
		go func() {
			if r := <-results; r.opened != nil {
				r.opened.Close()
			}
		}()
		return nil, openError(device, usbtransport.ContextKind(ctx), nil)
	}
}

func (b *Backend) open(ctx context.Context, device usbtransport.DeviceInfo, number uint8) (*claimed, error) {
	info, err := b.current(device)
	if err != nil {
		return nil, err
	}
	if info.Descriptors == nil {
		return nil, openError(info, usbtransport.ErrIO, info.Unreadable)
	}
	endpoints, err := usbtransport.EndpointsOf(info.Descriptors, number)
	if err != nil {
		return nil, openError(info, usbtransport.ErrInvalid, err)
	}
	path := b.nodePath(info)
	n, err := b.openNode(path)
	if err != nil {
		err = b.nodeError(info, path, err)
		if errors.Is(err, usbtransport.ErrPermission) {
			b.refusals.add(claim{info.Key, number}, func() bool { return !b.stillThere(info) || accessible(path) })
		}
		return nil, err
	}
	if err := b.claim(ctx, n, info, number); err != nil {
		n.close()
		return nil, err
	}
	b.refusals.remove(claim{info.Key, number})
	return newClaimed(info, number, endpoints, n, b.log), nil
}

// current reads the device anew and checks that it still is the plug-in that the caller means.
func (b *Backend) current(device usbtransport.DeviceInfo) (usbtransport.DeviceInfo, error) {
	info, err := b.sysfs.device(device.PortPath)
	if err == nil && info.Key != device.Key {
		err = errors.New("another device is plugged in there now")
	}
	if err != nil {
		return info, openError(device, usbtransport.ErrRemoved, err)
	}
	return info, nil
}

// claim claims the interface on an open node, and makes sure that the node is that of the device: an address may have been
// given to another device before the node was opened, but not while the old one still has its name.
func (b *Backend) claim(ctx context.Context, n node, info usbtransport.DeviceInfo, number uint8) error {
	if !b.stillThere(info) {
		return openError(info, usbtransport.ErrRemoved, nil)
	}
	err := n.claim(number)
	switch {
	case err == nil:
		return nil
	case isGone(err):
		return openError(info, usbtransport.ErrRemoved, err)
	case errors.Is(err, unix.EBUSY):
		b.refusals.add(claim{info.Key, number}, func() bool { return !b.stillThere(info) || !b.sysfs.bound(info, number) })
		return openError(info, usbtransport.ErrBusy, &usbtransport.BusyError{Holders: b.holders(ctx, n, info, number)})
	}
	return openError(info, kindOf(err), err)
}

// holders says who keeps an interface: its kernel driver, or the processes that have the node open.
func (b *Backend) holders(ctx context.Context, n node, info usbtransport.DeviceInfo, number uint8) []usbtransport.Holder {
	driver, err := n.driver(number)
	if err == nil && driver != usbfsDriver {
		return []usbtransport.Holder{{Driver: driver}}
	}
	holders := processes(ctx, b.procRoot, b.nodePath(info), n.descriptor())
	if len(holders) == 0 {
		holders = []usbtransport.Holder{{Driver: usbfsDriver}} // a process of another user
	}
	return holders
}

// stillThere reports whether a device is plugged in and has not been replaced.
func (b *Backend) stillThere(info usbtransport.DeviceInfo) bool {
	key, _, _, err := b.sysfs.identity(info.PortPath)
	return err == nil && key == info.Key
}

// accessible reports whether this process may open a node.
func accessible(path string) bool {
	return unix.Faccessat(unix.AT_FDCWD, path, unix.R_OK|unix.W_OK, unix.AT_EACCESS) == nil
}

func (b *Backend) nodePath(info usbtransport.DeviceInfo) string {
	return filepath.Join(b.devRoot, "bus/usb", fmt.Sprintf("%03d", info.Bus), fmt.Sprintf("%03d", info.Address))
}

// nodeError says why a node can't be opened, in words from which the user can tell what to change.
func (b *Backend) nodeError(info usbtransport.DeviceInfo, path string, err error) error {
	if isGone(err) || !b.stillThere(info) {
		return openError(info, usbtransport.ErrRemoved, err)
	}
	switch {
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return openError(info, usbtransport.ErrPermission, fmt.Errorf("%s%s: %w", path, access(path), err))
	case errors.Is(err, unix.ENOENT):
		// The device is there and its node is not: a container that was not given it. To its user that is the same.
		return openError(info, usbtransport.ErrPermission, fmt.Errorf("%s does not exist, though the device does: %w", path, err))
	}
	return openError(info, kindOf(err), fmt.Errorf("%s: %w", path, err))
}

// access describes who may open a file: " (owner root, group root, mode 0664)".
func access(path string) string {
	status, err := os.Stat(path)
	if err != nil {
		return ""
	}
	system, ok := status.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	owner, group := strconv.Itoa(int(system.Uid)), strconv.Itoa(int(system.Gid))
	if u, err := user.LookupId(owner); err == nil {
		owner = u.Username
	}
	if g, err := user.LookupGroupId(group); err == nil {
		group = g.Name
	}
	return fmt.Sprintf(" (owner %s, group %s, mode %04o)", owner, group, status.Mode().Perm())
}

func openError(device usbtransport.DeviceInfo, kind, cause error) error {
	return &usbtransport.Error{Op: "open", Device: device.PortPath, Kind: kind, Cause: cause}
}
