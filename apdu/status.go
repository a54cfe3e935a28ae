package apdu

import "fmt"

// StatusWord is SW1 SW2 of a response (ISO/IEC 7816-4 §5.1.3).
type StatusWord uint16

// The status words that a host decides by.
const (
	Success                 StatusWord = 0x9000
	WrongLength             StatusWord = 0x6700
	LastCommandExpected     StatusWord = 0x6883
	ChainingNotSupported    StatusWord = 0x6884
	SecurityNotSatisfied    StatusWord = 0x6982
	AuthenticationBlocked   StatusWord = 0x6983
	ConditionsNotSatisfied  StatusWord = 0x6985
	FunctionNotSupported    StatusWord = 0x6A81
	FileNotFound            StatusWord = 0x6A82
	WrongP1P2               StatusWord = 0x6A86
	ReferencedDataNotFound  StatusWord = 0x6A88
	WrongParameters         StatusWord = 0x6B00
	InstructionNotSupported StatusWord = 0x6D00
	ClassNotSupported       StatusWord = 0x6E00
	NoPreciseDiagnosis      StatusWord = 0x6F00
)

// SW1 returns the first byte.
func (sw StatusWord) SW1() byte { return byte(sw >> 8) }

// SW2 returns the second byte.
func (sw StatusWord) SW2() byte { return byte(sw) }

// String returns four hexadecimal digits, "9000".
func (sw StatusWord) String() string { return fmt.Sprintf("%04X", uint16(sw)) }

// Valid reports whether the value is one that a card may send: 6XXX (but not 60XX, which is a procedure byte of T=0)
// or 9XXX.
func (sw StatusWord) Valid() bool {
	return sw>>12 == 9 || (sw>>12 == 6 && sw.SW1() != 0x60)
}

// Available returns how many response bytes wait to be fetched, 1..256, and true for 61XX.
func (sw StatusWord) Available() (n int, ok bool) {
	if sw.SW1() != 0x61 {
		return 0, false
	}
	return shortNe(sw.SW2()), true
}

// ExactNe returns the Ne with which to repeat the command, 1..256, and true for 6CXX.
func (sw StatusWord) ExactNe() (ne int, ok bool) {
	if sw.SW1() != 0x6C {
		return 0, false
	}
	return shortNe(sw.SW2()), true
}

// Counter returns the counter, 0..15, and true for 63CX. After VERIFY it is the number of tries left.
func (sw StatusWord) Counter() (n int, ok bool) {
	if sw&0xFFF0 != 0x63C0 {
		return 0, false
	}
	return int(sw & 0xF), true
}

// Warning reports whether the command was carried out with something to remark: 62XX or 63XX.
func (sw StatusWord) Warning() bool { return sw.SW1() == 0x62 || sw.SW1() == 0x63 }

// Meaning explains the status word in a few words: "success", "file or application not found", "wrong PIN or check failed, 2
// tries left". A value that the standard leaves to the application, or that no standard defines, is called so; those of
// GSM 11.11 / ETSI TS 102 221 are named as such.
func (sw StatusWord) Meaning() string {
	if s := meaning(sw); s != "" {
		return s
	}
	if n, ok := sw.Available(); ok {
		return fmt.Sprintf("success, %d bytes to fetch with GET RESPONSE", n)
	}
	if n, ok := sw.ExactNe(); ok {
		return fmt.Sprintf("wrong Le, the exact value is %d", n)
	}
	if n, ok := sw.Counter(); ok {
		return fmt.Sprintf("not successful, counter is %d (after VERIFY: tries left)", n)
	}
	if s := triggering(sw); s != "" {
		return s
	}
	if s := telecom(sw); s != "" {
		return s
	}
	if s := class(sw.SW1()); s != "" {
		return s
	}
	if sw.Valid() {
		return "proprietary"
	}
	return "not a valid status word"
}

