package sshclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/skeema/knownhosts"
	"golang.org/x/crypto/ssh"
	xknownhosts "golang.org/x/crypto/ssh/knownhosts"

	"gitcluster/internal/cluster"
)

// How to meet a host key that is not known, as StrictHostKeyChecking has it.
const (
	StrictAsk       = "ask" // the default: a person decides
	StrictYes       = "yes" // refuse it
	StrictAcceptNew = "accept-new"
	StrictNo        = "no" // here the same: a key that has changed is never accepted
)

// A hostCheck decides whether a server is the one it should be. It stops
// whoever can redirect the connection from reading and changing what goes over
// it.
type hostCheck struct {
	ctx        context.Context
	o          Options
	name       string   // "host:port" by which it is known
	algorithms []string // what to ask the server for
	signatures []string // what an authority may have signed with
	refusal    error    // why check refused, as the library hides it in text
	shown      ssh.PublicKey
	known      *knownHosts
	proceed    func() error // called once, before anything that a person notices
	// patience is called before a wait for a person, and what it returns after it.
	patience func() func()
}

func newHostCheck(ctx context.Context, o Options) (*hostCheck, error) {
	h := &hostCheck{ctx: ctx, o: o, name: o.Addr, patience: func() func() { return func() {} }}
	h.proceed = sync.OnceValue(func() error {
		if o.Proceed == nil {
			return nil
		}
		defer h.patience()()
		return o.Proceed(ctx)
	})
	if o.HostKey != nil && !o.Revocable {
		h.algorithms = algorithmsOf(o.HostKey)
		return h, nil
	}
	if o.HostKeyAlias != "" {
		h.name = net.JoinHostPort(strings.ToLower(o.HostKeyAlias), "22") // an alias has no port
	}
	var err error
	if h.known, err = loadKnownHosts(o.KnownHosts, o.GlobalKnownHosts, o.HostKey != nil); err != nil {
		return nil, err
	}
	if o.HostKey != nil {
		h.algorithms = algorithmsOf(o.HostKey)
		return h, nil
	}
	if h.signatures, err = choose(caSignatures, append([]string{ssh.KeyAlgoRSA}, caSignatures...), o.Algorithms.CASignatures); err != nil {
		return nil, err
	}
	allowed, err := choose(hostKeyAlgorithms, ssh.SupportedAlgorithms().HostKeys, o.Algorithms.HostKeys)
	if err != nil {
		return nil, err
	}
	h.algorithms = h.ask(allowed)
	return h, nil
}

// hostKeyAlgorithms are asked for where nothing else is said, certificates only
// where somebody may issue them.
var hostKeyAlgorithms = []string{
	ssh.CertAlgoED25519v01, ssh.CertAlgoECDSA256v01, ssh.CertAlgoECDSA384v01, ssh.CertAlgoECDSA521v01, ssh.CertAlgoRSASHA512v01, ssh.CertAlgoRSASHA256v01,
	ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256,
}

// ask chooses the kinds of key to ask the server for: first those that are known of
// it, as it may have others, too, which would look like a change.
func (h *hostCheck) ask(allowed []string) []string {
	known, authority := h.known.kinds(h.name)
	if other := h.withoutPort(); other != "" && len(known) == 0 {
		more, too := h.known.kinds(other)
		known, authority = more, authority || too
	}
	// An authority's own key says nothing of the kind of those it vouches for.
	certs := certificates(allowed)
	plain := without(allowed, certs)
	if !authority {
		certs = nil
	}
	known = common(known, allowed)
	list := slices.Concat(certs, known, without(plain, known))
	if len(list) == 0 {
		return allowed
	}
	return list
}

func certificates(algorithms []string) (list []string) {
	for _, a := range algorithms {
		if strings.Contains(a, "-cert-v") {
			list = append(list, a)
		}
	}
	return list
}

// withoutPort is the name with SSH's own port, under which ssh looks too; "" if
// it has that port.
func (h *hostCheck) withoutPort() string {
	host, port, err := net.SplitHostPort(h.name)
	if err != nil || port == "22" {
		return ""
	}
	return net.JoinHostPort(host, "22")
}

func (h *hostCheck) check(_ string, remote net.Addr, key ssh.PublicKey) error {
	h.shown = key
	if n, ok := rsaBits(key); ok && n < h.o.MinRSABits {
		h.refusal = cluster.WithHint(fmt.Errorf("%w: the server's %s has %d bits of the %d that RequiredRSASize asks for", ErrHostKeyShort, shownKey(key), n, h.o.MinRSABits),
			"the server needs another key: ask its operator")
		return h.refusal
	}
	if h.o.HostKey != nil {
		h.refusal = h.judgePinned(remote, key)
	} else {
		h.refusal = h.judge(remote, key)
	}
	if h.refusal == nil {
		h.refusal = h.proceed()
	}
	return h.refusal
}

