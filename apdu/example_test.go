package apdu_test

import (
	"fmt"

	"github.com/goccid/goccid/apdu"
)

func ExampleCommand_Bytes() {
	selectFile := apdu.Command{INS: 0xA4, P1: 0x04, Data: []byte("1PAY.SYS.DDF01"), Ne: apdu.MaxShortNe}
	b, err := selectFile.Bytes()
	fmt.Printf("%X %v %v\n", b, selectFile.Case(), err)
	// Output: 00A404000E315041592E5359532E444446303100 4S <nil>
}

func ExampleStatusWord_Meaning() {
	response, err := apdu.ParseResponse([]byte{0x63, 0xC2})
	fmt.Println(response.SW, response.SW.Meaning(), err)
	// Output: 63C2 not successful, counter is 2 (after VERIFY: tries left) <nil>
}

func ExampleRedact() {
	fmt.Printf("%X\n", apdu.Redact([]byte{0x00, 0x20, 0x00, 0x80, 0x04, '1', '2', '3', '4'}))
	// Output: 00200080042A2A2A2A
}
