package host_test

import (
	"context"
	"fmt"
	"log"

	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/virtual"
	"github.com/goccid/goccid/virtual/card"
)

// A program opens the first reader, powers its card and sends it a command. With usbfs.New() in place of the virtual bus
// it does so with the readers that are plugged in.
func Example() {
	ctx := context.Background()
	bus := virtual.NewBus()
	plugged, err := virtual.NewReader(virtual.Config{Cards: []card.Card{card.NewT1()}})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := bus.Plug(plugged); err != nil {
		log.Fatal(err)
	}
	defer bus.Close()

	reader, err := host.OpenFirst(ctx, bus, host.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer reader.Close()
	atr, err := reader.Slot(0).Connect(ctx)
	if err != nil {
		log.Fatal(err)
	}
	response, err := reader.Slot(0).Transmit(ctx, []byte{0x00, 0xA4, 0x00, 0x0C, 0x02, 0x3F, 0x00})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\nATR % X\nSELECT % X\n", reader.Name(), atr, response)
	// Output:
	// Gemalto PC Twin Reader 00 00
	// ATR 3B 9C 96 81 31 FE 45 80 73 C0 01 C0 66 67 6F 63 63 69 64 90
	// SELECT 90 00
}
