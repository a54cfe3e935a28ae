package card

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/goccid/goccid/apdu"
)

// The files of a PKCS15 card, in the DF of the application.
const (
	dfIsoApplet  = 0x5016
	dfPKCS15     = 0x5015
	fileODF      = 0x5031
	fileToken    = 0x5032
	fileAODF     = 0x4401
	filePrKDF    = 0x4402
	fileCDF      = 0x4403
	fileCert     = 0x4331
	keyID        = 0x45
	authID       = 0x01
	keyReference = 0x01
)

// aidIsoApplet names the free IsoApplet, which is what OpenSC takes the card for: it knows no card by its files alone.
// Selected, that applet tells the version of its commands, 0.6, and what it can do: extended APDUs, random numbers, ECC.
var (
	aidIsoApplet     = []byte{0xF2, 0x76, 0xA2, 0x88, 0xBC, 0xFB, 0xA6, 0x9D, 0x34, 0xF3, 0x10, 0x01}
	isoAppletVersion = []byte{0x00, 0x06, 0x07}
)

// aidPKCS15 is the registered name of the application (PKCS #15 v1.1 §5.4.1).
var aidPKCS15 = []byte{0xA0, 0x00, 0x00, 0x00, 0x63, 'P', 'K', 'C', 'S', '-', '1', '5'}

// NewPKCS15 makes an ISO card that has a PKCS #15 application besides: a PIN (DefaultPIN), a private key on P-256, and a
// certificate for it, as programs expect that list, read, log in and sign. Key and certificate are new each time.
func NewPKCS15() (*ISO, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("card: key: %w", err)
	}
	certificate, err := selfSigned(key)
	if err != nil {
		return nil, fmt.Errorf("card: certificate: %w", err)
	}
	a := NewISO()
	a.key = key
	template := der(0x61, der(0x4F, aidPKCS15), der(0x50, []byte("goccid")), der(0x51, path(dfPKCS15)))
	dir := a.root.child(func(f *file) bool { return f.id == FileDIR })
	dir.data = append(template, dir.data...)
	application := &file{id: dfPKCS15, df: true, name: aidPKCS15}
	application.add(
		&file{id: fileODF, data: slices.Concat(
			der(0xA0, reference(filePrKDF)), der(0xA4, reference(fileCDF)), der(0xA8, reference(fileAODF))), readOnly: true},
		&file{id: fileToken, data: tokenInfo(), readOnly: true},
		&file{id: fileAODF, data: pinObject(), readOnly: true},
		&file{id: filePrKDF, data: keyObject(), readOnly: true},
		&file{id: fileCDF, data: certificateObject(), readOnly: true},
		&file{id: fileCert, data: certificate, readOnly: true},
	)
	a.root.add(application, &file{id: dfIsoApplet, df: true, name: aidIsoApplet, information: isoAppletVersion})
	return a, nil
}

// sign does what a signature takes: MANAGE SECURITY ENVIRONMENT chooses the key, PERFORM SECURITY OPERATION hashes and signs
// (ISO/IEC 7816-8:2019 §5.2, §5.4), once the PIN was verified.
func (a *ISO) sign(c apdu.Command) ([]byte, uint16) {
	switch {
	case c.INS == 0x22 && c.P1 == 0x41 && c.P2 == 0xB6:
		if !bytes.Contains(c.Data, []byte{0x84, 0x01, keyReference}) {
			return nil, 0x6A88
		}
		return nil, swOK
	case c.INS == 0x2A && c.P1 == 0x9E && c.P2 == 0x9A:
		if !a.verified {
			return nil, swSecurity
		}
		hash := sha1.Sum(c.Data) // what version 0.6 of the applet signs with
		signature, err := ecdsa.SignASN1(rand.Reader, a.key, hash[:])
		if err != nil {
			return nil, swNotAllowed
		}
		return signature, swOK
	}
	return nil, swINSInvalid
}

func selfSigned(key *ecdsa.PrivateKey) ([]byte, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "goccid virtual card"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	return x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
}

// tokenInfo is EF.TokenInfo (§6.9): version, serial number, manufacturer, label, flags (loginRequired, tokenInitialized).
func tokenInfo() []byte {
	return der(0x30, der(0x02, []byte{0}), der(0x04, []byte{0x67, 0x01}), der(0x0C, []byte("goccid")), der(0x80, []byte("goccid")),
		der(0x03, []byte{4, 0x50}))
}

// pinObject is the PIN's entry in the AODF (§6.8): what it is called, and how to VERIFY it.
func pinObject() []byte {
	return der(0x30,
		der(0x30, der(0x0C, []byte("PIN")), der(0x03, []byte{6, 0xC0})),
		der(0x30, der(0x04, []byte{authID})),
		der(0xA1, der(0x30,
			der(0x03, []byte{3, 0x08}), // initialized; values are not padded
			der(0x0A, []byte{1}),       // ASCII digits
			der(0x02, []byte{4}), der(0x02, []byte{12}), der(0x02, []byte{12}), der(0x80, []byte{pinReference}),
			reference())))
}

// keyObject is the private key's entry in the PrKDF (§6.3).
func keyObject() []byte {
	return der(0xA0,
		der(0x30, der(0x0C, []byte("key")), der(0x03, []byte{7, 0x80}), der(0x04, []byte{authID})),
		der(0x30, der(0x04, []byte{keyID}), der(0x03, []byte{5, 0x20}), der(0x02, []byte{keyReference})),
		der(0xA1, der(0x30, reference(), der(0x02, []byte{0x01, 0x00})))) // 256 bits
}

// certificateObject is the certificate's entry in the CDF (§6.6).
func certificateObject() []byte {
	return der(0x30,
		der(0x30, der(0x0C, []byte("certificate")), der(0x03, []byte{7, 0x00})),
		der(0x30, der(0x04, []byte{keyID})),
		der(0xA1, der(0x30, reference(fileCert))))
}

// reference is a Path (§6.1.5) to a file of the application, or to the application.
func reference(file ...uint16) []byte {
	return der(0x30, der(0x04, path(append([]uint16{dfPKCS15}, file...)...)))
}

// path is an absolute path.
func path(files ...uint16) []byte {
	p := []byte{0x3F, 0x00}
	for _, f := range files {
		p = append(p, byte(f>>8), byte(f))
	}
	return p
}

// der is a data object of less than 256 bytes.
func der(tag byte, parts ...[]byte) []byte {
	value := slices.Concat(parts...)
	if len(value) < 0x80 {
		return append([]byte{tag, byte(len(value))}, value...)
	}
	return append([]byte{tag, 0x81, byte(len(value))}, value...)
}
