// Package cross holds the tests in which an independent driver judges our virtual readers: the guest's kernel imports them over
// USB/IP with its vhci_hcd, and the stock pcscd with libccid drives them, beside goccid's own driver.
package cross
