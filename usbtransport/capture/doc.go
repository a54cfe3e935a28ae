// Package capture keeps USB sessions in files and plays them back.
//
//   - Recorder wraps a usbtransport.Backend and writes what goes over its interfaces into a pcapng file, as the Linux kernel's
//     usbmon would have seen it, so that Wireshark decodes it. PINs are replaced by asterisks while writing.
//   - Read reads such files, and those that Wireshark, tshark, tcpdump or USBPcapCMD made of any driver's work, as transfers.
//   - Replay is a usbtransport.Backend whose devices are those of a file. With Strict the host must send what was sent then;
//     with Lenient it may be another host, that asks for the same things in its own way.
//
// # Link types
//
// Written is LINKTYPE_USB_LINUX_MMAPPED (220), in pcapng. Read are 220, LINKTYPE_USB_LINUX (189) and LINKTYPE_USBPCAP
// (249), in pcapng and in the older pcap format, of either byte order.
//
// # Who owns what
//
// A Recorder has one mutex, around the file and what is known of each plug-in; it is held while a packet is written, never
// during a transfer. A Replay has one mutex around all of its state; waiting for data happens outside of it. Neither
// starts goroutines.
package capture
