package credential

import (
	"crypto/sha512"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/ssh"
)

// The signatures are those of OpenSSH's PROTOCOL.sshsig, so that any machine
// with ssh-keygen can check a token.
const (
	sshsigMagic   = "SSHSIG"
	sshsigVersion = 1
	// namespace keeps a signature that the device's key made for something else
	// (a commit, a file) from being taken for a token, and the reverse.
	namespace = "device-token@git-cluster"
	hashName  = "sha512"
)

// An envelope is a signature with what it was made by. Only the parts in signedText
// are covered by the signature; checkSignature compares the others.
type envelope struct {
	Version       uint32
	PublicKey     []byte
	Namespace     string
	Reserved      []byte
	HashAlgorithm string
	Signature     []byte
}

func (e envelope) marshal() []byte {
	return append([]byte(sshsigMagic), ssh.Marshal(e)...)
}

// signedText is what the key signs for a message.
func signedText(namespace, hash string, message []byte) []byte {
	sum := sha512.Sum512(message)
	return append([]byte(sshsigMagic), ssh.Marshal(struct {
		Namespace, Reserved, HashAlgorithm string
		Hash                               []byte
	}{namespace, "", hash, sum[:]})...)
}

// checkSignature accepts exactly what Issue makes with that key. The algorithms
// are fixed here and never taken from the envelope, so nobody can ask for a
// weaker one.
func checkSignature(message, blob []byte, public ssh.PublicKey) error {
	var e envelope
	if len(blob) < len(sshsigMagic) || string(blob[:len(sshsigMagic)]) != sshsigMagic || ssh.Unmarshal(blob[len(sshsigMagic):], &e) != nil {
		return errors.New("its signature is not an SSH signature")
	}
	switch {
	case e.Version != sshsigVersion:
		return fmt.Errorf("its signature has the version %d", e.Version)
	case e.Namespace != namespace:
		return fmt.Errorf("its signature was made for %q", clip(e.Namespace))
	case e.HashAlgorithm != hashName:
		return fmt.Errorf("its signature uses the hash %q", clip(e.HashAlgorithm))
	case len(e.Reserved) > 0:
		return errors.New("its signature has a part of unknown meaning")
	case !same(e.PublicKey, public.Marshal()):
		return errors.New("it is signed by another key than the one on record")
	}
	var sig struct {
		Format string
		Blob   []byte
	}
	if ssh.Unmarshal(e.Signature, &sig) != nil || sig.Format != ssh.KeyAlgoED25519 {
		return errors.New("its signature is not an Ed25519 signature")
	}
	if public.Verify(signedText(namespace, hashName, message), &ssh.Signature{Format: sig.Format, Blob: slices.Clone(sig.Blob)}) != nil {
		return errors.New("its signature is wrong")
	}
	return nil
}

func armor(blob []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "SSH SIGNATURE", Bytes: blob})
}
