//go:build unix && !linux

package main

func features() []string { return []string{"usbip", "virtual", "prometheus"} }

// sandbox has nothing to work with here.
func (d *daemon) sandbox() {}
