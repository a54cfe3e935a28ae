//go:build race

package t0

const raceEnabled = true
