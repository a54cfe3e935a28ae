//go:build !race

package t1

const raceEnabled = false
