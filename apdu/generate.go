package apdu

// GeneratesKeyPair reports whether the command is GENERATE ASYMMETRIC KEY PAIR (46, 47) of ISO/IEC 7816-8, for which cards work
// for up to some minutes. It looks at INS only, which secure messaging and command chaining leave as it is, so it also
// holds for one that only reads the public key.
//
// A command of the card's own making is not recognised, nor is one that an application puts into ENVELOPE.
func GeneratesKeyPair(command []byte) bool {
	return len(command) >= 2 && (command[1] == 0x46 || command[1] == 0x47)
}
