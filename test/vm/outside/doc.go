// Package outside holds the tests that run outside of the VM, on a reader that the kernel in there exports over USB/IP.
package outside
