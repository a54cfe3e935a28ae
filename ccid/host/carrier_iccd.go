package host

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/usbtransport"
)

// Token reports whether the function is a token of ICCD version A or B, as Interface.Protocol says: its messages travel by control
// requests. Devices that call themselves ICCD but have bulk endpoints are driven by those.
func (f Function) Token() bool {
	return f.BulkIn == nil && f.BulkOut == nil && (f.Interface.Protocol == ccid.ProtocolICCDA || f.Interface.Protocol == ccid.ProtocolICCDB)
}

// asToken makes a token's class descriptor say what its carrier makes of it. A token is one slot with one card, sets it up by
// itself, has no keys, and takes a short APDU whole, whatever its descriptor says (ICCD 1.0 §5).
func asToken(class *ccid.ClassDescriptor, version uint8) {
	extended := class.DwFeatures.ExchangeLevel() == ccid.LevelExtendedAPDU
	class.BMaxSlotIndex, class.BMaxCCIDBusySlots, class.BPINSupport = 0, 1, 0
	class.BNumClockSupported, class.BNumDataRatesSupported = 0, 0
	class.DwFeatures &^= ccid.FeatureLevelTPDU | ccid.FeatureLevelShortAPDU | ccid.FeatureLevelExtendedAPDU
	class.DwFeatures |= ccid.FeatureAutoParameters | ccid.FeatureAutoVoltage | ccid.FeatureICCD
	class.DwMaxCCIDMessageLength = min(max(class.DwMaxCCIDMessageLength, usualMessage), ccid.HeaderLength+ccid.ICCDMaxData)
	// Which protocol the card speaks is nobody's business where APDUs go.
	class.DwProtocols = 1<<0 | 1<<1
	switch {
	case version == ccid.ProtocolICCDA:
		// It takes TPDUs of T=0, without the procedure bytes.
		class.DwFeatures |= ccid.FeatureLevelTPDU
		class.DwProtocols = 1 << 0
	case extended:
		class.DwFeatures |= ccid.FeatureLevelExtendedAPDU
	default:
		class.DwFeatures |= ccid.FeatureLevelShortAPDU
	}
}

// newCarrier returns the way in which the function's messages travel.
func (r *Reader) newCarrier(f Function) carrier {
	switch {
	case !f.Token():
		return r.swallowing(newBulk(r.gate, f, min(restWait, r.deadlines.limits.Silence)))
	case f.Interface.Protocol == ccid.ProtocolICCDA:
		return newICCDA(r.gate, f.Interface.Number)
	}
	return newICCDB(r.gate, f.Interface.Number)
}

// stage is a part of an exchange with a token: at most one transfer or one wait. It returns the response, or the stage that
// is next; or both, where the response is a time extension.
type stage func(ctx context.Context) (*ccid.Response, stage, error)

// token is what the versions of ICCD have each in its own way: the first stage of each command.
type token interface {
	powerOn(ctx context.Context) (*ccid.Response, stage, error)
	status(ctx context.Context) (*ccid.Response, stage, error)
	xfrBlock(ctx context.Context) (*ccid.Response, stage, error)
	// abandon waits for the end of an exchange that was given up, and drops what came of it.
	abandon(ctx context.Context) (*ccid.Response, stage, error)
}

// iccd carries messages in the control requests of ICCD 1.0, which have neither number nor length, and of which the token does
// one at a time. So a command is sent when its response is waited for, by whoever receives, one stage after the other. What is
// not a request of ICCD is answered as a reader answers that does not know the command.
//
// All but send is for one goroutine at a time: the one that reads for the dispatcher or, while none does, the one that repairs.
type iccd struct {
	gate     gate
	number   uint8             // of the interface, for wIndex
	commands chan ccid.Command // room for one: a newer one takes its place
	token    token
	command  ccid.Command // under way
	next     stage        // of it, nil for none
	buf      [ccid.ICCDMaxData]byte

	known   bool // the token has been brought to a state that we know
	powered bool // the card has answered to reset, and nothing has ended its session since
	open    bool // the token may be at a command whose answer nobody has fetched
	// idle is the wait before the last look at a token that was at work, unreported how long it has been since a time extension
	// told of that.
	idle, unreported time.Duration
}

var _ carrier = (*iccd)(nil)

func newICCD(g gate, number uint8) *iccd {
	return &iccd{gate: g, number: number, commands: make(chan ccid.Command, 1)}
}

// send leaves a command to whoever receives.
func (c *iccd) send(_ context.Context, command ccid.Command) error {
	select {
	case <-c.commands:
	default:
	}
	c.commands <- command
	return nil
}

// receive carries out the command that was sent last, up to its answer or a time extension. What is left of an older one that
// nobody waits for any more is not carried out.
func (c *iccd) receive(ctx context.Context) (ccid.Response, error) {
	if err := c.take(ctx); err != nil {
		return ccid.Response{}, err
	}
	for {
		resp, next, err := c.next(ctx)
		c.next = next
		if err != nil {
			c.finish()
			return ccid.Response{}, err
		}
		if resp == nil {
			continue
		}
		kind, _ := c.command.Type.ResponseType()
		resp.Type, resp.Slot, resp.Seq = kind, c.command.Slot, c.command.Seq
		if next == nil {
			c.finish()
		}
		return *resp, nil
	}
}

// take sees to it that there is a stage to go on with.
func (c *iccd) take(ctx context.Context) error {
	select {
	case command := <-c.commands:
		c.start(command)
		return nil
	default:
	}
	if c.next != nil {
		return nil
	}
	select {
	case command := <-c.commands:
		c.start(command)
		return nil
	case <-ctx.Done():
		return usbtransport.ContextKind(ctx)
	}
}

