package quirks_test

import (
	"fmt"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/quirks"
)

func Example() {
	table, err := quirks.Load("") // "/etc/goccid/quirks.d" for the administrator's rows as well
	if err != nil {
		fmt.Println(err)
		return
	}
	class := ccid.ClassDescriptor{DwMaxDataRate: 307200, DwFeatures: ccid.FeatureLevelTPDU}
	reader := quirks.Device{VID: 0x0B97, PID: 0x7762, Class: &class}
	for _, row := range table.Explain(reader) {
		fmt.Println(row.ID, row.Actions)
	}
	settings := table.Lookup(reader)
	fmt.Println(settings.Protocol.NoPPS, settings.Correct(class).DwMaxDataRate)
	// Output:
	// oz776-rate [protocol.max_data_rate = 9600]
	// oz776-pps [protocol.no_pps = true]
	// true 9600
}
