package main

import (
	"errors"
	"strings"

	"github.com/goccid/goccid/cmd/ccid-probe/internal/advice"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/usbtransport/usbip"
)

// usbipName is the name of a usbip.Backend.
const usbipName = "usbip"

// elsewhere reports whether the flags name readers that are not at this machine's USB.
func (o options) elsewhere() bool { return len(o.virtual)+len(o.usbip) > 0 }

// elsewhereFlags are the flags that name them, for a command line that is proposed.
func (o options) elsewhereFlags() string {
	var b strings.Builder
	for _, server := range o.usbip {
		b.WriteString(" --usbip " + quoted(server))
	}
	for _, spec := range o.virtual {
		b.WriteString(" --virtual " + quoted(spec))
	}
	return b.String()
}

// openUSBIP makes a client of a server, given as HOST[:PORT][/BUSID].
func (p *program) openUSBIP(server string) (usbtransport.Backend, error) {
	address, busID, err := usbip.ParseTarget(server)
	if err != nil {
		return nil, usage("As in: --usbip 192.0.2.7:3240, or --usbip 192.0.2.7/1-1.2 for the device with that bus ID", "--usbip: %w", err)
	}
	return usbip.New(usbip.Options{Address: address, BusID: busID, Logger: p.log}), nil
}

// adviceOnImport says what can be done about a reader that a server does not give.
func adviceOnImport(err error) []string {
	if errors.Is(err, usbtransport.ErrBusy) {
		return advice.ImportedElsewhere()
	}
	return nil
}
