package credential

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"gitcluster/internal/cluster"
	"gitcluster/internal/durable"
)

// sign signs data with the device's key, here or in the agent.
func (id *Identity) sign(ctx context.Context, data []byte) (*ssh.Signature, error) {
	sig, err := id.signUnchecked(ctx, data)
	if err != nil {
		return nil, err
	}
	// An agent is another program. What it gives is not sent anywhere before it
	// is seen to be a signature, and one of this key.
	if err := id.public.Verify(data, sig); err != nil {
		return nil, fmt.Errorf("the signature by %s is wrong: %w", id.Fingerprint(), err)
	}
	return sig, nil
}

func (id *Identity) signUnchecked(ctx context.Context, data []byte) (*ssh.Signature, error) {
	if id.Agent == "" {
		return id.signer.Sign(rand.Reader, data)
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", id.Agent)
	if err != nil {
		return nil, fmt.Errorf("the agent with the device's key: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	sig, err := agent.NewClient(conn).Sign(id.public, data)
	if cause := context.Cause(ctx); cause != nil {
		return nil, cause
	}
	if err != nil {
		return nil, cluster.WithHint(fmt.Errorf("the agent at %s did not sign with %s: %w", id.Agent, id.Fingerprint(), err),
			"see whether it holds the key: ssh-add -l")
	}
	return sig, nil
}

// loadKey finds the device's key in its directory.
func (id *Identity) loadKey() error {
	if id.Agent != "" {
		path := filepath.Join(id.dir, filePublic)
		text, _, err := readFile(path)
		if err != nil {
			return err
		}
		if id.public, err = parsePublic(string(text)); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return nil
	}
	path := filepath.Join(id.dir, fileKey)
	text, info, err := readFile(path)
	if err != nil {
		return err
	}
	// A key that other accounts can read is not this device's alone: whoever
	// reads it is the device.
	if mode := info.Mode().Perm(); mode&0o077 != 0 && runtime.GOOS != "windows" {
		return cluster.WithHint(fmt.Errorf("the device's key %s may be used by others (mode %#o)", path, mode), "chmod 600 "+path)
	}
	signer, err := ssh.ParsePrivateKey(text)
	var locked *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &locked):
		return cluster.WithHint(fmt.Errorf("the device's key %s is encrypted, and a device has nobody to ask", path),
			"remove its passphrase: ssh-keygen -p -f "+path)
	case err != nil:
		return fmt.Errorf("%s: %w", path, err)
	case signer.PublicKey().Type() != ssh.KeyAlgoED25519:
		return fmt.Errorf("%s: the key is of the type %q, and a device's is %q", path, signer.PublicKey().Type(), ssh.KeyAlgoED25519)
	}
	id.signer, id.public = signer, signer.PublicKey()
	return nil
}

// createKey writes a new key, the public half first: loadKey looks for the other.
func createKey(dir, comment string) error {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(private, comment)
	if err != nil {
		return err
	}
	sshPublic, err := ssh.NewPublicKey(public)
	if err != nil {
		return err
	}
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(sshPublic))) + " " + comment + "\n"
	if err := durable.WriteFile(filepath.Join(dir, filePublic), []byte(line), 0o644); err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, fileKey), pem.EncodeToMemory(block), 0o600)
}

// parsePublic reads the one Ed25519 key of an authorized_keys line.
func parsePublic(line string) (ssh.PublicKey, error) {
	key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	switch {
	case err != nil:
		return nil, errors.New("it is not a public key")
	case len(options) > 0:
		// Options restrict a key. Taking it without them would give its holder
		// more than whoever wrote the line meant.
		return nil, errors.New("the public key has options, which are not supported")
	case len(rest) > 0:
		return nil, errors.New("there is more than one line")
	case key.Type() != ssh.KeyAlgoED25519:
		return nil, fmt.Errorf("the key is of the type %q, and a device's is %q", key.Type(), ssh.KeyAlgoED25519)
	}
	return key, nil
}

func readFile(path string) ([]byte, os.FileInfo, error) {
	// A pipe or a terminal would wait for somebody.
	if info, err := os.Stat(path); err != nil {
		return nil, nil, err
	} else if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s is not a file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s: it is longer than %d bytes", path, maxFile)
	}
	return text, info, err
}
