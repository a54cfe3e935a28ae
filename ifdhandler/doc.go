// Package ifdhandler gives a PC/SC resource manager the CCID driver by the rules of the IFD handler API 3.0: readers
// are known by logical unit numbers, capabilities by tags, results by response codes, and PC/SC part 10 features by
// control codes. Names and numbers are those of the API (ifdhandler.h, reader.h of pcsc-lite; PC/SC specification part
// 3 and part 10); the functions are methods of Handler.
//
// Every error is an *Error, whose Code is what the API calls the response code; CodeOf finds it. One table, in codes.go,
// maps the driver's errors to codes.
//
// The package starts no goroutine. All methods of a Handler may be called at any time; operations on one slot are done
// one after the other, different slots and readers do not wait for each other.
package ifdhandler
