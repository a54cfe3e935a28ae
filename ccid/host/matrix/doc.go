// Package matrix has only a test: the driver with every kind of virtual reader that the fields of the class descriptor can
// tell apart. Its rows are 4 exchange levels x T=0 and T=1 x short and extended APDUs x 1, 2 and 8 slots x the combinations of
// automatic features that the descriptors of real readers have. Each row is a subtest with a name that says so, and they print how
// many there were of each:
//
//	go test -run TestMatrix -v ./ccid/host/matrix | grep '^|'
//	go test -run 'TestMatrix/TPDU/T=1/extended_APDUs/8_slots' -v ./ccid/host/matrix
package matrix
