package host

import (
	"context"
	"fmt"

	"github.com/goccid/goccid/apdu"
	"github.com/goccid/goccid/atr"
	"github.com/goccid/goccid/t0"
)

// cardCapabilities is what a card says in its historical bytes of commands that are longer than a short APDU: the third
// software function table (ISO/IEC 7816-4:2013 §12.1.1.9).
type cardCapabilities struct {
	chaining       bool // CLA bit 5
	extendedLength bool // extended Lc and Le
}

func readCapabilities(historical []byte) cardCapabilities {
	for _, o := range atr.ParseHistorical(historical).Objects {
		if o.Tag == atr.TagCapabilities && len(o.Value) >= 3 {
			return cardCapabilities{chaining: o.Value[2]&0x80 != 0, extendedLength: o.Value[2]&0x40 != 0}
		}
	}
	return cardCapabilities{}
}

// inParts gives the card an extended command through a reader that takes short APDUs only, in a way that the card says it
// knows: what fits goes as a short APDU; longer data as a chain of commands or, with T=0, as the ENVELOPE commands that
// stand for extended APDUs there (ISO/IEC 7816-3:2006 §12.2.5). A long response is fetched with GET RESPONSE.
func (x shortAPDU) inParts(ctx context.Context, c apdu.Command, raw []byte) ([]byte, error) {
	can := readCapabilities(x.slot.atr.Historical)
	fits := len(c.Data) <= apdu.MaxShortData
	switch {
	case !fits && !can.chaining && can.extendedLength && x.slot.parameters.T == 0:
		return x.envelope(ctx, raw)
	case !fits && !can.chaining:
		return nil, fmt.Errorf("%w: %d bytes of data", ErrExtendedAPDU, len(c.Data))
	}
	short := c
	short.Extended, short.Ne = false, min(c.Ne, apdu.MaxShortNe)
	parts := []apdu.Command{short}
	if !fits {
		var err error
		if parts, err = apdu.Split(short, apdu.MaxShortData); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrExtendedAPDU, err)
		}
	}
	resp, err := x.chain(ctx, parts, apdu.Sensitive(raw))
	if err != nil {
		return nil, err
	}
	if resp, err = x.fetch(ctx, c, resp); err != nil {
		return nil, err
	}
	defer clear(resp.Data)
	return resp.Bytes()
}

// chain sends the commands of a chain and returns the response to the last one, or the first that ends the chain early.
func (x shortAPDU) chain(ctx context.Context, parts []apdu.Command, secret bool) (apdu.Response, error) {
	var resp apdu.Response
	for _, part := range parts {
		var err error
		if resp, err = x.exchange(ctx, part, secret); err != nil || resp.SW != swSuccess {
			return resp, err
		}
	}
	return resp, nil
}

const (
	swSuccess      apdu.StatusWord = 0x9000
	insGetResponse byte            = 0xC0
)

// fetch gets what a card announces with 61xx, as far as c asked for it.
func (x shortAPDU) fetch(ctx context.Context, c apdu.Command, resp apdu.Response) (apdu.Response, error) {
	for empty := 0; ; {
		n, more := resp.SW.Available()
		if !more || len(resp.Data) >= c.Ne {
			return resp, nil
		}
		want := min(n, c.Ne-len(resp.Data))
		next, err := x.exchange(ctx, apdu.Command{CLA: c.CLA, INS: insGetResponse, Ne: want}, false)
		switch {
		case err != nil:
			return apdu.Response{}, err
		case len(next.Data) > want:
			return apdu.Response{}, fmt.Errorf("%w: %d bytes, %d were asked for", ErrResponse, len(next.Data), want)
		case len(next.Data) == 0:
			if empty++; empty > maxEmptyBlocks {
				return apdu.Response{}, fmt.Errorf("%w: %d times nothing to fetch", ErrResponse, empty)
			}
		}
		resp = apdu.Response{Data: move(resp.Data, next.Data), SW: next.SW}
	}
}

func (x shortAPDU) exchange(ctx context.Context, c apdu.Command, secret bool) (apdu.Response, error) {
	command, err := c.Bytes()
	if err != nil {
		return apdu.Response{}, err
	}
	defer clear(command)
	response, err := x.one(ctx, command, secret)
	if err != nil {
		return apdu.Response{}, err
	}
	return apdu.ParseResponse(response)
}

// envelope maps the command as T=0 does. Its TPDUs, ENVELOPE with data and GET RESPONSE, are short APDUs as they are.
func (x shortAPDU) envelope(ctx context.Context, raw []byte) ([]byte, error) {
	engine, err := t0.New(t0.Config{Mapping: t0.MapAPDU, ClassGetResponse: t0.EchoClass, ClassEnvelope: t0.EchoClass})
	if err != nil {
		return nil, err
	}
	return (&transmitterT0{slot: x.slot, engine: engine, port: envelopeT0(x)}).transmit(ctx, raw)
}

// envelopeT0 takes the TPDUs of a command in ENVELOPEs to a reader that speaks T=0 itself.
type envelopeT0 shortAPDU

func (x envelopeT0) exchange(ctx context.Context, tpdu []byte, _ int, secret bool) ([]byte, error) {
	return shortAPDU(x).one(ctx, tpdu, secret)
}
