package capture

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/goccid/goccid/apdu"
	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/usbtransport"
)

// HideSecrets replaces PINs by asterisks, in transfers and in the comments of a Recorder, as a Recorder does while writing:
// for captures that other programs have made, and for recordings with secrets. What is hidden already stays as it is.
// It can't know PINs in comments of other origin.
func (c *Capture) HideSecrets() {
	for _, list := range c.transfersOfDevices() {
		hideTransfers(list)
	}
	for i := range c.Transfers {
		for k, comment := range c.Transfers[i].Comments {
			c.Transfers[i].Comments[k] = hideComment(comment)
		}
	}
}

// transfersOfDevices groups the capture's transfers. Those to address 0 are a group too: nothing says that they hold no PIN.
func (c *Capture) transfersOfDevices() map[[2]int][]*Transfer {
	groups := map[[2]int][]*Transfer{}
	for i := range c.Transfers {
		t := &c.Transfers[i]
		key := [2]int{t.Bus, t.Address}
		groups[key] = append(groups[key], t)
	}
	return groups
}

// effect is the packet with which a transfer's data reaches the other side.
func (t *Transfer) effect() int {
	if t.In() && t.Completed != 0 {
		return t.Completed
	}
	return t.Packet()
}

// hideTransfers masks what is secret in the transfers of one device.
func hideTransfers(list []*Transfer) {
	slices.SortStableFunc(list, func(a, b *Transfer) int { return cmp.Compare(a.effect(), b.effect()) })
	interfaces := interfacesByEndpoint(list)
	redactors := map[int]*redactor{}
	of := func(key int) *redactor {
		if redactors[key] == nil {
			redactors[key] = newRedactor()
		}
		return redactors[key]
	}
	for _, t := range list {
		number, known := interfaces[t.Endpoint]
		switch {
		case t.Type == usbtransport.TransferControl:
			of(int(uint8(t.Setup.Index))).control(t)
		case t.Type != usbtransport.TransferBulk:
		case t.In() && known:
			of(number).learn(t.Data)
		case t.In():
			// Whose answer it is isn't known, and a wrong guess could show a PIN.
		case known:
			of(number).bulk(t)
		default:
			of(-1 - int(t.Endpoint)).bulk(t)
		}
	}
}

// interfacesByEndpoint tells from a device's descriptors, as far as the capture has them, which interface an endpoint is of.
func interfacesByEndpoint(list []*Transfer) map[uint8]int {
	transfers := make([]Transfer, len(list))
	for i, t := range list {
		transfers[i] = *t
	}
	numbers := map[uint8]int{}
	descriptors, _ := usbtransport.ParseInterfaces(describe(transfers).Descriptors) // what stands before a fault is good
	for _, d := range descriptors {
		for _, e := range d.Endpoints {
			numbers[e.Address] = int(d.Number)
		}
	}
	return numbers
}

func (r *redactor) bulk(t *Transfer) {
	t.Data = r.hide(t.Data)
	// What the capture cut off was in this transfer, and is not in the next.
	r.rest = max(0, r.rest-int64(t.Missing))
}

func (r *redactor) control(t *Transfer) {
	switch {
	case t.In():
		r.learnRequest(t.Setup, t.Data)
	default:
		t.Data = r.hideRequest(t.Setup, t.Data)
	}
}

// hideRequest returns a copy of the data of a control request without secrets (ICCD 1.0 §6.2). An ICCD token has one slot, and in version B
// the high byte of wValue says whether a command goes on.
func (r *redactor) hideRequest(setup usbtransport.Setup, data []byte) []byte {
	out := slices.Clone(data)
	s := r.slot(0)
	switch {
	case setup.RequestType != ccid.RequestTypeOut:
		hideWhole(out, &s.envelope)
	case setup.Request == ccid.ICCDPowerOn, setup.Request == ccid.ICCDPowerOff:
		delete(r.slots, 0)
	case setup.Request == ccid.ICCDXfrBlock:
		s.hideBlock(out, setup.Value>>8, false)
	default:
		hideWhole(out, &s.envelope)
	}
	return out
}

// learnRequest takes the answer to a control request: in version A a status word in place of a procedure ends a command.
func (r *redactor) learnRequest(setup usbtransport.Setup, data []byte) {
	if setup.RequestType != ccid.RequestTypeIn {
		return
	}
	switch {
	case setup.Request == ccid.ICCDPowerOn:
		delete(r.slots, 0)
	case setup.Request == ccid.ICCDDataBlock && len(data) == 2:
		r.slot(0).ended()
	}
}

// commentedAPDU is what CommentAPDU writes.
var commentedAPDU = regexp.MustCompile(`^(slot \d+: APDU )([0-9A-F]{2}(?: [0-9A-F]{2})*)((?: … \(\d+ bytes\))?)$`)

// hideComment masks what is secret in a comment of CommentAPDU, as that does.
func hideComment(comment string) string {
	parts := commentedAPDU.FindStringSubmatch(comment)
	if parts == nil {
		return comment
	}
	command, err := hex.DecodeString(strings.ReplaceAll(parts[2], " ", ""))
	if err != nil {
		return comment
	}
	return parts[1] + spacedHex(apdu.Redact(command)) + parts[3]
}

func spacedHex(b []byte) string { return fmt.Sprintf("% X", b) }
