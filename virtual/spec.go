package virtual

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/goccid/goccid/ccid"
)

// Spec is a virtual reader as command lines describe it: KEY=VALUE, separated by commas.
//
//	reader=NAME    the model, as FindModel takes it (gemalto-pc-twin)
//	level=LEVEL    character, tpdu, short or extended: the exchange level (that of the model)
//	slots=N        1..8 (as many as the model has)
//	card=CARD      what is in a slot; given again, or joined by +, for the slots after it (t1 in slot 0, none in the others;
//	               t0 in a token of ICCD version A, which speaks nothing else):
//	               t0, t1           a card with a small file system
//	               none             nothing
//	               vpcd:HOST:PORT   a card that waits for a reader there ("vicc --reversed")
//	               vpcd-listen:PORT wait there for a card to connect ("vicc"), on the loopback interface;
//	                                HOST:PORT to listen elsewhere
//	name=TEXT      the product string
//	serial=TEXT    the serial number
//	features=N     dwFeatures
//	message=N      dwMaxCCIDMessageLength
//	busy=N         bMaxCCIDBusySlots
//	pinpad=WHAT    yes, no, or verify: a PIN pad that can verify and change PINs, none, or one that can only verify
//	keys=KEYS      keys that are pressed on it: digits, # to confirm, c to cancel, < to take back
//
// All are optional; what is not given is as the real reader has it. Numbers are decimal, or hexadecimal after 0x.
type Spec struct {
	Config Config
	// Cards says what is in each slot, from slot 0 on.
	Cards []CardSpec
}

// CardKind is what kind of card a CardSpec asks for.
type CardKind uint8

// The kinds of card.
const (
	NoCard CardKind = iota
	CardT0
	CardT1
	CardVPCD       // connects to Address
	CardVPCDListen // waits for a card at Address
)

// CardSpec is what is in one slot.
type CardSpec struct {
	Kind CardKind
	// Address is HOST:PORT, for the vpcd kinds.
	Address string
}

var cardNames = [...]string{NoCard: "none", CardT0: "t0", CardT1: "t1", CardVPCD: "vpcd", CardVPCDListen: "vpcd-listen"}

// String returns what ParseCard takes.
func (c CardSpec) String() string {
	if int(c.Kind) >= len(cardNames) {
		return "unknown"
	}
	if c.Address == "" {
		return cardNames[c.Kind]
	}
	return cardNames[c.Kind] + ":" + c.Address
}

var errSpec = errors.New("virtual reader")

// ParseSpec reads a Spec. The error names the key or value that is wrong, and what is possible.
func ParseSpec(text string) (Spec, error) {
	s := Spec{}
	var overrides []func(*ccid.ClassDescriptor)
	seen := map[string]bool{}
	for _, field := range strings.Split(text, ",") {
		field = strings.TrimSpace(field)
		if field == "" {
			continue
		}
		key, value, ok := strings.Cut(field, "=")
		key = strings.ToLower(strings.TrimSpace(key))
		value = strings.TrimSpace(value)
		switch {
		case !ok:
			return Spec{}, fmt.Errorf("%w: %q is not KEY=VALUE", errSpec, field)
		case seen[key] && key != "card":
			return Spec{}, fmt.Errorf("%w: %s is given twice", errSpec, key)
		case value == "":
			return Spec{}, fmt.Errorf("%w: %s has no value", errSpec, key)
		}
		seen[key] = true
		override, err := s.set(key, value)
		if err != nil {
			return Spec{}, fmt.Errorf("%w: %w", errSpec, err)
		}
		if override != nil {
			overrides = append(overrides, override)
		}
	}
	if !seen["card"] {
		s.Cards = []CardSpec{s.usualCard()}
	}
	if len(overrides) > 0 {
		s.Config.Override = func(d *ccid.ClassDescriptor) {
			for _, override := range overrides {
				override(d)
			}
		}
	}
	return s, s.check()
}

// usualCard is what is in the first slot when nothing is said of it.
func (s Spec) usualCard() CardSpec {
	if m, err := FindModel(s.Config.Model); err == nil && m.Interfaces[0].isToken(ccid.ProtocolICCDA) {
		return CardSpec{Kind: CardT0}
	}
	return CardSpec{Kind: CardT1}
}

// Name is the model's name as it was given, in the form of Model.Name.
func (s Spec) Name() string {
	if s.Config.Model == "" {
		return defaultModel
	}
	return slug(s.Config.Model)
}

func slotCount(n int) string {
	if n == 1 {
		return "1 slot"
	}
	return fmt.Sprintf("%d slots", n)
}

