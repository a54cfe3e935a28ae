package atr_test

import (
	"fmt"

	"github.com/goccid/goccid/atr"
)

func ExampleParse() {
	raw, err := atr.ParseHex("3B:96:18:80:01:80:51:00:61:10:30:9F")
	if err != nil {
		fmt.Println(err)
		return
	}
	card, err := atr.Parse(raw)
	if err != nil {
		fmt.Println(err)
		return
	}
	fi, di, _ := card.FiDi()
	fmt.Println(card.Protocols, atr.WorkETU(fi, di), "cycles per etu, TCK correct:", card.TCK.Correct)
	// Output: [0 1] 31 cycles per etu, TCK correct: true
}

// A reader at 4 MHz with a list of speeds, and a card that can do more than the reader.
func ExampleATR_Candidates() {
	card, err := atr.Parse([]byte{0x3B, 0x90, 0x97, 0x01, 0x06})
	if err != nil {
		fmt.Println(err)
		return
	}
	reader := atr.ReaderLimits{
		DefaultClockHz: 4_000_000,
		MaxDataRateBps: 250_000,
		DataRatesBps:   []int{10752, 62500, 125000, 250000},
	}
	for _, c := range card.Candidates(1, reader) {
		request, needed := card.PPSRequest(c)
		fmt.Println(c.Bps, request, needed)
	}
	// Output:
	// 250000 FF 11 96 78 true
	// 125000 FF 11 95 7B true
	// 62500 FF 11 94 7A true
	// 10752 FF 01 FE false
}
