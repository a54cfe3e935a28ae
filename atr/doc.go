// Package atr decodes and explains what a card says on reset, the Answer To Reset (ISO/IEC 7816-3:2006 §8), with its
// historical bytes (ISO/IEC 7816-4 §8.1.1), and holds what follows from it: transmission factors Fi and Di, waiting
// times, the protocol and parameters selection (PPS, ISO/IEC 7816-3:2006 §9) and the list of speeds to try with a
// given reader.
//
// It is pure: bytes in, values out; no I/O, no clock.
//
// # What is an error and what is reported
//
// Parse refuses only what can't be read as an ATR: a wrong TS, missing bytes, more than 33 bytes. Cards in the field
// break other rules and work all the same, so these are kept in the ATR for whoever wants to be strict or to explain:
// a missing, false or superfluous TCK (ATR.TCK), bytes after the end (ATR.Trailing), reserved values (ATR.Problems).
// The methods that give parameters to work with, such as T1, replace reserved values by the standard's defaults.
package atr
