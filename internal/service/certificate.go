package service

import (
	"fmt"
	"slices"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/cluster"
)

// checkCertificate looks at what Git found out about the signature of a push
// that is signed (git-push(1), --signed). The certificate names every ref with its old and
// new value, the repository's address, and the nonce that this very connection was
// given; so nobody can push the same again with a certificate they have seen. Who
// signed is logged. Nothing is decided by it but that a certificate must be good:
// what a person may do follows from how they logged in.
func (p *push) checkCertificate(env map[string]string) error {
	if env["GIT_PUSH_CERT"] == "" {
		return nil
	}
	if status := env["GIT_PUSH_CERT_NONCE_STATUS"]; status != "OK" {
		return fmt.Errorf("the push certificate was made for another push (nonce %.20q): %w", status, cluster.ErrDenied)
	}
	const (
		bad     = "B"
		revoked = "R"
	)
	status, key := env["GIT_PUSH_CERT_STATUS"], env["GIT_PUSH_CERT_KEY"]
	if status == bad || status == revoked {
		return fmt.Errorf("the signature of the push certificate is not good: %w", cluster.ErrDenied)
	}
	p.service.Log.Info("signed push", "repo", p.repo.Name, "identity", p.actor.String(), "key", key, "status", status, "own_key", p.holds(key))
	return nil
}

// holds reports whether the fingerprint is that of a key by which the pusher
// could log in.
func (p *push) holds(fingerprint string) bool {
	user, ok := p.service.Directory.Snapshot().User(p.actor.User)
	return ok && slices.ContainsFunc(user.Keys, func(line string) bool {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		return err == nil && ssh.FingerprintSHA256(key) == fingerprint
	})
}
