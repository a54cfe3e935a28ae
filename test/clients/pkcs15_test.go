//go:build linux

package clients

import (
	"crypto/ecdsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/internal/pintest"
	"github.com/goccid/goccid/virtual/card"
)

// freePort is a TCP port that nobody had a moment ago.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	return port
}

// signs has the card sign a text, and verifies that with the key of the certificate.
func signs(t *testing.T, d *daemon) {
	printed := d.run(t, "pkcs15-tool", "--read-certificate", "45")
	block, _ := pem.Decode([]byte(printed[strings.Index(printed, "-----BEGIN"):]))
	require.NotNil(t, block)
	certificate, err := x509.ParseCertificate(block.Bytes)
	require.NoError(t, err)

	text := []byte("I owe you nothing")
	dir := t.TempDir()
	in, out := filepath.Join(dir, "text"), filepath.Join(dir, "signature")
	require.NoError(t, os.WriteFile(in, text, 0o600))
	t.Log(d.run(t, "pkcs11-tool", "--login", "--pin", card.DefaultPIN, "--sign", "--mechanism", "ECDSA-SHA1", "--id", "45",
		"--signature-format", "openssl", "--input-file", in, "--output-file", out))
	signature, err := os.ReadFile(out)
	require.NoError(t, err)
	hash := sha1.Sum(text)
	assert.True(t, ecdsa.VerifyASN1(certificate.PublicKey.(*ecdsa.PublicKey), hash[:], signature))
}

// TestPKCS15Card has OpenSC find, list, read and unlock a PKCS #15 card.
func TestPKCS15Card(t *testing.T) {
	need(t, "opensc", "pkcs15-tool")
	need(t, "opensc", "pkcs11-tool")
	application, err := card.NewPKCS15()
	require.NoError(t, err)
	port := freePort(t)
	d := goccidd(t, "--apdu", "--virtual", "reader=scr3310,level=extended,card=vpcd-listen:"+port)
	serveCard(t, "127.0.0.1:"+port, application, []byte{0x3B, 0x80, 0x01, 0x81})
	for _, tc := range []struct {
		name string
		args []string
		want []string
	}{
		{"pkcs15-tool lists", []string{"pkcs15-tool", "--dump"}, []string{"PKCS#15 Card [goccid]", "PIN [PIN]", "Private EC Key [key]", "X.509 Certificate [certificate]"}},
		{"pkcs15-tool reads the certificate", []string{"pkcs15-tool", "--read-certificate", "45"}, []string{"BEGIN CERTIFICATE"}},
		{"pkcs15-tool verifies the PIN", []string{"pkcs15-tool", "--verify-pin", "--auth-id", "01", "--pin", card.DefaultPIN}, nil},
		{"pkcs11-tool lists slots", []string{"pkcs11-tool", "--list-slots"}, []string{"SCR 3310", "goccid"}},
		{"pkcs11-tool lists objects after login", []string{"pkcs11-tool", "--login", "--pin", card.DefaultPIN, "--list-objects"}, []string{"Certificate Object", "Private Key Object"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			printed := d.run(t, tc.args[0], tc.args[1:]...)
			t.Log(printed)
			for _, want := range tc.want {
				assert.Contains(t, printed, want)
			}
		})
	}
	t.Run("pkcs11-tool signs", func(t *testing.T) { signs(t, d) })
	assert.NotContains(t, d.log.String(), "level=error")
	assertNoPIN(t, d.log.String(), card.DefaultPIN)
}

// assertNoPIN looks for a PIN in the commands that a log has; elsewhere so few digits may be a time or a part of a signature. There
// must be a command of which they were hidden.
func assertNoPIN(t *testing.T, log, pin string) {
	t.Helper()
	const logged, verify = "APDU: ", "00 20 00"
	verified := false
	for line := range strings.Lines(log) {
		if _, command, found := strings.Cut(line, logged); found {
			command, _, _ = strings.Cut(command, `"`)
			verified = verified || strings.HasPrefix(command, verify)
			assert.Empty(t, pintest.FindPIN([]byte(command), pin), command)
		}
	}
	assert.True(t, verified, "a VERIFY is logged")
	assert.NotContains(t, log, fmt.Sprintf("% X", pin))
	assert.NotContains(t, log, fmt.Sprintf("%X", pin))
}
