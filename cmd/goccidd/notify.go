//go:build unix

package main

import (
	sd "github.com/coreos/go-systemd/v22/daemon"
)

// notifier tells the service manager of our life (sd_notify). Without one it does nothing; nobody can do anything about
// a failure, which is the service manager's to notice.
type notifier struct{ enabled bool }

func newNotifier(getenv func(string) string) notifier { return notifier{getenv("NOTIFY_SOCKET") != ""} }

func (n notifier) ready() { n.send(sd.SdNotifyReady) }

func (n notifier) stopping() { n.send(sd.SdNotifyStopping) }

// reloading has a time stamp, which Type=notify-reload needs.
func (n notifier) reloading() {
	n.send(sd.SdNotifyReloading + "\n" + sd.SdNotifyMonotonicUsec())
}

func (n notifier) send(state string) {
	if n.enabled {
		_, _ = sd.SdNotify(false, state)
	}
}
