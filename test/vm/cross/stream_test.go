package cross

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/t1"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/usbtransport/capture"
)

// exchange is a message of the host's and what the reader answers, or a request on endpoint 0.
type exchange struct {
	command ccid.Command
	answers []ccid.Response
	// control is "", or the request; command is not used then.
	control string
}

// exchanges returns what a recorded host said to the reader and what that answered, without what depends on time: answers that
// ask for more of it, GetSlotStatus by which a host looks for cards every now and then, and what the interrupt endpoint says. bSeq tells
// which answer is to which command, and is left out then. Standard requests are the kernel's.
func exchanges(recording []byte) ([]exchange, error) {
	c, err := capture.Read(bytes.NewReader(recording))
	if err != nil {
		return nil, err
	}
	var list []exchange
	bySeq := map[[2]uint8]int{} // by slot and bSeq
	var message partial
	for _, transfer := range c.Transfers {
		switch {
		case transfer.Type == usbtransport.TransferControl && transfer.HasSetup && transfer.Setup.RequestType&0x60 == 0x20:
			list = append(list, exchange{control: requestName(transfer.Setup)})
		case transfer.Type != usbtransport.TransferBulk || len(transfer.Data) == 0:
		case transfer.In():
			message = append(message, transfer.Data...)
			if whole := message.length(); len(message) < whole {
				continue
			}
			r, err := ccid.ParseResponse(message)
			if err != nil {
				return nil, fmt.Errorf("packet %d: %w", transfer.Completed, err)
			}
			message = nil
			if i, ok := bySeq[[2]uint8{r.Slot, r.Seq}]; ok && r.Status.Command() != ccid.CommandTimeExtension {
				r.Seq = 0
				list[i].answers = append(list[i].answers, r)
			}
		default:
			command, err := ccid.ParseCommand(transfer.Data)
			if err != nil {
				return nil, fmt.Errorf("packet %d: %w", transfer.Packet(), err)
			}
			bySeq[[2]uint8{command.Slot, command.Seq}] = len(list)
			command.Seq = 0
			list = append(list, exchange{command: command})
		}
	}
	list = slices.DeleteFunc(list, func(e exchange) bool { return e.control == "" && e.command.Type == ccid.TypeGetSlotStatus })
	return withoutIdlePower(list), nil
}

// partial is a message of the reader's as far as it has come. A host may read it by several transfers.
type partial []byte

// length is that of the whole message, as far as it is known.
func (p partial) length() int {
	const header = 10
	if len(p) < header {
		return header
	}
	return header + int(binary.LittleEndian.Uint32(p[1:]))
}

func requestName(s usbtransport.Setup) string {
	switch s.Request {
	case ccid.RequestAbort:
		return "ABORT"
	case ccid.RequestGetClockFrequencies:
		return "GET_CLOCK_FREQUENCIES"
	case ccid.RequestGetDataRates:
		return "GET_DATA_RATES"
	}
	return fmt.Sprintf("request 0x%02X", s.Request)
}

// withoutIdlePower leaves out where the card gets power and loses it again unused: pcscd does that when its client is slow.
func withoutIdlePower(list []exchange) []exchange {
	var kept []exchange
	for _, e := range list {
		last := len(kept) - 1
		if last >= 0 && e.control == "" && e.command.Type == ccid.TypeIccPowerOff && kept[last].command.Type == ccid.TypeIccPowerOn {
			kept = kept[:last]
			continue
		}
		kept = append(kept, e)
	}
	return kept
}

// joinCharacters makes one exchange of what is sent at character level and of all that is read until the next is sent: how
// many characters a host asks for with one message (wLevelParameter) is its own affair.
func joinCharacters(list []exchange) []exchange {
	var joined []exchange
	for _, e := range list {
		isTransfer := e.control == "" && e.command.Type == ccid.TypeXfrBlock && len(e.answers) == 1
		if last := len(joined) - 1; isTransfer && len(e.command.Data) == 0 && last >= 0 && len(joined[last].answers) == 1 {
			joined[last].answers[0].Data = append(joined[last].answers[0].Data, e.answers[0].Data...)
			continue
		}
		if isTransfer {
			e.command.Specific = [3]byte{}
			e.answers = []ccid.Response{e.answers[0]}
			e.answers[0].Data = bytes.Clone(e.answers[0].Data)
		}
		joined = append(joined, e)
	}
	return joined
}

// joinBlocks makes one exchange of the T=1 blocks that carry a command and its response: how long blocks are follows from what IFSD the
// host has announced. S-blocks stay.
func joinBlocks(list []exchange) []exchange {
	var joined []exchange
	var current *exchange // the command of which blocks are under way
	for _, e := range list {
		if e.control != "" || e.command.Type != ccid.TypeXfrBlock || len(e.answers) != 1 {
			joined = append(joined, e)
			continue
		}
		sent, sentErr := t1.ParseBlock(e.command.Data, t1.LRC)
		got, gotErr := t1.ParseBlock(e.answers[0].Data, t1.LRC)
		if sentErr != nil || gotErr != nil || sent.PCB.Kind() == t1.Supervisory {
			joined = append(joined, e)
			continue
		}
		if current == nil {
			current = &exchange{command: e.command, answers: []ccid.Response{e.answers[0]}}
			current.command.Data, current.answers[0].Data = nil, nil
		}
		if sent.PCB.Kind() == t1.Information {
			current.command.Data = append(current.command.Data, sent.INF...)
		}
		if got.PCB.Kind() == t1.Information {
			current.answers[0].Data = append(current.answers[0].Data, got.INF...)
			if !got.PCB.More() {
				joined, current = append(joined, *current), nil
			}
		}
	}
	return joined
}