// check finds what fits no slot while there is still a text to blame.
func (s Spec) check() error {
	r, err := NewReader(s.Config)
	if err != nil {
		return fmt.Errorf("%w: %w", errSpec, err)
	}
	if len(s.Cards) > r.Slots() {
		return fmt.Errorf("%w: %d cards, but %s has %s; slots=N gives it more", errSpec, len(s.Cards), s.Name(), slotCount(r.Slots()))
	}
	return nil
}

var levels = map[string]ccid.ExchangeLevel{
	"character": ccid.LevelCharacter, "tpdu": ccid.LevelTPDU, "short": ccid.LevelShortAPDU, "extended": ccid.LevelExtendedAPDU,
}

var pinSupport = map[string]ccid.PINSupport{
	"yes": ccid.PINVerification | ccid.PINModification, "no": 0, "verify": ccid.PINVerification,
}

// set takes one key. What it changes in the class descriptor is returned.
func (s *Spec) set(key, value string) (func(*ccid.ClassDescriptor), error) {
	switch key {
	case "reader":
		if _, err := FindModel(value); err != nil {
			return nil, err
		}
		s.Config.Model = value
	case "level":
		level, ok := levels[strings.ToLower(value)]
		if !ok {
			return nil, fmt.Errorf("level %q: character, tpdu, short and extended are possible", value)
		}
		s.Config.Level = &level
	case "slots":
		n, err := number(key, value, 1, maxSlots)
		s.Config.Slots = int(n)
		return nil, err
	case "card":
		for _, part := range strings.Split(value, "+") {
			c, err := ParseCard(strings.TrimSpace(part))
			if err != nil {
				return nil, err
			}
			s.Cards = append(s.Cards, c)
		}
	case "name":
		s.Config.Product = value
	case "serial":
		s.Config.SerialNumber = value
	case "features":
		n, err := number(key, value, 0, 1<<32-1)
		return func(d *ccid.ClassDescriptor) { d.DwFeatures = ccid.Features(n) }, err
	case "message":
		n, err := number(key, value, 0, 1<<32-1)
		return func(d *ccid.ClassDescriptor) { d.DwMaxCCIDMessageLength = uint32(n) }, err
	case "busy":
		n, err := number(key, value, 0, 255)
		return func(d *ccid.ClassDescriptor) { d.BMaxCCIDBusySlots = uint8(n) }, err
	case "pinpad":
		support, ok := pinSupport[strings.ToLower(value)]
		if !ok {
			return nil, fmt.Errorf("pinpad %q: yes, no and verify are possible", value)
		}
		return func(d *ccid.ClassDescriptor) { d.BPINSupport = support }, nil
	case "keys":
		s.Config.PINPad.Keys = value
	default:
		return nil, fmt.Errorf("key %q: reader, level, slots, card, name, serial, features, message, busy, pinpad and keys are possible", key)
	}
	return nil, nil
}

func number(key, value string, lowest, highest uint64) (uint64, error) {
	n, err := strconv.ParseUint(value, 0, 64)
	if err != nil || n < lowest || n > highest {
		return 0, fmt.Errorf("%s %q: a number from %d to %d is needed", key, value, lowest, highest)
	}
	return n, nil
}

// ParseCard reads what a Spec has after "card=" for one slot. The error says what is possible.
func ParseCard(value string) (CardSpec, error) {
	kind, address, _ := strings.Cut(value, ":")
	switch strings.ToLower(kind) {
	case "t0", "t1", "none":
		if address == "" {
			return CardSpec{Kind: map[string]CardKind{"t0": CardT0, "t1": CardT1, "none": NoCard}[strings.ToLower(kind)]}, nil
		}
	case "vpcd":
		host, port, err := net.SplitHostPort(address)
		if err != nil || host == "" || !validPort(port) {
			return CardSpec{}, fmt.Errorf("card %q: vpcd:HOST:PORT is needed", value)
		}
		return CardSpec{Kind: CardVPCD, Address: address}, nil
	case "vpcd-listen":
		if !strings.Contains(address, ":") {
			address = "127.0.0.1:" + address
		}
		if _, port, err := net.SplitHostPort(address); err != nil || !validPort(port) {
			return CardSpec{}, fmt.Errorf("card %q: vpcd-listen:PORT or vpcd-listen:HOST:PORT is needed", value)
		}
		return CardSpec{Kind: CardVPCDListen, Address: address}, nil
	}
	return CardSpec{}, fmt.Errorf("card %q: t0, t1, none, vpcd:HOST:PORT and vpcd-listen:PORT are possible", value)
}

func validPort(port string) bool {
	_, err := strconv.ParseUint(port, 10, 16)
	return err == nil
}
