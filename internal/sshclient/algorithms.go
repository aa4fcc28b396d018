package sshclient

import (
	"crypto/rsa"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/cpu"
)

// Algorithms are lists as ssh_config(5) has them: names with commas between, or
// with a first "+", "-" or "^" what to add to the usual ones, to take away from
// them, or to prefer. "" is the usual ones.
type Algorithms struct {
	HostKeys, Ciphers, MACs, KeyExchanges string
	CASignatures                          string // by which an authority vouches for a host
}

// config makes the library's configuration.
func (a Algorithms) config() (c ssh.Config, err error) {
	secure, old := ssh.SupportedAlgorithms(), ssh.InsecureAlgorithms()
	if c.KeyExchanges, err = choose(keyExchanges, append(secure.KeyExchanges, old.KeyExchanges...), a.KeyExchanges); err != nil {
		return c, err
	}
	if c.Ciphers, err = choose(ciphers(), append(secure.Ciphers, old.Ciphers...), a.Ciphers); err != nil {
		return c, err
	}
	if a.MACs != "" {
		c.MACs, err = choose(secure.MACs, append(secure.MACs, old.MACs...), a.MACs)
	}
	return c, err
}

// choose applies a list to the usual algorithms. Those that are not supported are
// passed over as long as any is left.
func choose(usual, supported []string, list string) ([]string, error) {
	if list == "" {
		return usual, nil
	}
	operator := list[0]
	if strings.IndexByte("+-^", operator) >= 0 {
		list = list[1:]
	}
	var named []string
	for pattern := range strings.SplitSeq(list, ",") {
		for _, s := range supported {
			if ok, _ := path.Match(pattern, s); ok && !slices.Contains(named, s) {
				named = append(named, s)
			}
		}
	}
	chosen := named
	switch operator {
	case '+':
		chosen = append(slices.Clone(usual), without(named, usual)...)
	case '-':
		chosen = without(usual, named)
	case '^':
		chosen = append(slices.Clone(named), without(usual, named)...)
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("%w: none of the algorithms %q", ErrUnsupported, list)
	}
	return chosen, nil
}

// caSignatures are those that an authority's certificates may have. SHA-1 is none.
var caSignatures = []string{
	ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256,
	ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256,
}

// rsaBits is the length of an RSA key, or of the one in a certificate. ok is false
// for other keys.
func rsaBits(key ssh.PublicKey) (n int, ok bool) {
	key, err := ssh.ParsePublicKey(key.Marshal()) // what an agent lists is bytes only
	if err != nil {
		return 0, false
	}
	if c, isCert := key.(*ssh.Certificate); isCert {
		key = c.Key
	}
	if c, can := key.(ssh.CryptoPublicKey); can {
		if public, isRSA := c.CryptoPublicKey().(*rsa.PublicKey); isRSA {
			return public.N.BitLen(), true
		}
	}
	return 0, false
}

// keyExchanges has X25519 first: it is the cheapest, and every command of a
// user pays for one.
var keyExchanges = []string{
	ssh.KeyExchangeCurve25519,
	ssh.KeyExchangeECDHP256,
	ssh.KeyExchangeMLKEM768X25519,
	ssh.KeyExchangeECDHP384,
	ssh.KeyExchangeECDHP521,
	ssh.KeyExchangeDH14SHA256,
	ssh.KeyExchangeDH16SHA512,
}

// ciphers has AES-GCM first where the processor computes it, as it is then
// several times as fast as anything else.
func ciphers() []string {
	aes := []string{ssh.CipherAES128GCM, ssh.CipherAES256GCM}
	rest := []string{ssh.CipherAES128CTR, ssh.CipherAES192CTR, ssh.CipherAES256CTR}
	fast := cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ || cpu.ARM64.HasAES && cpu.ARM64.HasPMULL || cpu.S390X.HasAESGCM
	if fast {
		return append(append(aes, ssh.CipherChaCha20Poly1305), rest...)
	}
	return append(append([]string{ssh.CipherChaCha20Poly1305}, aes...), rest...)
}
