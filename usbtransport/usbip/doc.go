// Package usbip carries USB over TCP: the USB/IP protocol, version 1.1.1, as the Linux kernel describes it in
// Documentation/usb/usbip_protocol.
//
// A Backend is a client. A reader that a usbipd exports (Linux usbip-host, usbipd-win, a Server) is a device of this
// backend; neither root nor a kernel module is needed here.
//
//	backend := usbip.New(usbip.Options{Address: "192.0.2.7:3240"})
//	devices, err := backend.Devices(ctx)
//
// A Server exports the devices of any other backend, such as the readers of a virtual.Bus, to such a client or to the
// vhci_hcd driver of a Linux kernel.
//
//	listener, err := net.Listen("tcp", "127.0.0.1:3240")
//	err = (&usbip.Server{Backend: bus}).Serve(ctx, listener)
//
// The protocol has no authentication and no encryption: whoever reaches the port has the device. Listen on a loopback
// address, and put ssh or a TLS proxy in front of it.
//
// A read that is cancelled loses nothing that the server sends, in whatever order it answers. But Linux' usbip-host sends nothing of a read
// that completes while it is being taken back, or that had got some of its packets by then. A Server does.
//
// Who owns what. On both sides a goroutine reads the connection, and whoever has something to send writes it, whole, under
// a lock and with a deadline. A transfer on the client belongs to its caller; it is entered in its attachment's table of
// pending transfers, and whoever takes it out of there (the reader, or the end of the connection) closes its channel. On the server the
// transfers of one endpoint belong to one goroutine, which lives as long as there are some.
package usbip