func (h *hostCheck) judgePinned(remote net.Addr, key ssh.PublicKey) error {
	if sameKey(key, h.o.HostKey) {
		if h.known == nil {
			return nil
		}
		// The files need not know the key, but they may say that it was stolen.
		return h.revocation(h.known.db.HostKeyCallback()(h.name, remote, key), key)
	}
	return cluster.WithHint(
		fmt.Errorf("%w: the server has %s, the configuration %s", ErrHostKeyChanged, shownKey(key), ssh.FingerprintSHA256(h.o.HostKey)),
		"if the server's operator confirms the new key, put it into the configuration; else somebody may be listening in between")
}

// CheckPinned returns the error with which Dial would refuse the key o.HostKey itself,
// as one that the files revoke. It is for whoever has another program connect.
func CheckPinned(o Options) error {
	h, err := newHostCheck(context.Background(), o)
	if err != nil {
		return err
	}
	return h.judgePinned(new(net.TCPAddr), o.HostKey)
}

func (h *hostCheck) judge(remote net.Addr, key ssh.PublicKey) error {
	check := h.known.db.HostKeyCallback()
	err := check(h.name, remote, key)
	if err == nil {
		return h.signed(key)
	}
	if err := h.revocation(err, key); err != nil {
		return err
	}
	var mismatch *xknownhosts.KeyError
	isKey := errors.As(err, &mismatch)
	if isKey && h.known.hasKey(h.name) {
		return h.changed(key, mismatch.Want)
	}
	if other := h.withoutPort(); other != "" && h.o.HostKeyAlias == "" && check(other, remote, key) == nil {
		return h.signed(key)
	}
	if c, ok := key.(*ssh.Certificate); ok && strings.Contains(err.Error(), "no authorities for hostname") {
		// A certificate of nobody we trust adds nothing to the key in it, as with ssh.
		return h.judge(remote, c.Key)
	}
	if !isKey {
		// A certificate that is not valid for this host, or not now.
		return cluster.WithHint(fmt.Errorf("%w: %s", ErrHostKeyUnknown, printable(strings.TrimPrefix(err.Error(), "ssh: "))),
			"the server shows a certificate; the line @cert-authority of known_hosts that is to vouch for it must name this host")
	}
	return h.meet(remote, key)
}

// signed judges by what an authority has signed a certificate that is trusted.
func (h *hostCheck) signed(key ssh.PublicKey) error {
	c, ok := key.(*ssh.Certificate)
	if !ok || slices.Contains(h.signatures, c.Signature.Format) {
		return nil
	}
	return cluster.WithHint(fmt.Errorf("%w: its certificate is signed with %s", ErrHostKeyUnknown, printable(c.Signature.Format)),
		"CASignatureAlgorithms of the SSH configuration says what an authority may sign with; the server's operator can have it signed anew")
}

// revocation is the error for a key that must not be used, if that is what the
// files say.
func (h *hostCheck) revocation(err error, key ssh.PublicKey) error {
	var revoked *xknownhosts.RevokedError
	var mismatch *xknownhosts.KeyError
	switch {
	case err == nil, errors.As(err, &mismatch):
		return nil
	case errors.As(err, &revoked):
		return cluster.WithHint(
			fmt.Errorf("%w: the server has %s, and %s line %d revokes it", ErrHostKeyRevoked, shownKey(key), h.known.shown(revoked.Revoked.Filename), revoked.Revoked.Line),
			askOperator)
	case strings.HasSuffix(err.Error(), "revoked"):
		return cluster.WithHint(fmt.Errorf("%w: the server has a certificate for it, or from an authority, that is not to be used", ErrHostKeyRevoked), askOperator)
	}
	return nil
}

const askOperator = "whoever holds that key is not to be trusted any more: ask the server's operator"

// changed is the error for a server with another key than the one that is known.
func (h *hostCheck) changed(key ssh.PublicKey, want []xknownhosts.KnownKey) error {
	old := want[0]
	for _, k := range want {
		if k.Key.Type() == key.Type() && !h.known.isAuthority(k) {
			old = k
		}
	}
	file := h.known.shown(old.Filename)
	return cluster.WithHint(
		fmt.Errorf("%w: the server has %s, but %s line %d has %s; somebody may be listening in between",
			ErrHostKeyChanged, shownKey(key), file, old.Line, shownKey(old.Key)),
		fmt.Sprintf("if the server's operator confirms the new key, forget the old one: ssh-keygen -f %s -R %s",
			shellWord(file), shellWord(knownhosts.Normalize(h.name))))
}