// meaning is ISO/IEC 7816-4 tables 5 and 6, the values with one meaning.
func meaning(sw StatusWord) string {
	switch sw {
	case Success:
		return "success"
	case 0x6200:
		return "warning, memory unchanged, no information"
	case 0x6281:
		return "warning, part of the returned data may be corrupted"
	case 0x6282:
		return "warning, end of file, record or search reached before Ne bytes"
	case 0x6283:
		return "warning, selected file is deactivated"
	case 0x6284:
		return "warning, file control information is not formatted as it should be"
	case 0x6285:
		return "warning, selected file is in termination state"
	case 0x6286:
		return "warning, no input data from a sensor on the card"
	case 0x6287:
		return "warning, a referenced record is deactivated"
	case 0x6300:
		return "warning, memory changed, no information (after VERIFY: wrong PIN)"
	case 0x6381:
		return "warning, file filled up by the last write"
	case 0x6400:
		return "execution error, memory unchanged"
	case 0x6401:
		return "the card needs an immediate response"
	case 0x6481:
		return "logical channel shared access denied"
	case 0x6482:
		return "logical channel opening denied"
	case 0x6500:
		return "execution error, memory changed"
	case 0x6581:
		return "memory failure"
	case WrongLength:
		return "wrong length"
	case 0x6800:
		return "function in CLA not supported"
	case 0x6881:
		return "logical channel not supported"
	case 0x6882:
		return "secure messaging not supported"
	case LastCommandExpected:
		return "last command of the chain expected"
	case ChainingNotSupported:
		return "command chaining not supported"
	case 0x6900:
		return "command not allowed"
	case 0x6981:
		return "command incompatible with the file's structure"
	case SecurityNotSatisfied:
		return "security status not satisfied"
	case AuthenticationBlocked:
		return "authentication method blocked"
	case 0x6984:
		return "reference data not usable"
	case ConditionsNotSatisfied:
		return "conditions of use not satisfied"
	case 0x6986:
		return "command not allowed, no current EF"
	case 0x6987:
		return "secure messaging data objects missing"
	case 0x6988:
		return "secure messaging data objects incorrect"
	case 0x6A00:
		return "wrong P1 P2"
	case 0x6A80:
		return "incorrect parameters in the command data"
	case FunctionNotSupported:
		return "function not supported"
	case FileNotFound:
		return "file or application not found"
	case 0x6A83:
		return "record not found"
	case 0x6A84:
		return "not enough memory in the file"
	case 0x6A85:
		return "Nc inconsistent with the TLV structure"
	case WrongP1P2:
		return "incorrect P1 P2"
	case 0x6A87:
		return "Nc inconsistent with P1 P2"
	case ReferencedDataNotFound:
		return "referenced data or reference data not found"
	case 0x6A89:
		return "file already exists"
	case 0x6A8A:
		return "DF name already exists"
	case WrongParameters:
		return "wrong P1 P2, offset outside the file"
	case InstructionNotSupported:
		return "instruction not supported or invalid"
	case ClassNotSupported:
		return "class not supported"
	case NoPreciseDiagnosis:
		return "error, no precise diagnosis"
	}
	return ""
}

// triggering is 62XX and 64XX with XX from 02 to 80: the card wants to send the host a command of XX bytes
// (ISO/IEC 7816-4 §8.6.1).
func triggering(sw StatusWord) string {
	if sw.SW2() < 0x02 || sw.SW2() > 0x80 {
		return ""
	}
	switch sw.SW1() {
	case 0x62:
		return fmt.Sprintf("warning, the card has a query of %d bytes for the host", sw.SW2())
	case 0x64:
		return fmt.Sprintf("aborted, the card has a query of %d bytes for the host", sw.SW2())
	}
	return ""
}

// telecom is the part of 9XXX that GSM 11.11 §9.4 and ETSI TS 102 221 §10.2 use. Other cards may mean other things.
func telecom(sw StatusWord) string {
	switch sw.SW1() {
	case 0x91:
		return fmt.Sprintf("SIM: success, a proactive command of %d bytes is pending", shortNe(sw.SW2()))
	case 0x9E:
		return fmt.Sprintf("SIM: data download error, %d bytes to fetch", shortNe(sw.SW2()))
	case 0x9F:
		return fmt.Sprintf("SIM: success, %d bytes to fetch with GET RESPONSE", shortNe(sw.SW2()))
	}
	if sw&0xFFF0 == 0x9200 {
		return fmt.Sprintf("SIM: success after %d internal retries", sw&0xF)
	}
	switch sw {
	case 0x9240:
		return "SIM: memory problem"
	case 0x9300:
		return "SIM: application toolkit is busy"
	case 0x9400:
		return "SIM: no EF selected"
	case 0x9402:
		return "SIM: out of range (invalid address)"
	case 0x9404:
		return "SIM: file ID or pattern not found"
	case 0x9408:
		return "SIM: file is inconsistent with the command"
	case 0x9802:
		return "SIM: no CHV initialised"
	case 0x9804:
		return "SIM: access condition not fulfilled or wrong CHV, at least one try left"
	case 0x9808:
		return "SIM: in contradiction with CHV status"
	case 0x9810:
		return "SIM: in contradiction with invalidation status"
	case 0x9840:
		return "SIM: wrong CHV, no try left, or CHV blocked"
	case 0x9850:
		return "SIM: increase cannot be performed, maximum reached"
	case 0x9862:
		return "SIM: authentication error, application specific"
	}
	return ""
}

// class is ISO/IEC 7816-4 table 5: what SW1 says when SW2 says nothing that is known.
func class(sw1 byte) string {
	switch sw1 {
	case 0x62:
		return "warning, memory unchanged"
	case 0x63:
		return "warning, memory changed"
	case 0x64:
		return "execution error, memory unchanged"
	case 0x65:
		return "execution error, memory changed"
	case 0x66:
		return "execution error, security issue"
	case 0x67:
		return "wrong length"
	case 0x68:
		return "function in CLA not supported"
	case 0x69:
		return "command not allowed"
	case 0x6A:
		return "wrong parameters"
	case 0x6B:
		return "wrong P1 P2"
	case 0x6D:
		return "instruction not supported or invalid"
	case 0x6E:
		return "class not supported"
	case 0x6F:
		return "error, no precise diagnosis"
	}
	return ""
}
