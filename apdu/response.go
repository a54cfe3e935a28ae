package apdu

import "fmt"

// Response is a response APDU (ISO/IEC 7816-4 §5.1).
type Response struct {
	// Data is the response data field, at most 65,536 bytes.
	Data []byte
	SW   StatusWord
}

// ParseResponse decodes a response. The result's Data is part of b, not a copy, and nil when there is none. It
// returns an error wrapping ErrTooShort for less than the two bytes of the status word, or ErrRange for more than
// MaxResponseLength bytes.
func ParseResponse(b []byte) (Response, error) {
	if len(b) < 2 {
		return Response{}, fmt.Errorf("%w: %d bytes, a response has at least 2", ErrTooShort, len(b))
	}
	if len(b) > MaxResponseLength {
		return Response{}, fmt.Errorf("%w: %d bytes, a response has at most %d", ErrRange, len(b), MaxResponseLength)
	}
	n := len(b) - 2
	r := Response{SW: StatusWord(b[n])<<8 | StatusWord(b[n+1])}
	if n > 0 {
		r.Data = b[:n:n]
	}
	return r, nil
}

// AppendBinary appends the encoded response to dst. It returns an error wrapping ErrRange for too much data.
func (r Response) AppendBinary(dst []byte) ([]byte, error) {
	if len(r.Data) > MaxNe {
		return dst, fmt.Errorf("%w: %d data bytes, at most %d", ErrRange, len(r.Data), MaxNe)
	}
	return append(append(dst, r.Data...), r.SW.SW1(), r.SW.SW2()), nil
}

// Bytes returns the encoded response, as AppendBinary does.
func (r Response) Bytes() ([]byte, error) {
	return r.AppendBinary(make([]byte, 0, len(r.Data)+2))
}
