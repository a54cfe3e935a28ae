package card

import (
	"crypto/ecdsa"
	"crypto/sha1"
	"crypto/x509"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPKCS15SignsAfterVerify(t *testing.T) {
	a, err := NewPKCS15()
	require.NoError(t, err)
	ask := func(command string) []byte {
		response, err := a.Transmit(t.Context(), unhex(t, command))
		require.NoError(t, err)
		return response
	}
	ok := func(command string) []byte {
		response := ask(command)
		n := len(response) - 2
		require.Equal(t, []byte{0x90, 0x00}, response[n:], command)
		return response[:n]
	}
	require.Equal(t, []byte{0x00, 0x06, 0x07}, ok("00A404000CF276A288BCFBA69D34F3100100"))
	ok("00A4080C0450154331")
	certificate, err := x509.ParseCertificate(ok("00B00000000000"))
	require.NoError(t, err)

	const sign = "002A9E9A000003 616263 0000"
	ok("002241B606 800121 840101")
	require.Equal(t, []byte{0x69, 0x82}, ask(sign), "without the PIN")
	ok("0020000104 31323334")
	hash := sha1.Sum([]byte("abc"))
	require.True(t, ecdsa.VerifyASN1(certificate.PublicKey.(*ecdsa.PublicKey), hash[:], ok(sign)))
	require.Equal(t, []byte{0x6A, 0x88}, ask("002241B606 800121 840109"), "no such key")
}

func TestISOCardDoesNotSign(t *testing.T) {
	response, err := NewISO().Transmit(t.Context(), unhex(t, "002241B606800121840101"))
	require.NoError(t, err)
	require.Equal(t, []byte{0x6D, 0x00}, response)
}
