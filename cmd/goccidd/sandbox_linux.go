package main

import (
	"path/filepath"

	"github.com/landlock-lsm/go-landlock/landlock"
	landlocksys "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/psx"
)

func features() []string {
	return []string{"polkit", "systemd", "usbfs", "usbip", "virtual", "prometheus", "landlock"}
}

// sandbox takes from this process what it does not need: new privileges, and files that are none of its business. It keeps
// USB devices, the folders of its sockets, its configuration, and what tells who a client is.
//
// Where the kernel lacks Landlock, or part of it, the rest holds.
func (d *daemon) sandbox() {
	if !d.settings.Sandbox {
		return
	}
	// Landlock sets no_new_privs as well; without it, this is what is left. psx reaches threads of C libraries, too.
	if _, _, errno := psx.Syscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		d.log.Debugf("sandbox: no_new_privs: %v", errno)
	}
	s := d.settings
	writable := []string{filepath.Dir(s.Socket), filepath.Dir(s.pidFile()), filepath.Dir(s.statusSocket())}
	if network, path := s.Metrics.Listen.network(); network == "unix" {
		writable = append(writable, filepath.Dir(path))
	}
	if s.Readers.Control != "" {
		writable = append(writable, filepath.Dir(s.Readers.Control))
	}
	readable := []string{"/proc", "/sys", "/run/udev", "/etc", "/usr/share/zoneinfo", s.Readers.QuirksDir}
	for _, file := range []string{d.program.cli.config, d.program.defaultConfig} {
		if file != "" {
			readable = append(readable, filepath.Dir(file))
		}
	}
	version, err := landlocksys.LandlockGetABIVersion()
	if err != nil {
		d.log.Debugf("sandbox: this kernel has no Landlock: %v", err)
		return
	}
	err = landlock.V6.BestEffort().RestrictPaths(
		landlock.RWDirs(writable...).IgnoreIfMissing(),
		landlock.RODirs(readable...).IgnoreIfMissing(),
		landlock.RWDirs("/dev/bus/usb").WithIoctlDev().IgnoreIfMissing(),
		landlock.RWFiles("/dev/null", "/dev/log").IgnoreIfMissing(),
		landlock.RWDirs("/run/dbus", "/run/systemd").IgnoreIfMissing(),
	)
	if err != nil {
		d.log.Debugf("sandbox: Landlock %d: %v", version, err)
		return
	}
	d.log.Debugf("sandbox: Landlock %d", version)
}
