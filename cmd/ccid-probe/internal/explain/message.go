package explain

import (
	"fmt"

	"github.com/goccid/goccid/atr"
	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/cmd/ccid-probe/internal/describe"
)

func hex8(v uint8) string     { return fmt.Sprintf("0x%02X", v) }
func hex16(v uint16) string   { return fmt.Sprintf("0x%04X", v) }
func compact(b []byte) string { return fmt.Sprintf("%X", b) }

// spaced is data as hexadecimal for people, shortened where it is long.
func spaced(b []byte) string {
	const most = 64
	if len(b) > most {
		return fmt.Sprintf("% X … (%d bytes)", b[:most], len(b))
	}
	return fmt.Sprintf("% X", b)
}

// header explains what all bulk messages begin with (CCID 1.1 §6.1, §6.2).
func header(t ccid.MessageType, length uint32, slot, seq uint8) []Field {
	return []Field{
		{Name: "bMessageType", Value: hex8(uint8(t)), Meaning: t.String()},
		{Name: "dwLength", Value: fmt.Sprint(length), Meaning: "bytes of abData"},
		{Name: "bSlot", Value: fmt.Sprint(slot)},
		{Name: "bSeq", Value: fmt.Sprint(seq)},
	}
}

// commandFields explains a bulk OUT message (CCID 1.1 §6.1).
func commandFields(c ccid.Command, level ccid.ExchangeLevel) []Field {
	fields := header(c.Type, uint32(len(c.Data)), c.Slot, c.Seq)
	s := c.Specific
	rfu := func(from int) []Field {
		var list []Field
		for i := from; i < 3; i++ {
			list = append(list, Field{Name: fmt.Sprintf("abRFU[%d]", i-from), Value: hex8(s[i])})
		}
		return list
	}
	switch c.Type {
	case ccid.TypeIccPowerOn:
		fields = append(fields, Field{Name: "bPowerSelect", Value: hex8(s[0]), Meaning: ccid.PowerSelect(s[0]).String()})
		return append(fields, rfu(1)...)
	case ccid.TypeXfrBlock, ccid.TypeSecure:
		fields = append(
			fields, Field{Name: "bBWI", Value: fmt.Sprint(s[0]), Meaning: waiting(s[0])},
			Field{Name: "wLevelParameter", Value: hex16(c.LevelParameter()), Meaning: levelParameter(c.LevelParameter(), level)},
		)
		if c.Type == ccid.TypeSecure {
			return append(fields, secureFields(c.Data)...)
		}
		return append(fields, dataField(c.Data))
	case ccid.TypeSetParameters:
		fields = append(fields, Field{Name: "bProtocolNum", Value: hex8(s[0]), Meaning: fmt.Sprintf("T=%d", s[0])})
		return append(append(fields, rfu(1)...), parameterFields(s[0], c.Data)...)
	case ccid.TypeIccClock:
		fields = append(fields, Field{Name: "bClockCommand", Value: hex8(s[0]), Meaning: oneOf(int(s[0]), "restarts the clock", "stops the clock")})
		return append(fields, rfu(1)...)
	case ccid.TypeT0APDU:
		return append(
			fields, Field{Name: "bmChanges", Value: hex8(s[0])}, Field{Name: "bClassGetResponse", Value: hex8(s[1])},
			Field{Name: "bClassEnvelope", Value: hex8(s[2])},
		)
	case ccid.TypeMechanical:
		meaning := "unknown"
		if 1 <= s[0] && s[0] <= 5 {
			meaning = oneOf(int(s[0]), "", "accept card", "eject card", "capture card", "lock card", "unlock card")
		}
		fields = append(fields, Field{Name: "bFunction", Value: hex8(s[0]), Meaning: meaning})
		return append(fields, rfu(1)...)
	case ccid.TypeSetDataRateAndClockFrequency:
		return append(append(fields, rfu(0)...), rateFields(c.Data)...)
	}
	fields = append(fields, rfu(0)...)
	if len(c.Data) > 0 {
		fields = append(fields, dataField(c.Data))
	}
	return fields
}

