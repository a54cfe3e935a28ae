// Package wire is the protocol that libpcsclite speaks with its daemon over a
// UNIX stream socket, as bytes: headers, the fixed bodies of requests and
// replies, the reader table and the constants, for the protocol versions 4:3,
// 4:4, 4:5 and 4:6.
//
// A request is a header of eight bytes, a body of a fixed size that depends on
// the command, and for Transmit and Control a payload that the header does not
// count. A reply is the request's body with fields filled in, without any
// header: one byte too many or too few shifts the connection for good. So every
// Parse function demands the exact length and every Append function writes it.
//
// Bodies are Go structs with one Parse function and one Append method each, by
// explicit offsets; the daemon parses requests and appends replies, a client
// does the reverse, both with the same two functions.
//
// # Byte order
//
// The protocol uses the byte order of the host, because the C library sends its
// structs from memory. This package writes little endian: every system that
// goccid is built for is little endian. A big-endian host would need the other
// order, and nothing else.
//
// # Widths
//
// Numbers have 32 bits on the wire, also where the C interface uses long.
package wire
