package main

import (
	"encoding/json"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/test/vm/hotplug"
)

func TestFollow(t *testing.T) {
	t.Run("copies what the script prints, and returns its status", func(t *testing.T) {
		var out strings.Builder
		up, alive := 0, 0
		console := "SeaBIOS\r\n\r\ngoccid-vm: booted\r\none\r\ngoccid-vm: alive\r\ntwogoccid-vm: alive\r\n\r\ngoccid-vm: exit 3\r\nreboot: Power down"
		status, err := follow(strings.NewReader(console), &out, func() { up++ }, func() { alive++ })
		require.NoError(t, err)
		assert.Equal(t, 3, status)
		assert.Equal(t, 1, up)
		assert.Equal(t, 2, alive)
		assert.Equal(t, "one\ntwo\n\n", out.String())
	})
	t.Run("tells what the console says when the guest doesn't come up", func(t *testing.T) {
		var out strings.Builder
		_, err := follow(strings.NewReader("Kernel panic\r\n"), &out, func() { t.Error("it isn't up") }, func() { t.Error("it isn't alive") })
		require.ErrorIs(t, err, errNotBooted)
		assert.ErrorContains(t, err, "Kernel panic")
		assert.Empty(t, out.String())
	})
	t.Run("an end without an exit status is an error", func(t *testing.T) {
		var out strings.Builder
		_, err := follow(strings.NewReader("goccid-vm: booted\r\nhalf a li"), &out, func() {}, func() {})
		require.Error(t, err)
		assert.NotErrorIs(t, err, errNotBooted)
	})
}

// TestMonitor has act speak to a monitor which answers as QEMU does: with events in between, before and after replies.
func TestMonitor(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()

	answers := []string{
		`{"return": {}}`, // qmp_capabilities
		`{"event": "DEVICE_DELETED", "data": {"device": "card"}}{"event": "DEVICE_DELETED", "data": {"device": "reader"}}{"return": {}}`,
		`{"return": {}}`,
		`{"event": "RESUME"}{"return": {}}`,
		`{"return": {}}{"event": "DEVICE_DELETED", "data": {"device": "card"}}`,
		`{"error": {"class": "GenericError", "desc": "no such bus"}}`,
	}
	commands := make(chan string, len(answers))
	go func() {
		defer close(commands)
		_, _ = theirs.Write([]byte(`{"QMP": {"version": {}, "capabilities": []}}`))
		requests := json.NewDecoder(theirs)
		for _, answer := range answers {
			var request struct {
				Execute   string            `json:"execute"`
				Arguments map[string]string `json:"arguments"`
			}
			if requests.Decode(&request) != nil {
				return
			}
			commands <- request.Execute + " " + request.Arguments["id"] + " " + request.Arguments["port"]
			_, _ = theirs.Write([]byte(answer))
		}
	}()

	monitor, err := newQMP(ours)
	require.NoError(t, err)
	l := &lab{dir: "/nowhere"}
	require.NoError(t, l.act(monitor, hotplug.Request{Action: hotplug.Unplug}))
	require.NoError(t, l.act(monitor, hotplug.Request{Action: hotplug.Plug, Port: 2}))
	require.NoError(t, l.act(monitor, hotplug.Request{Action: hotplug.Remove}))
	require.ErrorContains(t, l.act(monitor, hotplug.Request{Action: hotplug.Insert}), "no such bus")
	require.ErrorContains(t, l.act(monitor, hotplug.Request{Action: "explode"}), "explode")

	var got []string
	for command := range commands {
		got = append(got, strings.TrimSpace(command))
	}
	assert.Equal(t, []string{
		"qmp_capabilities", "device_del reader", "device_add reader 2", "device_add card", "device_del card", "device_add card",
	}, got)
}