// responseFields explains a bulk IN message (CCID 1.1 §6.2).
func responseFields(r ccid.Response, level ccid.ExchangeLevel) []Field {
	fields := append(
		header(r.Type, uint32(len(r.Data)), r.Slot, r.Seq),
		Field{Name: "bStatus", Value: hex8(uint8(r.Status)), Meaning: r.Status.String()}, errorField(r),
	)
	switch r.Type {
	case ccid.TypeDataBlock:
		return append(fields, Field{Name: "bChainParameter", Value: hex8(r.Specific), Meaning: chainParameter(uint16(r.Specific), level)}, dataField(r.Data))
	case ccid.TypeSlotStatus:
		meaning := oneOf(int(r.Specific), "clock runs", "clock stopped low", "clock stopped high", "clock stopped")
		fields = append(fields, Field{Name: "bClockStatus", Value: hex8(r.Specific), Meaning: meaning})
	case ccid.TypeParameters:
		fields = append(fields, Field{Name: "bProtocolNum", Value: hex8(r.Specific), Meaning: fmt.Sprintf("T=%d", r.Specific)})
		return append(fields, parameterFields(r.Specific, r.Data)...)
	case ccid.TypeDataRateAndClockFrequency:
		return append(append(fields, Field{Name: "bRFU", Value: hex8(r.Specific)}), rateFields(r.Data)...)
	default:
		fields = append(fields, Field{Name: "bRFU", Value: hex8(r.Specific)})
	}
	if len(r.Data) > 0 {
		fields = append(fields, dataField(r.Data))
	}
	return fields
}

// errorField explains bError, which means something only where bStatus says so (CCID 1.1 §6.2.6).
func errorField(r ccid.Response) Field {
	f := Field{Name: "bError", Value: hex8(uint8(r.Error))}
	switch r.Status.Command() {
	case ccid.CommandFailed:
		f.Meaning = r.Error.String()
	case ccid.CommandTimeExtension:
		f.Meaning = fmt.Sprintf("waiting time × %d", uint8(r.Error))
	default:
		if r.Error != 0 {
			f.Meaning = "not in use"
		}
	}
	return f
}

func dataField(b []byte) Field {
	f := Field{Name: "abData", Value: spaced(b)}
	if len(b) == 0 {
		f.Value = "none"
	}
	return f
}

func oneOf(v int, names ...string) string {
	if v >= 0 && v < len(names) {
		return names[v]
	}
	return "unknown"
}

func waiting(bwi uint8) string {
	if bwi == 0 {
		return "waiting time as it is"
	}
	return fmt.Sprintf("waiting time × %d", bwi)
}

func levelParameter(v uint16, level ccid.ExchangeLevel) string {
	if level == ccid.LevelCharacter {
		return plural(int(v), "byte") + " expected"
	}
	return chainParameter(v, level)
}

// chainParameter explains wLevelParameter and bChainParameter, which count at the extended APDU level (CCID 1.1 §6.1.4, §6.2.1).
func chainParameter(v uint16, level ccid.ExchangeLevel) string {
	if level != ccid.LevelExtendedAPDU {
		if v == 0 {
			return ""
		}
		return "0 was expected at " + level.String() + " level"
	}
	switch v {
	case ccid.ChainSingle:
		return "begins and ends here"
	case ccid.ChainBegin:
		return "begins here and goes on"
	case ccid.ChainEnd:
		return "ends here"
	case ccid.ChainMiddle:
		return "goes on"
	case ccid.ChainContinue:
		return "the next part is asked for"
	}
	return "unknown"
}

