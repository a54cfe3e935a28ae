// Package removal holds the tests that take the VM's reader away from ccid/host, over both USB backends: by pulling it out,
// and by all that a kernel can do to a device besides.
package removal
