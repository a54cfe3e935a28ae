package t1_test

import (
	"fmt"

	"github.com/goccid/goccid/t1"
)

func Example() {
	engine, err := t1.New(t1.Config{IFSC: 254})
	if err != nil {
		fmt.Println(err)

		return
	}
	// What a card might answer, block by block.
	card := [][]byte{
		{0x00, 0xC3, 0x01, 0x02, 0xC0},       // S(WTX request) 2
		{0x00, 0x00, 0x02, 0x6D, 0x00, 0x6F}, // I(0,0) 6D 00
	}
	step, err := engine.Transmit([]byte{0x00, 0xA4, 0x00, 0x00})
	for i := 0; err == nil && !step.Done; i++ {
		sent, _ := t1.ParseBlock(step.Send, t1.LRC)
		fmt.Printf("> %s, then wait %d × BWT\n", sent, step.WTX)
		step, err = engine.Receive(card[i])
	}
	fmt.Printf("answer % X, error %v\n", step.Response, err)
	// Output:
	// > I(0,0) LEN=4, then wait 1 × BWT
	// > S(WTX response) 2, then wait 2 × BWT
	// answer 6D 00, error <nil>
}
