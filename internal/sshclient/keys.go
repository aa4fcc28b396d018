package sshclient

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"gitcluster/internal/cluster"
)

// A keyring finds the keys to offer, when the server asks for them.
type keyring struct {
	ctx     context.Context
	o       Options
	files   []*keyFile
	certs   []*ssh.Certificate
	answers bool       // the agent does
	agent   *agentConn // nil until it is needed for more than to list its keys
	list    []offer
	listed  bool
	offered int
	skipped []string // why keys that exist are of no use
	foreign bool     // one of them is of a kind that ssh could use
	retry   bool     // a key could not sign, and others are left
	failed  bool     // a key could not sign
	// questions: the server also takes answers to questions instead of a key, or
	// besides one.
	questions bool
	// unwanted: the server takes no key at all.
	unwanted bool
	// patience is called before a signature that may need a person, and what it
	// returns after it.
	patience func() func()
}

// An offer is a key, or a certificate for one.
type offer struct {
	ssh.Signer
	of *key
}

// newKeyring reads the identity file, if one must be used: a mistake there
// should show at once and not only after a server has been reached.
func newKeyring(ctx context.Context, o Options) (*keyring, error) {
	if o.Agents == nil {
		o.Agents = new(Agents)
	}
	k := &keyring{ctx: ctx, o: o, patience: func() func() { return func() {} }}
	switch {
	case len(o.Signers) > 0:
		for _, s := range o.Signers {
			k.list = append(k.list, offer{s, nil})
		}
		k.listed = true
	case o.IdentityFile != "":
		f, err := readKeyFile(o.IdentityFile)
		if err != nil {
			return nil, cluster.WithHint(fmt.Errorf("%w: %w", ErrIdentity, err), "set \"identity\" to a private key file")
		}
		k.o.IdentitiesOnly = true
		k.files = []*keyFile{f}
	}
	return k, nil
}

// next is the library's question what to do after a way to log in has failed:
// go on to the other keys if one that the server would have taken could not sign.
func (k *keyring) next(c *ssh.ClientAuthContext) (ssh.AuthMethod, error) {
	k.questions = slices.Contains(c.AllowedMethods, "password") || slices.Contains(c.AllowedMethods, "keyboard-interactive")
	k.unwanted = k.offered == 0 && !slices.Contains(c.AllowedMethods, "publickey")
	if !k.retry || len(k.list) == 0 || !slices.Contains(c.AllowedMethods, "publickey") {
		return nil, nil
	}
	k.retry = false
	return ssh.PublicKeysCallback(k.signers), nil
}

// signers is the callback of the SSH library.
func (k *keyring) signers() (signers []ssh.Signer, err error) {
	if !k.listed {
		k.find()
		k.listed = true
	}
	k.offered = max(k.offered, len(k.list))
	for _, o := range k.list {
		signers = append(signers, o.Signer)
	}
	return signers, nil
}

// find lists the keys in ssh's order: those of the agent that a file names, the
// agent's others, and the files that the agent does not hold. Each has its
// certificates before it.
func (k *keyring) find() {
	if k.o.IdentityFile == "" {
		k.readFiles()
	}
	k.readCertificates()
	var held []*key
	if k.needsAgent() {
		held = k.fromAgent()
	}
	for _, f := range k.files {
		for _, h := range held {
			if f.public != nil && sameKey(h.certified(), f.public) {
				k.add(h)
			}
		}
	}
	for _, h := range held {
		if !k.o.IdentitiesOnly || slices.ContainsFunc(k.certs, func(c *ssh.Certificate) bool { return sameKey(c.Key, h.certified()) }) {
			k.add(h)
		}
	}
	for _, f := range k.files {
		k.addFile(f)
	}
}

// needsAgent reports whether the agent may have what the files have not.
func (k *keyring) needsAgent() bool {
	if !k.o.IdentitiesOnly || slices.ContainsFunc(k.files, func(f *keyFile) bool { return f.signer == nil }) {
		return true
	}
	return slices.ContainsFunc(k.certs, func(c *ssh.Certificate) bool {
		return !slices.ContainsFunc(k.files, func(f *keyFile) bool { return sameKey(f.public, c.Key) })
	})
}

func (k *keyring) addFile(f *keyFile) {
	switch {
	case f.signer != nil:
		k.add(&key{ring: k, public: f.public, signer: f.signer})
	case f.public != nil && k.lists(f.public):
		// An agent holds it.
	case f.encrypted && k.o.Keychain:
		k.foreign = true
		k.skipped = append(k.skipped, f.path+" is encrypted, and its passphrase may be in the keychain, which only ssh can read")
	case f.encrypted && k.o.Ask == nil:
		k.skipped = append(k.skipped, f.path+" is encrypted and no agent holds it")
	case f.encrypted:
		key := &key{ring: k, public: f.public, file: f}
		if key.public == nil { // an older format, which does not say
			if err := key.unlock(); err != nil {
				k.skipped = append(k.skipped, err.Error())
				return
			}
		}
		k.add(key)
	default:
		k.foreign = k.foreign || f.foreign
		k.skipped = append(k.skipped, f.unusable)
	}
}

