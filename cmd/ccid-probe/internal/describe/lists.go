package describe

import (
	"context"
	"errors"
	"time"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/usbtransport"
)

// Lists are what a reader answers to GET_CLOCK_FREQUENCIES and GET_DATA_RATES (CCID 1.1 §5.3.2, §5.3.3).
type Lists struct {
	// ClockFrequencies are in kHz, DataRates in bit/s. Each is nil where the reader refuses to tell.
	ClockFrequencies, DataRates []uint32
}

const (
	// maxListed is how many entries are asked for: the descriptor's count is a byte, and often wrong.
	maxListed = 256
	// listWait bounds one request. Readers answer in milliseconds.
	listWait = time.Second
)

// AskLists asks a reader for its lists, also where the descriptor says that it has none: many have. A reader that refuses
// or does not answer has no list; the error is that of a removal, or of ctx.
func AskLists(ctx context.Context, reader usbtransport.Interface) (Lists, error) {
	clocks, err := askList(ctx, reader, ccid.RequestGetClockFrequencies)
	if err != nil {
		return Lists{}, err
	}
	rates, err := askList(ctx, reader, ccid.RequestGetDataRates)
	return Lists{ClockFrequencies: clocks, DataRates: rates}, err
}

func askList(ctx context.Context, reader usbtransport.Interface, request uint8) ([]uint32, error) {
	limited, cancel := context.WithTimeout(ctx, listWait)
	defer cancel()
	buf := make([]byte, 4*maxListed)
	n, err := reader.Control(limited, usbtransport.Setup{RequestType: ccid.RequestTypeIn, Request: request, Index: uint16(reader.Number())}, buf)
	if ctx.Err() != nil || errors.Is(err, usbtransport.ErrRemoved) {
		return nil, err
	}
	if err != nil {
		return nil, nil
	}
	return ccid.ParseFrequencies(buf[:min(n, len(buf))]), nil
}

// ListFindings lists what looks wrong in the lists, beside what the descriptor says of them.
func ListFindings(d *ccid.ClassDescriptor, l Lists) []Finding {
	var list findings
	list.count("bNumClockSupported", d.BNumClockSupported, l.ClockFrequencies)
	list.count("bNumDataRatesSupported", d.BNumDataRatesSupported, l.DataRates)
	list.outside("GET_CLOCK_FREQUENCIES", l.ClockFrequencies, d.DwMaximumClock, "dwMaximumClock")
	list.outside("GET_DATA_RATES", l.DataRates, d.DwMaxDataRate, "dwMaxDataRate")
	return list
}

func (f *findings) count(field string, announced uint8, got []uint32) {
	f.addIf(len(got) == 0 && announced > 0, field, "is %d, but the reader does not give the list", announced)
	f.addIf(len(got) > 0 && len(got) != int(announced), field, "is %d, but the reader gives a list of %d", announced, len(got))
}

// outside reports entries of a list that are above the descriptor's maximum.
func (f *findings) outside(request string, list []uint32, maximum uint32, field string) {
	above := 0
	for _, v := range list {
		if v > maximum {
			above++
		}
	}
	f.addIf(above > 0, request, "%d of %d entries are above %s", above, len(list), field)
}
