// Package stock holds the test that takes the VM's reader away from the stock driver, pcscd with libccid, for comparison.
package stock
