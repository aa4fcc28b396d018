package sshclient

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"
)

// maxKeyFile is far above any key. It keeps a wrong path, such as a disk, from
// filling memory.
const maxKeyFile = 1 << 20

// A keyFile is what is known of a private key file, or of the public key that
// names one an agent holds.
type keyFile struct {
	path      string
	signer    ssh.Signer    // nil if the file alone is not enough
	public    ssh.PublicKey // nil if nothing says it
	encrypted bool
	text      []byte // of an encrypted one
	unusable  string // why it can be neither used nor decrypted
	foreign   bool   // ssh could use it
}

// readKeyFile reads a key. The error says that there is none in the file.
func readKeyFile(path string) (*keyFile, error) {
	text, err := readRegular(path)
	if err != nil {
		return nil, err
	}
	f := &keyFile{path: path}
	mode, exposed := isExposed(path)
	defer func() {
		if exposed && (f.signer != nil || f.encrypted) {
			f.signer, f.encrypted = nil, false
			f.unusable = fmt.Sprintf("%s is not used, as others may read or write it (mode %04o): chmod 600", path, mode)
		}
	}()
	if f.signer, err = ssh.ParsePrivateKey(text); err == nil {
		f.public = f.signer.PublicKey()
		return f, nil
	}
	if f.public, _, _, _, _ = ssh.ParseAuthorizedKey(text); f.public != nil {
		f.unusable = path + " is a public key, and no agent holds the private one"
		return f, nil
	}
	if beside, err := readRegular(path + ".pub"); err == nil {
		f.public, _, _, _, _ = ssh.ParseAuthorizedKey(beside)
	}
	var locked *ssh.PassphraseMissingError
	switch {
	case isForeign(text):
		f.foreign = true
		f.unusable = path + " is encrypted in a way" + foreignTail
		return f, nil
	case errors.As(err, &locked):
		if locked.PublicKey != nil {
			f.public = locked.PublicKey
		}
		f.encrypted, f.text = true, text
		return f, nil
	case f.public != nil && strings.HasPrefix(f.public.Type(), "sk-"):
		f.foreign = true
		f.unusable = path + " is a security key's, which only ssh or an agent can use"
		return f, nil
	}
	return nil, fmt.Errorf("%s: %w", path, err)
}

// decrypt asks for the passphrase, once.
func (f *keyFile) decrypt(ctx context.Context, ask func(context.Context, Question) (string, error)) (any, error) {
	// Askpass programs know the question by these words.
	passphrase, err := ask(ctx, Question{Text: fmt.Sprintf("Enter passphrase for key '%s': ", f.path), Secret: true})
	if cause := context.Cause(ctx); cause != nil {
		return nil, cause
	}
	if err != nil {
		return nil, fmt.Errorf("%s is encrypted, no agent holds it, and its passphrase was not given: %w", f.path, err)
	}
	private, err := ssh.ParseRawPrivateKeyWithPassphrase(f.text, []byte(passphrase))
	if err != nil {
		if errors.Is(err, x509.IncorrectPasswordError) {
			return nil, fmt.Errorf("%s is encrypted, and that was not its passphrase", f.path)
		}
		f.foreign = true
		return nil, fmt.Errorf("%s is encrypted in a way%s: %s", f.path, foreignTail, strings.TrimPrefix(err.Error(), "ssh: "))
	}
	return private, nil
}

const foreignTail = " which only ssh or an agent can read"

// isForeign reports whether a file is encrypted otherwise than ssh-keygen does by
// itself, so that no passphrase would help here.
func isForeign(text []byte) bool {
	block, _ := pem.Decode(text)
	if block == nil {
		return false
	}
	if block.Type == "ENCRYPTED PRIVATE KEY" { // PKCS #8
		return true
	}
	header, ok := bytes.CutPrefix(block.Bytes, []byte("openssh-key-v1\x00"))
	if block.Type != "OPENSSH PRIVATE KEY" || !ok {
		return false
	}
	var by struct {
		Cipher, KDF string
		Rest        []byte `ssh:"rest"`
	}
	if ssh.Unmarshal(header, &by) != nil || by.Cipher == "none" {
		return false
	}
	return by.Cipher != "aes256-ctr" && by.Cipher != "aes256-cbc" || by.KDF != "bcrypt"
}

// defaultIdentities are the files that ssh looks for.
var defaultIdentities = []string{"id_ed25519", "id_ecdsa", "id_rsa", "id_ed25519_sk", "id_ecdsa_sk"}

// readFiles reads the keys that may be used. Those that are not there are
// nobody's mistake.
func (k *keyring) readFiles() {
	paths := k.o.IdentityFiles
	if paths == nil {
		home, err := os.UserHomeDir()
		if err != nil {
			return
		}
		for _, name := range defaultIdentities {
			paths = append(paths, filepath.Join(home, ".ssh", name))
		}
	}
	for _, path := range paths {
		f, err := readKeyFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			// Its public half may name a key of the agent.
			if f, err = readKeyFile(path + ".pub"); err != nil {
				continue
			}
		}
		if err != nil {
			k.skipped = append(k.skipped, err.Error())
			continue
		}
		k.files = append(k.files, f)
	}
}

// readCertificates reads those that are named, and those that lie beside the
// keys.
func (k *keyring) readCertificates() {
	paths := k.o.CertificateFiles
	for _, f := range k.files {
		paths = append(paths[:len(paths):len(paths)], strings.TrimSuffix(f.path, ".pub")+"-cert.pub")
	}
	for i, path := range paths {
		text, err := readRegular(path)
		if err != nil {
			if i < len(k.o.CertificateFiles) {
				k.skipped = append(k.skipped, err.Error())
			}
			continue
		}
		public, _, _, _, err := ssh.ParseAuthorizedKey(text)
		if c, ok := public.(*ssh.Certificate); ok && err == nil {
			k.certs = append(k.certs, c)
		} else {
			k.skipped = append(k.skipped, path+" is no certificate")
		}
	}
}

// readRegular reads a small file. A pipe or a terminal would wait for somebody.
func readRegular(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|nonBlocking, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err == nil && len(text) > maxKeyFile {
		err = fmt.Errorf("%s: it is longer than %d bytes", path, maxKeyFile)
	}
	return text, err
}
