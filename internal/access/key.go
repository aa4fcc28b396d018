package access

import (
	"bytes"
	"crypto/rsa"
	"errors"
	"fmt"

	"golang.org/x/crypto/ssh"
)

// minRSABits keeps out RSA keys short enough to be factored.
const minRSABits = 2048

// parseKey reads one stored authorized_keys line.
func parseKey(line string) (ssh.PublicKey, error) {
	key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	switch {
	case err != nil:
		return nil, errors.New("it is not a public key")
	case len(options) > 0:
		// Options restrict a key (from="…", restrict). Taking the key without
		// them would give its holder more than whoever wrote the line meant.
		return nil, errors.New("the public key has options, which are not supported")
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, errors.New("there is more than one line")
	}
	switch key.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256,
		ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521:
		return key, nil
	case ssh.KeyAlgoRSA:
		if crypto, ok := key.(ssh.CryptoPublicKey); ok {
			if pub, ok := crypto.CryptoPublicKey().(*rsa.PublicKey); ok && pub.N.BitLen() >= minRSABits {
				return key, nil
			}
		}
		return nil, fmt.Errorf("the RSA key has fewer than %d bits", minRSABits)
	}
	// DSA is broken, and a certificate is not a key: nobody here checks its
	// issuer or its expiry.
	return nil, fmt.Errorf("keys of the type %q are not supported", key.Type())
}