func (c *iccd) start(command ccid.Command) {
	c.command, c.next, c.idle, c.unreported = command, c.begin, 0, 0
}

// finish forgets the command, which may hold a PIN, and what the token said.
func (c *iccd) finish() {
	c.command, c.next = ccid.Command{}, nil
}

// begin is the first stage of every command.
func (c *iccd) begin(ctx context.Context) (*ccid.Response, stage, error) {
	if !c.known {
		// Whoever had the token before us may have left it in the middle of something.
		if err := c.cutPower(ctx); err != nil && !errors.Is(err, usbtransport.ErrStalled) {
			return nil, nil, err
		}
		c.known = true
	}
	switch c.command.Type {
	case ccid.TypeIccPowerOn:
		return nil, c.coldStart, nil
	case ccid.TypeIccPowerOff:
		return nil, c.powerOff, nil
	case ccid.TypeAbort:
		if c.open {
			return nil, c.token.abandon, nil
		}
		return nil, c.token.status, nil
	case ccid.TypeGetSlotStatus:
		if c.open {
			return c.failure(ccid.ErrorSlotBusy), nil, nil
		}
		return nil, c.token.status, nil
	case ccid.TypeXfrBlock:
		switch {
		case c.open:
			return c.failure(ccid.ErrorSlotBusy), nil, nil
		case !c.powered:
			return c.failure(ccid.ErrorICCMute), nil, nil
		}
		return nil, c.token.xfrBlock, nil
	}
	return c.failure(ccid.ErrorCommandNotSupported), nil, nil
}

// cutPower ends the card's session and whatever the token is at.
func (c *iccd) cutPower(ctx context.Context) error {
	if err := c.out(ctx, ccid.ICCDPowerOff, 0, nil); err != nil {
		return err
	}
	c.open, c.powered = false, false
	return nil
}

// coldStart: a token knows no warm reset.
func (c *iccd) coldStart(ctx context.Context) (*ccid.Response, stage, error) {
	return nil, c.token.powerOn, c.cutPower(ctx)
}

func (c *iccd) powerOff(ctx context.Context) (*ccid.Response, stage, error) {
	return nil, c.token.status, c.cutPower(ctx)
}

// icc is the card's state as far as the host has made it. A token always has its card.
func (c *iccd) icc() ccid.ICCStatus {
	if c.powered {
		return ccid.ICCActive
	}
	return ccid.ICCInactive
}

// answer is the response to the command under way, for receive to address.
func (c *iccd) answer(data []byte) *ccid.Response {
	return &ccid.Response{Status: ccid.NewStatus(c.icc(), ccid.CommandOK), Data: data}
}

func (c *iccd) failure(code ccid.ErrorCode) *ccid.Response {
	return &ccid.Response{Status: ccid.NewStatus(c.icc(), ccid.CommandFailed), Error: code}
}

// Bounds of the wait before the next look at a token that is at work and leaves its length to us, and how often the caller is
// told that it lives.
const (
	leastIdle     = 10 * time.Millisecond
	mostIdle      = 80 * time.Millisecond
	extensionEach = 80 * time.Millisecond
)

// again is the way on while the token is at work: to wait for as long as it says, 0 for as we like, and then to look again.
// Each look that finds it at work is a sign of life, of which the dispatcher gets to know from time to time.
func (c *iccd) again(delay time.Duration, look stage) (*ccid.Response, stage, error) {
	if delay <= 0 {
		c.idle = min(max(2*c.idle, leastIdle), mostIdle)
		delay = c.idle
	}
	wait := func(ctx context.Context) (*ccid.Response, stage, error) {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil, look, nil
		case <-ctx.Done():
			return nil, nil, usbtransport.ContextKind(ctx)
		}
	}
	if c.unreported += delay; c.unreported < extensionEach {
		return nil, wait, nil
	}
	c.unreported = 0
	return &ccid.Response{Status: ccid.NewStatus(ccid.ICCActive, ccid.CommandTimeExtension), Error: 1}, wait, nil
}

// out makes a request that sends data.
func (c *iccd) out(ctx context.Context, request uint8, value uint16, data []byte) error {
	n, err := c.gate.control(ctx, usbtransport.Setup{
		RequestType: ccid.RequestTypeOut, Request: request, Value: value, Index: uint16(c.number),
	}, data)
	if err == nil && n != len(data) {
		return fmt.Errorf("%w: %d of %d bytes of request 0x%02X sent", usbtransport.ErrIO, n, len(data), request)
	}
	return err
}

// in makes a request that fetches at most most bytes, which are valid until the next one.
func (c *iccd) in(ctx context.Context, request uint8, most int) ([]byte, error) {
	n, err := c.gate.control(ctx, usbtransport.Setup{
		RequestType: ccid.RequestTypeIn, Request: request, Index: uint16(c.number),
	}, c.buf[:most])
	if err != nil {
		return nil, err
	}
	if n < 0 || n > most {
		return nil, fmt.Errorf("%w: %d bytes to request 0x%02X for %d", usbtransport.ErrOverflow, n, request, most)
	}
	return c.buf[:n], nil
}

// requestAbort does nothing: ICCD has no such request, and what the abort message becomes waits for the token's answer.
func (c *iccd) requestAbort(context.Context, uint8, uint8) error { return nil }

// clearIn and clearOut do nothing: a halt of the control pipe ends with the next request (USB 2.0 §8.5.3.4).
func (c *iccd) clearIn(context.Context) error { return nil }

func (c *iccd) clearOut(context.Context) error { return nil }

func (c *iccd) reset(ctx context.Context) error {
	if err := c.gate.reset(ctx); err != nil {
		return err
	}
	c.open, c.powered, c.known = false, false, false
	return nil
}
