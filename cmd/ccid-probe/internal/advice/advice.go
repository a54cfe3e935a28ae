// Package advice turns what stands in a reader's way into what the user can do about it, as lines of text.
package advice

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/goccid/goccid/usbtransport"
)

// TryVirtual is a command line that works on every machine.
const TryVirtual = "ccid-probe list --virtual reader=gemalto-pc-twin,level=tpdu,card=t1"

// Machine is what can be known of the machine that the program runs on.
type Machine struct {
	// GOOS is the operating system, as in runtime.GOOS.
	GOOS string
	// Root has the machine's files from / on.
	Root fs.FS
}

func (m Machine) exists(name string) bool {
	_, err := fs.Stat(m.Root, name)
	return err == nil
}

// containerMarks are files that container engines put into their containers.
var containerMarks = []string{".dockerenv", "run/.containerenv", "run/systemd/container"}

// InContainer reports whether this looks like a container, where a device must be handed in.
func (m Machine) InContainer() bool {
	for _, name := range containerMarks {
		if m.exists(name) {
			return true
		}
	}
	return false
}

// InWSL reports whether this is Linux below Windows, which keeps the USB devices for itself.
func (m Machine) InWSL() bool {
	version, err := fs.ReadFile(m.Root, "proc/version")
	return err == nil && strings.Contains(strings.ToLower(string(version)), "microsoft")
}

// Open says what to do about a reader that can't be opened.
func (m Machine) Open(device usbtransport.DeviceInfo, err error) []string {
	var busy *usbtransport.BusyError
	switch {
	case unreachable(err) && m.nodeIsMissing(device):
		return m.handIn(node(device) + " does not exist here, though the kernel knows the device.")
	case errors.As(err, &busy):
		var lines []string
		for _, h := range busy.Holders {
			lines = append(lines, holder(h)...)
		}
		return lines
	case errors.Is(err, usbtransport.ErrBusy):
		return []string{"Another program uses the reader. Who it is shows: sudo fuser -v " + node(device)}
	case errors.Is(err, usbtransport.ErrPermission):
		return m.permission(device)
	}
	return nil
}

// unreachable reports whether a node that is missing may be behind the error.
func unreachable(err error) bool {
	return errors.Is(err, usbtransport.ErrRemoved) || errors.Is(err, usbtransport.ErrPermission) || errors.Is(err, fs.ErrNotExist)
}

// node is the device's file on Linux.
func node(d usbtransport.DeviceInfo) string {
	return fmt.Sprintf("/dev/bus/usb/%03d/%03d", d.Bus, d.Address)
}

// nodeIsMissing reports whether the kernel lists USB devices but their files are not there, as in a container.
func (m Machine) nodeIsMissing(d usbtransport.DeviceInfo) bool {
	return m.GOOS == "linux" && m.exists("sys/bus/usb/devices") && !m.exists(strings.TrimPrefix(node(d), "/"))
}

// handIn says how a device gets into a container or a virtual machine.
func (m Machine) handIn(what string) []string {
	switch {
	case m.InWSL():
		return []string{what, "This is WSL: on Windows run \"usbipd list\", then \"usbipd attach --wsl --busid BUSID\"."}
	case m.InContainer():
		return []string{what, "This is a container: start it with --device /dev/bus/usb (one plug-in) or -v /dev/bus/usb:/dev/bus/usb with --privileged."}
	}
	return []string{what, "In a container or a virtual machine the reader must be handed in."}
}

func holder(h usbtransport.Holder) []string {
	switch {
	case h.Process == "pcscd":
		return []string{
			fmt.Sprintf("The PC/SC daemon (PID %d) drives the reader. To use it directly meanwhile:", h.PID),
			"  sudo systemctl stop pcscd.socket pcscd.service",
		}
	case h.Process == "scdaemon":
		return []string{fmt.Sprintf("GnuPG's scdaemon (PID %d) drives the reader. To make it let go:", h.PID), "  gpgconf --kill scdaemon"}
	case h.PID != 0:
		return []string{fmt.Sprintf("%s (PID %d) uses the reader: end it, or wait until it is done.", h.Process, h.PID)}
	case h.Driver != "" && h.Driver != "usbfs":
		return []string{
			fmt.Sprintf("The kernel's driver %s took the reader. To take it away until the next start:", h.Driver),
			"  sudo modprobe -r " + h.Driver,
			fmt.Sprintf("For good: echo 'blacklist %s' | sudo tee /etc/modprobe.d/blacklist-%s.conf", h.Driver, h.Driver),
		}
	}
	return []string{"Another user's program uses the reader; run as root to see which."}
}

func (m Machine) permission(d usbtransport.DeviceInfo) []string {
	if m.GOOS != "linux" {
		return []string{"This user may not open the device. Try as administrator."}
	}
	return []string{
		"This user may not open " + node(d) + ". Root may: try with sudo.",
		"To allow it for whoever sits at the machine, put this line into /etc/udev/rules.d/70-smartcard-reader.rules:",
		fmt.Sprintf("  SUBSYSTEM==\"usb\", ATTR{idVendor}==\"%04x\", ATTR{idProduct}==\"%04x\", TAG+=\"uaccess\"", d.IDVendor, d.IDProduct),
		"then run \"sudo udevadm control --reload\" and plug the reader in again.",
		"For ssh sessions and services use MODE=\"0660\", GROUP=\"plugdev\" in place of TAG.",
	}
}
