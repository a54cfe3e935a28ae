package virtual

import "fmt"

// Rule is a rule of CCID that a host has broken, in a few words.
type Rule string

// The rules that a Reader watches over.
const (
	RuleLength        Rule = "message length differs from dwLength"
	RuleTooLong       Rule = "message is longer than dwMaxCCIDMessageLength"
	RuleDataLength    Rule = "dwLength is wrong for this message"
	RuleReserved      Rule = "reserved bytes are not 0"
	RuleMessageType   Rule = "bMessageType is unknown"
	RuleSlot          Rule = "bSlot is beyond bMaxSlotIndex"
	RuleSequence      Rule = "bSeq was used by the command before"
	RuleBusySlot      Rule = "command to a slot that works on another"
	RuleBusySlots     Rule = "more slots at work than bMaxCCIDBusySlots"
	RuleInactive      Rule = "exchange with a card that was not powered on"
	RuleLevel         Rule = "wLevelParameter is wrong for this exchange level"
	RuleBWI           Rule = "bBWI is for T=1 blocks only"
	RuleTPDU          Rule = "not a TPDU of this protocol"
	RuleAPDU          Rule = "not an APDU of this exchange level"
	RulePPS           Rule = "PPS where the reader does it"
	RulePower         Rule = "bPowerSelect is not for this reader"
	RuleParameters    Rule = "parameters are malformed"
	RuleProtocol      Rule = "protocol is not the card's or the reader's"
	RuleNotConfigured Rule = "parameters differ from what the card uses"
	RuleChain         Rule = "chain of messages is broken"
	RuleAbort         Rule = "abort without its other half"
	RulePIN           Rule = "PIN data structure is malformed"
	RuleField         Rule = "field has a value that is not defined"
	RuleRequest       Rule = "control request is malformed"
)

// Violation is one broken rule.
type Violation struct {
	Rule Rule
	// Slot and Seq are those of the message.
	Slot, Seq uint8
	// Detail says what was found.
	Detail string
}

// String returns one line.
func (v Violation) String() string {
	return fmt.Sprintf("slot %d seq %d: %s: %s", v.Slot, v.Seq, v.Rule, v.Detail)
}

// maxViolations bounds what is kept; a host that breaks rules breaks many.
const maxViolations = 1000
