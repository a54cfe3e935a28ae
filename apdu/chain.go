package apdu

import "fmt"

// chainBit is bit 5 of CLA: "this command is not the last of a chain" (ISO/IEC 7816-4 §5.1.1.1).
const chainBit = 0x10

// Chained reports whether CLA says that more commands of the same chain follow. That is the meaning in the
// interindustry classes; proprietary classes, where bit 5 may mean anything, are taken to follow suit.
func (c Command) Chained() bool { return c.CLA&chainBit != 0 }

// Split cuts a command into a chain (ISO/IEC 7816-4 §5.1.1.1) whose commands carry at most maxData bytes each, 1..255,
// or 1..65,535 when c is Extended. All but the last have bit 5 of CLA set and expect no response data; the last has
// c's Ne. A command that fits is returned as it is. The parts' Data are parts of c.Data, not copies. When c is too long
// for short length fields and not Extended, as chaining exists for, Split makes short commands of it, so Ne must
// be at most 256.
//
// It returns an error wrapping ErrRange for a maxData or an Ne out of range, and ErrChain when c is itself part of a
// chain.
func Split(c Command, maxData int) ([]Command, error) {
	limit, maxNe := MaxShortData, MaxShortNe
	if c.Extended {
		limit, maxNe = MaxData, MaxNe
	}
	if maxData < 1 || maxData > limit {
		return nil, fmt.Errorf("%w: %d bytes for each command of a chain, 1..%d", ErrRange, maxData, limit)
	}
	if c.Ne < 0 || c.Ne > maxNe {
		return nil, fmt.Errorf("%w: Ne %d, at most %d", ErrRange, c.Ne, maxNe)
	}
	if c.Chained() {
		return nil, fmt.Errorf("%w: CLA %02X is already part of one", ErrChain, c.CLA)
	}
	chain := make([]Command, 0, len(c.Data)/maxData+1)
	for len(c.Data) > maxData {
		part := c
		part.CLA |= chainBit
		part.Data, part.Ne = c.Data[:maxData:maxData], 0
		chain = append(chain, part)
		c.Data = c.Data[maxData:]
	}
	return append(chain, c), nil
}

// Join makes one command of a complete chain. It returns an error wrapping ErrChain when the chain is empty, ends
// early, goes on after its end, or its commands don't belong together, and ErrRange for more than 65,535 data bytes.
func Join(chain []Command) (Command, error) {
	var j Joiner
	for i, c := range chain {
		whole, done, err := j.Add(c)
		if err != nil {
			return Command{}, err
		}
		if done {
			if i != len(chain)-1 {
				return Command{}, fmt.Errorf("%w: %d commands after the last", ErrChain, len(chain)-1-i)
			}
			return whole, nil
		}
	}
	return Command{}, fmt.Errorf("%w: the last command is missing", ErrChain)
}

// Joiner collects the commands of a chain as they come, as a card does. The zero value waits for a first command.
// It holds at most 65,535 bytes of data.
type Joiner struct {
	first Command
	data  []byte
	open  bool
}

// Add takes the next command. When it is the last of its chain (or stands alone), done is true and whole is the
// joined command: bit 5 of CLA cleared, the data put together, the last command's Ne, Extended when any of the commands
// was or when the data needs it. The data of a lone command is its own, that of a chain is a new slice.
//
// A command that does not continue the chain, with another CLA, INS, P1 or P2, is an error wrapping ErrChain; more
// than 65,535 data bytes are one wrapping ErrRange. After an error the Joiner has forgotten the chain and waits for a
// first command.
func (j *Joiner) Add(c Command) (whole Command, done bool, err error) {
	if !j.open && !c.Chained() {
		return c, true, nil
	}
	next := c
	next.CLA &^= chainBit
	if !j.open {
		*j = Joiner{first: next, open: true}
	}
	f := j.first
	if next.CLA != f.CLA || next.INS != f.INS || next.P1 != f.P1 || next.P2 != f.P2 {
		*j = Joiner{}
		return Command{}, false, fmt.Errorf("%w: %02X%02X%02X%02X does not continue %02X%02X%02X%02X", ErrChain,
			next.CLA, next.INS, next.P1, next.P2, f.CLA, f.INS, f.P1, f.P2)
	}
	if len(j.data)+len(c.Data) > MaxData {
		*j = Joiner{}
		return Command{}, false, fmt.Errorf("%w: a chain of more than %d data bytes", ErrRange, MaxData)
	}
	j.data = append(j.data, c.Data...)
	j.first.Extended = f.Extended || c.Extended
	if c.Chained() {
		return Command{}, false, nil
	}
	whole = j.first
	whole.Data, whole.Ne = j.data, c.Ne
	whole.Extended = whole.Extended || whole.NeedsExtended()
	*j = Joiner{}
	return whole, true, nil
}