// parameterFields explains abProtocolDataStructure (CCID 1.1 §6.1.7).
func parameterFields(protocol uint8, data []byte) []Field {
	if p, err := ccid.ParseParametersT0(data); err == nil && protocol == 0 {
		return []Field{
			fidi(p.BmFindexDindex), convention("bmTCCKST0", p.BmTCCKST0, ""),
			{Name: "bGuardTimeT0", Value: fmt.Sprint(p.BGuardTimeT0), Meaning: "etu more between characters"},
			{Name: "bWaitingIntegerT0", Value: fmt.Sprint(p.BWaitingIntegerT0), Meaning: "WI"},
			clockStop(p.BClockStop),
		}
	}
	if p, err := ccid.ParseParametersT1(data); err == nil && protocol == 1 {
		check := "LRC, "
		if p.BmTCCKST1&ccid.TCCKSTCRC != 0 {
			check = "CRC, "
		}
		return []Field{
			fidi(p.BmFindexDindex), convention("bmTCCKST1", p.BmTCCKST1, check),
			{Name: "bGuardTimeT1", Value: fmt.Sprint(p.BGuardTimeT1), Meaning: "etu more between characters"},
			{Name: "bmWaitingIntegersT1", Value: hex8(p.BmWaitingIntegersT1), Meaning: fmt.Sprintf("BWI %d, CWI %d", p.BmWaitingIntegersT1>>4, p.BmWaitingIntegersT1&0xF)},
			clockStop(p.BClockStop),
			{Name: "bIFSC", Value: fmt.Sprint(p.BIFSC), Meaning: "bytes of a block that the card takes"},
			{Name: "bNadValue", Value: hex8(p.BNadValue)},
		}
	}
	if len(data) == 0 {
		return nil
	}
	return []Field{{Name: "abProtocolDataStructure", Value: spaced(data), Meaning: "not of the length that the protocol has"}}
}

func fidi(v uint8) Field {
	f := Field{Name: "bmFindexDindex", Value: hex8(v)}
	fi, _, okF := atr.FI(v)
	di, okD := atr.DI(v)
	if okF && okD {
		f.Meaning = fmt.Sprintf("Fi = %d, Di = %d", fi, di)
	} else {
		f.Meaning = "reserved value"
	}
	return f
}

func convention(name string, v uint8, before string) Field {
	text := "direct convention"
	if v&ccid.TCCKSTInverseConvention != 0 {
		text = "inverse convention"
	}
	return Field{Name: name, Value: hex8(v), Meaning: before + text}
}

func clockStop(v uint8) Field {
	return Field{Name: "bClockStop", Value: hex8(v), Meaning: oneOf(int(v), "the clock may not stop", "the clock may stop low", "the clock may stop high", "the clock may stop")}
}

// rateFields explains what SetDataRateAndClockFrequency sets (CCID 1.1 §6.1.14).
func rateFields(data []byte) []Field {
	v := ccid.ParseFrequencies(data)
	if len(data) != 8 || len(v) != 2 {
		return []Field{dataField(data)}
	}
	return []Field{
		{Name: "dwClockFrequency", Value: fmt.Sprint(v[0]), Meaning: describe.Clock(v[0])},
		{Name: "dwDataRate", Value: fmt.Sprint(v[1]), Meaning: describe.Rate(v[1])},
	}
}