// meet decides about a key of which nothing is known.
func (h *hostCheck) meet(remote net.Addr, key ssh.PublicKey) error {
	switch h.o.StrictHostKeys {
	case StrictAcceptNew, StrictNo:
	case StrictYes:
		return h.unknown(key)
	default:
		if err := h.proceed(); err != nil {
			return err
		}
		if !h.confirmed(remote, key) {
			if cause := context.Cause(h.ctx); cause != nil {
				return cause
			}
			return h.unknown(key)
		}
	}
	if file := h.known.writable; file != "" {
		name := knownhosts.Normalize(h.name)
		err := addKnownHost(file, name, h.o.HashKnownHosts, key)
		switch {
		case h.o.Say == nil:
		case err != nil:
			h.o.Say(fmt.Sprintf("the host key of %s is not remembered: %v", name, err))
		default:
			h.o.Say(fmt.Sprintf("added the host key of %s to %s: %s", name, file, shownKey(key)))
		}
	}
	return nil
}

// confirmed asks a person.
func (h *hostCheck) confirmed(remote net.Addr, key ssh.PublicKey) bool {
	if h.o.Ask == nil {
		return false
	}
	place := knownhosts.Normalize(h.name)
	if ip := remote.String(); ip != h.o.Addr && !strings.HasPrefix(ip, "0.0.0.0:") {
		place += " (" + ip + ")"
	}
	defer h.patience()()
	answer, err := h.o.Ask(h.ctx, Question{Text: fmt.Sprintf(
		"Nothing is known of the host %s.\n%s key fingerprint is %s.\nConnect to it and remember that key (yes/no/fingerprint)? ",
		place, shortType(key), ssh.FingerprintSHA256(key))})
	answer = strings.TrimSpace(answer)
	return err == nil && (strings.EqualFold(answer, "yes") || answer == ssh.FingerprintSHA256(key))
}

func (h *hostCheck) unknown(key ssh.PublicKey) error {
	host, port, _ := net.SplitHostPort(h.o.Addr)
	file := h.known.writable
	if file == "" {
		file = filepath.Join("~", ".ssh", "known_hosts")
	}
	err := fmt.Errorf("%w: the server has %s", ErrHostKeyUnknown, shownKey(key))
	if h.o.HostKeyAlias != "" {
		// ssh-keyscan would give the line another name.
		return cluster.WithHint(err, fmt.Sprintf("if the server's operator confirms that key, add a line to %s: %s %s",
			file, h.o.HostKeyAlias, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))))
	}
	return cluster.WithHint(err,
		fmt.Sprintf("if the server's operator confirms that key, add it: ssh-keyscan -t %s -p %s %s >>%s; or for a cluster: git cluster use %s",
			strings.ToLower(shortType(key)), port, shellWord(host), shellWord(file), shellWord(h.o.Addr)))
}

// missing is the error for a server that has no key of the kinds asked for.
func (h *hostCheck) missing(offered []string) error {
	old := slices.Contains(h.algorithms, ssh.KeyAlgoRSASHA256) && slices.Contains(offered, ssh.KeyAlgoRSA) // it signs with SHA-1 only
	if old || h.o.HostKey == nil {
		return fmt.Errorf("%w: the server's host keys are of the kinds %s", ErrUnsupported, printable(strings.Join(offered, ", ")))
	}
	return cluster.WithHint(
		fmt.Errorf("%w: the server has no key of the kind that is known of it (%s)", ErrHostKeyChanged, strings.Join(h.algorithms, ", ")),
		"if the server's operator confirms another key, put it into the configuration; else somebody may be listening in between")
}

// algorithmsOf lists the signature algorithms a server may prove a key with.
func algorithmsOf(key ssh.PublicKey) []string {
	if key.Type() == ssh.KeyAlgoRSA {
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return []string{key.Type()}
}

func shownKey(key ssh.PublicKey) string {
	return fmt.Sprintf("%s %s", key.Type(), ssh.FingerprintSHA256(key))
}

// shortType is what ssh's programs call the kind of a key.
func shortType(key ssh.PublicKey) string {
	switch t := key.Type(); {
	case t == ssh.KeyAlgoRSA:
		return "RSA"
	case strings.HasPrefix(t, "ecdsa-"):
		return "ECDSA"
	}
	return "ED25519"
}

// shellWord quotes a word that is shown for pasting into a shell.
func shellWord(s string) string {
	plain := func(r rune) bool {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("/._-:@~", r)
	}
	if strings.TrimFunc(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func common(list, with []string) (both []string) {
	for _, s := range list {
		if slices.Contains(with, s) {
			both = append(both, s)
		}
	}
	return both
}

func without(list, gone []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return slices.Contains(gone, s) })
}