// add lists a key behind its certificates, unless it is listed already.
func (k *keyring) add(key *key) {
	if k.lists(key.public) {
		return
	}
	if n, ok := rsaBits(key.certified()); ok && n < k.o.MinRSABits {
		k.skipped = append(k.skipped, fmt.Sprintf("%s has %d bits of the %d that RequiredRSASize asks for", ssh.FingerprintSHA256(key.public), n, k.o.MinRSABits))
		return
	}
	for _, c := range k.certs {
		if !sameKey(c.Key, key.public) || k.lists(c) {
			continue
		}
		if signer, err := ssh.NewCertSigner(c, key); err == nil {
			k.list = append(k.list, offer{signer, key})
		}
	}
	k.list = append(k.list, offer{key, key})
}

func (k *keyring) lists(public ssh.PublicKey) bool {
	return slices.ContainsFunc(k.list, func(o offer) bool { return sameKey(o.PublicKey(), public) })
}

// fail takes note that a key which the server accepts cannot sign. What stands
// before it the server has refused.
func (k *keyring) fail(failed *key, err error) {
	k.failed = true
	k.skipped = append(k.skipped, err.Error())
	for i, o := range k.list {
		if o.of == failed {
			k.list = slices.DeleteFunc(slices.Clone(k.list[i:]), func(o offer) bool { return o.of == failed })
			k.retry = true
			return
		}
	}
}

func (k *keyring) close() {
	if k.agent != nil {
		k.agent.close()
	}
}

// refused makes the error for a server that took none of the keys. tooMany is
// whether it has ended the connection because of their number.
func (k *keyring) refused(user string, tooMany bool) error {
	why := fmt.Sprintf("for user %q", user)
	switch {
	case k.unwanted:
		why += ": the server takes no SSH keys"
	case k.offered == 0:
		why += " without any SSH key to offer"
	case k.offered == 1:
		why += " with the one SSH key there is"
	default:
		why += fmt.Sprintf(" with any of %d SSH keys", k.offered)
	}
	if len(k.skipped) > 0 {
		why += " (" + strings.Join(k.skipped, "; ") + ")"
	}
	err := fmt.Errorf("%w %s", ErrAuth, why)
	if k.foreign {
		err = fmt.Errorf("%w; %w", err, ErrUnsupported)
	}
	if k.questions {
		err = fmt.Errorf("%w; %w", err, ErrInteractive)
	}
	if tooMany {
		return cluster.WithHint(fmt.Errorf("%w before the right one came", err),
			"name the one to use: \"identity\" in client.toml, or IdentityFile together with IdentitiesOnly in ~/.ssh/config")
	}
	return cluster.WithHint(err,
		"give your public key to the cluster's operator; choose a key with \"identity\" in client.toml or with ssh-add")
}

// A key signs by itself, through an agent, or once its file is decrypted, which
// asks for its passphrase only when the server has said that it would accept it.
type key struct {
	ring   *keyring
	public ssh.PublicKey // may be a certificate that an agent holds
	signer ssh.Signer    // nil for a file that is not decrypted yet, and for an agent's
	held   bool          // by an agent
	file   *keyFile
}

func (k *key) PublicKey() ssh.PublicKey { return k.public }

func (k *key) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	return k.SignWithAlgorithm(rand, data, "")
}

func (k *key) SignWithAlgorithm(rand io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	signature, err := k.sign(rand, data, algorithm)
	if err != nil {
		k.ring.fail(k, err)
	}
	return signature, err
}

func (k *key) sign(rand io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	if k.held {
		defer k.ring.patience()()
		conn, err := k.ring.reachAgent()
		if err != nil {
			return nil, err
		}
		signature, err := conn.sign(k.public, data, algorithm)
		if err != nil {
			return nil, fmt.Errorf("the agent does not sign with %s", ssh.FingerprintSHA256(k.public))
		}
		return signature, nil
	}
	if k.signer == nil {
		if err := k.unlock(); err != nil {
			return nil, err
		}
	}
	if as, ok := k.signer.(ssh.AlgorithmSigner); ok && algorithm != "" {
		return as.SignWithAlgorithm(rand, data, algorithm)
	}
	return k.signer.Sign(rand, data)
}

// certified is the key itself where an agent holds a certificate for it.
func (k *key) certified() ssh.PublicKey {
	if public, err := ssh.ParsePublicKey(k.public.Marshal()); err == nil {
		if c, ok := public.(*ssh.Certificate); ok {
			return c.Key
		}
	}
	return k.public
}

// unlock asks for the passphrase of the key's file. A key for which that fails is
// offered no more, so a person is asked once.
func (k *key) unlock() error {
	defer k.ring.patience()()
	private, err := k.file.decrypt(k.ring.ctx, k.ring.o.Ask)
	k.ring.foreign = k.ring.foreign || k.file.foreign
	if err == nil {
		k.signer, err = ssh.NewSignerFromKey(private)
	}
	if err != nil {
		return err
	}
	if k.public == nil {
		k.public = k.signer.PublicKey()
	}
	if k.ring.o.AddToAgent && k.ring.answers {
		// Without success the passphrase is asked for again next time, no more.
		if conn, err := k.ring.reachAgent(); err == nil {
			defer conn.within(agentTimeout)()
			conn.Add(agent.AddedKey{PrivateKey: private, Comment: k.file.path})
		}
	}
	return nil
}

func sameKey(a, b ssh.PublicKey) bool { return string(a.Marshal()) == string(b.Marshal()) }
