package host

// grow returns b with room for n more bytes. Memory that becomes too small is wiped: what cards are told and what they say
// may be secret. Buffers of commands and answers grow by this and not by append.
func grow(b []byte, n int) []byte {
	if n <= cap(b)-len(b) {
		return b
	}
	larger := append(make([]byte, 0, max(2*cap(b), len(b)+n)), b...)
	clear(b)
	return larger
}

// move appends part to b and wipes part.
func move(b, part []byte) []byte {
	b = append(grow(b, len(part)), part...)
	clear(part)
	return b
}
