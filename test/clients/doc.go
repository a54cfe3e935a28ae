// Package clients has the programs that people use with smart cards try goccidd, as they are: its tests run the
// daemon's binary with virtual readers, and clients that find it through PCSCLITE_CSOCK_NAME.
//
// Debian's packages of these clients, and pcscd with the vpcd driver for comparison, are named in .ci/packages. Where one
// is missing its test is skipped, and fails when the environment says CI=true.
package clients
