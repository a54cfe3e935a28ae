// Package loopback holds the tests inside the VM that run the whole conformance suite of usbtransport over a real kernel: on a loopback
// device of package virtual, which the kernel has imported over USB/IP.
package loopback