// secureFields explains abData of PC_to_RDR_Secure (CCID 1.1 §6.1.11).
func secureFields(data []byte) []Field {
	if len(data) == 0 {
		return []Field{dataField(data)}
	}
	operation := Field{
		Name: "bPINOperation", Value: hex8(data[0]),
		Meaning: oneOf(int(data[0]), "PIN verification", "PIN modification", "transfer from the pad", "wait for the card", "cancel", "send the last I-block again", "next part of an APDU"),
	}
	if p, err := ccid.ParsePINVerificationData(data); err == nil {
		return append(append([]Field{operation}, entryFields(p.BTimeOut, p.BmFormatString, p.BmPINBlockString, p.BmPINLengthFormat)...),
			pinSize(p.WPINMaxExtraDigit), condition(p.BEntryValidationCondition), messages(p.BNumberMessage),
			Field{Name: "wLangId", Value: hex16(p.WLangID)}, Field{Name: "bMsgIndex", Value: fmt.Sprint(p.BMsgIndex)},
			Field{Name: "bTeoPrologue", Value: spaced(p.BTeoPrologue[:])}, Field{Name: "abPINApdu", Value: spaced(p.PINAPDU)},
		)
	}
	if p, err := ccid.ParsePINModificationData(data); err == nil {
		fields := append([]Field{operation}, entryFields(p.BTimeOut, p.BmFormatString, p.BmPINBlockString, p.BmPINLengthFormat)...)
		fields = append(
			fields, Field{Name: "bInsertionOffsetOld", Value: fmt.Sprint(p.BInsertionOffsetOld), Meaning: "behind Lc"},
			Field{Name: "bInsertionOffsetNew", Value: fmt.Sprint(p.BInsertionOffsetNew), Meaning: "behind Lc"},
			pinSize(p.WPINMaxExtraDigit),
			Field{Name: "bConfirmPIN", Value: hex8(uint8(p.BConfirmPIN)), Meaning: plural(p.BConfirmPIN.Entries(), "PIN") + " to enter"},
			condition(p.BEntryValidationCondition), messages(p.BNumberMessage), Field{Name: "wLangId", Value: hex16(p.WLangID)},
		)
		for i := range p.Indices() {
			fields = append(fields, Field{Name: fmt.Sprintf("bMsgIndex%d", i+1), Value: fmt.Sprint(p.BMsgIndex[i])})
		}
		return append(fields, Field{Name: "bTeoPrologue", Value: spaced(p.BTeoPrologue[:])}, Field{Name: "abPINApdu", Value: spaced(p.PINAPDU)})
	}
	return []Field{operation, {Name: "abPINDataStructure", Value: spaced(data[1:]), Meaning: "not of the form that the operation has"}}
}

func entryFields(timeout uint8, format ccid.PINFormatString, block ccid.PINBlockString, length ccid.PINLengthFormat) []Field {
	side := "left"
	if format.Right() {
		side = "right"
	}
	seconds := "the reader's default"
	if timeout != 0 {
		seconds = "seconds"
	}
	return []Field{
		{Name: "bTimeOut", Value: fmt.Sprint(timeout), Meaning: seconds},
		{Name: "bmFormatString", Value: hex8(uint8(format)), Meaning: fmt.Sprintf("%s, %s justified, from bit %d", oneOf(int(format.Format()), "binary", "BCD", "ASCII"), side, format.PositionBits())},
		{Name: "bmPINBlockString", Value: hex8(uint8(block)), Meaning: fmt.Sprintf("PIN block of %s, PIN length of %s", plural(block.Size(), "byte"), plural(block.LengthBits(), "bit"))},
		{Name: "bmPINLengthFormat", Value: hex8(uint8(length)), Meaning: fmt.Sprintf("PIN length from bit %d", length.PositionBits())},
	}
}

func pinSize(v ccid.PINSize) Field {
	return Field{Name: "wPINMaxExtraDigit", Value: hex16(uint16(v)), Meaning: fmt.Sprintf("%d to %d digits", v.Min(), v.Max())}
}

func condition(c ccid.PINCondition) Field {
	f := Field{Name: "bEntryValidationCondition", Value: hex8(uint8(c))}
	for i, text := range []string{"greatest length reached", "key pressed", "time is up"} {
		if c&(1<<i) != 0 {
			f.Details = append(f.Details, text)
		}
	}
	return f
}

func messages(n uint8) Field {
	f := Field{Name: "bNumberMessage", Value: fmt.Sprint(n)}
	if n == 0xFF {
		f.Meaning = "the reader's default"
	}
	return f
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
