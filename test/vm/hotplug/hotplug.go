// Package hotplug is what the guest and its host say to each other to unplug and plug the emulated reader: one JSON
// object a line over a virtio serial port, each request answered before the next is read.
package hotplug

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// PortName is the virtio serial port's name, as the guest finds it in /sys/class/virtio-ports/*/name.
const PortName = "org.goccid.vm"

// Action is what the guest asks its host to do.
type Action string

// The actions. A reader is plugged in with its card inserted.
const (
	Unplug Action = "unplug"
	Plug   Action = "plug"
	Remove Action = "remove" // the card, from the reader
	Insert Action = "insert" // the card, into the reader
)

// Request asks for one action.
type Request struct {
	// ID is repeated in the answer. It tells a client that was started after another one died whose answer it reads.
	ID     int64  `json:"id"`
	Action Action `json:"action"`
	// Port is the root hub's port (1..4) for Plug.
	Port int `json:"port,omitempty"`
	// T1 has Plug put a card into the reader that speaks T=1.
	T1 bool `json:"t1,omitempty"`
}

// Answer says how a request went; Error is empty when it was carried out.
type Answer struct {
	ID    int64  `json:"id"`
	Error string `json:"error,omitempty"`
}

// Serve answers requests from conn with what act does, until conn ends.
func Serve(conn io.ReadWriter, act func(Request) error) error {
	requests := json.NewDecoder(conn)
	answers := json.NewEncoder(conn)
	for {
		var request Request
		if err := requests.Decode(&request); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("hotplug: read a request: %w", err)
		}

		answer := Answer{ID: request.ID}
		if err := act(request); err != nil {
			answer.Error = err.Error()
		}
		if err := answers.Encode(answer); err != nil {
			return fmt.Errorf("hotplug: answer: %w", err)
		}
	}
}

// Do sends one request over conn and waits for its answer; answers to earlier requests are skipped.
func Do(conn io.ReadWriter, request Request) error {
	if err := json.NewEncoder(conn).Encode(request); err != nil {
		return fmt.Errorf("hotplug: ask: %w", err)
	}

	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		var answer Answer
		if err := json.Unmarshal(lines.Bytes(), &answer); err != nil {
			return fmt.Errorf("hotplug: read an answer: %w", err)
		}
		if answer.ID != request.ID {
			continue
		}
		if answer.Error != "" {
			return fmt.Errorf("hotplug: %s: %s", request.Action, answer.Error)
		}
		return nil
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("hotplug: wait for the answer: %w", err)
	}
	return fmt.Errorf("hotplug: wait for the answer: %w", io.ErrUnexpectedEOF)
}
