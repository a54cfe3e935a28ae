// Package apdu encodes and decodes command and response APDUs (ISO/IEC 7816-4, and ISO/IEC 7816-3:2006 §12 for
// their length fields), cases 1 to 4, short and extended.
//
// It is pure: bytes in, values out; no I/O and no knowledge of the protocol that carries the APDU.
//
// # Length fields
//
// Nc is the number of data bytes sent, Ne the largest number of data bytes expected back. Lc and Le are their
// encodings. A short Le of 00 means Ne = 256, an extended Le of 0000 means Ne = 65,536. Ne = 0 means that the
// Le field is absent; there is no encoding for "an Le field that asks for nothing".
//
// # Ambiguities
//
// The length alone decides the case, so the following byte strings have two readers. ParseCommand and
// ParseCommandLenient give them the first meaning:
//
//   - Five bytes with a fifth byte of 00 are case 2 with Ne = 256. A T=0 TPDU of a case 1 command looks the same
//     (P3 = 00, ISO/IEC 7816-3:2006 §12.2.2); whoever has a TPDU in hand must know that.
//   - Five bytes with any other fifth byte are case 2. They are also the header of a T=0 TPDU whose data follows
//     in another transfer.
//   - Seven bytes with a fifth byte of 00 are case 2 extended. They are never a short command with Lc = 00.
//   - Bytes after the fifth that could be one data byte and an Le, or two data bytes, are told apart by Lc only:
//     a wrong Lc is an error, never a guess.
//
// ParseCommandLenient lists what it accepts beyond the standard.
package apdu
