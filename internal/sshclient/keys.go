package sshclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"gitcluster/internal/cluster"
)

// agentTimeout bounds the listing of an agent's keys.
const agentTimeout = 5 * time.Second

// A keyring finds the keys to offer, when the server asks for them.
type keyring struct {
	ctx     context.Context
	fixed   []ssh.Signer  // given by the caller, or from its file
	wanted  ssh.PublicKey // of a file that only an agent can use
	agent   net.Conn
	offered int
	skipped []string // why keys that exist are not offered
	// patience is called before a signature that may need a person, and what it
	// returns after it.
	patience func() func()
}

// newKeyring reads the identity file, if one is given: a mistake there should
// show at once and not only after a server has been reached.
func newKeyring(ctx context.Context, o Options) (*keyring, error) {
	k := &keyring{ctx: ctx, fixed: o.Signers}
	if len(o.Signers) > 0 || o.IdentityFile == "" {
		return k, nil
	}
	signer, public, err := readKey(o.IdentityFile)
	switch {
	case err == nil:
		k.fixed = []ssh.Signer{signer}
	case public != nil:
		k.wanted = public
		k.skipped = append(k.skipped, o.IdentityFile+" is encrypted and no agent holds it")
	default:
		return nil, cluster.WithHint(fmt.Errorf("%w: %w", ErrIdentity, err), "set \"identity\" to a private key file")
	}
	return k, nil
}

// signers is the callback of the SSH library.
func (k *keyring) signers() ([]ssh.Signer, error) {
	list := k.fixed
	if len(list) == 0 {
		list = k.fromAgent()
		if k.wanted == nil {
			list = append(list, k.fromHome(list)...)
		}
	}
	k.offered = len(list)
	return list, nil
}

func (k *keyring) fromAgent() (list []ssh.Signer) {
	path := os.Getenv("SSH_AUTH_SOCK")
	if path == "" {
		return nil
	}
	conn, err := net.DialTimeout("unix", path, agentTimeout)
	if err != nil {
		k.skipped = append(k.skipped, "the agent cannot be reached")
		return nil
	}
	k.agent = conn
	stop := context.AfterFunc(k.ctx, func() { conn.Close() })
	defer stop()
	conn.SetDeadline(time.Now().Add(agentTimeout))
	all, err := agent.NewClient(conn).Signers()
	if err != nil {
		k.skipped = append(k.skipped, "the agent does not answer")
		return nil
	}
	for _, s := range all {
		if k.wanted == nil || sameKey(s.PublicKey(), k.wanted) {
			list = append(list, patientSigner{s, k})
		}
	}
	return list
}

// fromHome reads the keys that ssh(1) would, without those listed already.
func (k *keyring) fromHome(have []ssh.Signer) (list []ssh.Signer) {
	home, err := os.UserHomeDir()
	if err != nil {
		return nil
	}
	for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
		path := filepath.Join(home, ".ssh", name)
		signer, public, err := readKey(path)
		switch {
		case errors.Is(err, os.ErrNotExist):
		case err == nil && !contains(have, signer.PublicKey()):
			list = append(list, signer)
		case err != nil && (public == nil || !contains(have, public)):
			k.skipped = append(k.skipped, err.Error())
		}
	}
	return list
}

func (k *keyring) close() {
	if k.agent != nil {
		k.agent.Close()
	}
}

// refused makes the error for a server that took none of the keys.
func (k *keyring) refused(user string) error {
	why := fmt.Sprintf("for user %q", user)
	switch k.offered {
	case 0:
		why += " without any SSH key to offer"
	case 1:
		why += " with the one SSH key there is"
	default:
		why += fmt.Sprintf(" with any of %d SSH keys", k.offered)
	}
	if len(k.skipped) > 0 {
		why += " (" + strings.Join(k.skipped, "; ") + ")"
	}
	return cluster.WithHint(fmt.Errorf("%w %s", ErrAuth, why),
		"give your public key to the cluster's operator; choose a key with \"identity\" in client.toml or with ssh-add")
}

// A patientSigner gives a person time to touch a key or to answer the agent's
// question.
type patientSigner struct {
	ssh.Signer
	keys *keyring
}

func (s patientSigner) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	defer s.wait()()
	return s.Signer.Sign(rand, data)
}

func (s patientSigner) SignWithAlgorithm(rand io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	defer s.wait()()
	if as, ok := s.Signer.(ssh.AlgorithmSigner); ok {
		return as.SignWithAlgorithm(rand, data, algorithm)
	}
	return s.Signer.Sign(rand, data)
}

func (s patientSigner) wait() (done func()) {
	stop := context.AfterFunc(s.keys.ctx, func() { s.keys.agent.Close() })
	s.keys.agent.SetDeadline(time.Now().Add(signTimeout))
	resume := s.keys.patience()
	return func() {
		resume()
		stop()
	}
}

// readKey reads a private key file. For an encrypted one it fails, but gives the
// public key if that can be found.
func readKey(path string) (ssh.Signer, ssh.PublicKey, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	signer, err := ssh.ParsePrivateKey(text)
	if err == nil {
		return signer, signer.PublicKey(), nil
	}
	// A public key file names a key that an agent holds.
	if public, _, _, _, perr := ssh.ParseAuthorizedKey(text); perr == nil {
		return nil, public, fmt.Errorf("%s is a public key", path)
	}
	var locked *ssh.PassphraseMissingError
	if !errors.As(err, &locked) {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	public := locked.PublicKey
	if public == nil { // the older file format
		if text, err := os.ReadFile(path + ".pub"); err == nil {
			public, _, _, _, _ = ssh.ParseAuthorizedKey(text)
		}
	}
	err = fmt.Errorf("%s is encrypted and no agent holds it", path)
	return nil, public, err
}

// handshakeError says what went wrong between the TCP connection and the end of
// authentication.
func handshakeError(ctx context.Context, err error, host *hostCheck, keys *keyring, o Options, limit time.Duration) error {
	switch {
	case context.Cause(ctx) != nil:
		return context.Cause(ctx)
	case host.refusal != nil:
		return host.refusal
	case strings.Contains(err.Error(), "unable to authenticate"):
		return keys.refused(o.User)
	case isTimeout(err):
		return fmt.Errorf("%w to the SSH handshake within %v", ErrTimeout, limit)
	case errors.Is(err, io.EOF):
		return fmt.Errorf("the server closed the connection in the SSH handshake: %w", err)
	}
	return err
}

func contains(list []ssh.Signer, key ssh.PublicKey) bool {
	for _, s := range list {
		if sameKey(s.PublicKey(), key) {
			return true
		}
	}
	return false
}

func sameKey(a, b ssh.PublicKey) bool { return string(a.Marshal()) == string(b.Marshal()) }

// printable keeps a server's text from acting on the terminal.
func printable(s string) string {
	if len(s) > 200 {
		s = s[:200]
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}