// same reports whether two exchanges are the same step of a session, perhaps with other details.
func (e exchange) same(other exchange) bool {
	if e.control != "" || other.control != "" {
		return e.control == other.control
	}
	if e.command.Type != other.command.Type || e.command.Slot != other.command.Slot {
		return false
	}
	return e.command.Type != ccid.TypeXfrBlock || bytes.Equal(e.command.Data, other.command.Data)
}

// String tells what is sent, with data that is not the application's.
func (e exchange) String() string {
	const shown = 12
	switch {
	case e.control != "":
		return e.control
	case len(e.command.Data) == 0:
		return fmt.Sprint(e.command.Type)
	case len(e.command.Data) > shown:
		return fmt.Sprintf("%v % X … (%d bytes)", e.command.Type, e.command.Data[:shown], len(e.command.Data))
	}
	return fmt.Sprintf("%v % X", e.command.Type, e.command.Data)
}

// differences compares two sessions field by field: libccid's and goccid's. Each difference is one line.
func differences(reference, ours []exchange) []string {
	var list []string
	for _, pair := range align(reference, ours) {
		switch {
		case pair.ours == nil:
			list = append(list, "only libccid: "+pair.reference.String())
		case pair.reference == nil:
			list = append(list, "only goccid: "+pair.ours.String())
		default:
			list = append(list, fields(*pair.reference, *pair.ours)...)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// fields compares two exchanges that are the same step.
func fields(reference, ours exchange) []string {
	var list []string
	kind := fmt.Sprint(ours.command.Type)
	compare := func(name string, a, b any) {
		if a != b {
			list = append(list, fmt.Sprintf("%s %s: libccid %v, goccid %v", kind, name, a, b))
		}
	}
	for i := range reference.command.Specific {
		compare(fmt.Sprintf("byte %d", 7+i), reference.command.Specific[i], ours.command.Specific[i])
	}
	if ours.command.Type == ccid.TypeSetParameters {
		compare("length", len(reference.command.Data), len(ours.command.Data))
		for i := range min(len(reference.command.Data), len(ours.command.Data)) {
			compare(fmt.Sprintf("abProtocolDataStructure[%d]", i), fmt.Sprintf("%02X", reference.command.Data[i]), fmt.Sprintf("%02X", ours.command.Data[i]))
		}
	} else {
		compare("abData", fmt.Sprintf("% X", reference.command.Data), fmt.Sprintf("% X", ours.command.Data))
	}
	compare("answers", len(reference.answers), len(ours.answers))
	for i := range min(len(reference.answers), len(ours.answers)) {
		a, b := reference.answers[i], ours.answers[i]
		compare("answer's bMessageType", a.Type, b.Type)
		compare("answer's bStatus", a.Status, b.Status)
		compare("answer's bError", a.Error, b.Error)
		compare("answer's byte 9", a.Specific, b.Specific)
		if ours.command.Type != ccid.TypeSetParameters { // repeats what was set
			compare("answer's abData", shortHex(a.Data), shortHex(b.Data))
		}
	}
	return list
}

// pair is a step of both sessions, or of one.
type pair struct{ reference, ours *exchange }

// align finds the longest common sequence of steps.
func align(reference, ours []exchange) []pair {
	length := make([][]int, len(reference)+1)
	for i := range length {
		length[i] = make([]int, len(ours)+1)
	}
	for i := len(reference) - 1; i >= 0; i-- {
		for j := len(ours) - 1; j >= 0; j-- {
			if reference[i].same(ours[j]) {
				length[i][j] = length[i+1][j+1] + 1
			} else {
				length[i][j] = max(length[i+1][j], length[i][j+1])
			}
		}
	}
	var pairs []pair
	i, j := 0, 0
	for i < len(reference) || j < len(ours) {
		switch {
		case i < len(reference) && j < len(ours) && reference[i].same(ours[j]):
			pairs = append(pairs, pair{&reference[i], &ours[j]})
			i, j = i+1, j+1
		case j == len(ours) || i < len(reference) && length[i+1][j] >= length[i][j+1]:
			pairs = append(pairs, pair{reference: &reference[i]})
			i++
		default:
			pairs = append(pairs, pair{ours: &ours[j]})
			j++
		}
	}
	return pairs
}

// wanted are the differences that are as they should be: a line of the table is the kind of reader (or * for all), the difference, and
// why, separated by " | ".
type wanted struct{ kind, difference, why string }

func parseWanted(table string) ([]wanted, error) {
	var list []wanted
	for line := range strings.Lines(table) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		cells := strings.Split(line, " | ")
		if len(cells) != 3 {
			return nil, fmt.Errorf("%q is not KIND | DIFFERENCE | WHY", line)
		}
		list = append(list, wanted{cells[0], cells[1], cells[2]})
	}
	return list, nil
}

func shortHex(b []byte) string {
	text := hex.EncodeToString(b[:min(len(b), 16)])
	if len(b) > 16 {
		text += "…" + hex.EncodeToString(b[len(b)-4:])
	}
	return text
}
