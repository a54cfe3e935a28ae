package guest

import (
	"testing"

	"github.com/goccid/goccid/test/vm/vmtest"
)

// TestVMReaderComesAndGoes checks the lab itself: the reader is there, goes and comes back, in another port too.
func TestVMReaderComesAndGoes(t *testing.T) {
	vmtest.Require(t)
	for range 3 {
		vmtest.Unplug(t)
		vmtest.PlugAt(t, 2)
		vmtest.RemoveCard(t)
		vmtest.InsertCard(t)
		vmtest.Unplug(t)
		vmtest.Plug(t)
	}
}
