package service

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/access"
	"gitcluster/internal/cluster"
)

const aliceKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMAQXL6tXfwjWJHQuFJtmTUQp9PdWZEI+JmAvPIJE1Hg"

// rules is a Directory that does not change.
type rules struct{ *access.Directory }

func (r rules) Snapshot() *access.Directory                        { return r.Directory }
func (r rules) Refresh(context.Context) (*access.Directory, error) { return r.Directory, nil }

func TestCheckCertificate(t *testing.T) {
	known := access.NewDirectory(nil, []cluster.User{{Name: "alice", Keys: []string{aliceKey}}}, nil, nil)
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(aliceKey))
	if err != nil {
		t.Fatal(err)
	}
	alices := ssh.FingerprintSHA256(key)
	for name, c := range map[string]struct {
		env    map[string]string
		refuse string
		logged string
	}{
		"no certificate":      {map[string]string{"GIT_PUSH_CERT_NONCE_STATUS": "BAD"}, "", ""},
		"alice's own":         {cert("OK", "G", alices), "", "own_key=true"},
		"somebody's":          {cert("OK", "G", "SHA256:other"), "", "own_key=false"},
		"one Git cannot read": {cert("OK", "N", ""), "", "status=N"},
		"a bad signature":     {cert("OK", "B", alices), "not good", ""},
		"a revoked key":       {cert("OK", "R", alices), "not good", ""},
		"an old one":          {cert("SLOP", "G", alices), "another push", ""},
		"one without a nonce": {cert("MISSING", "G", alices), "another push", ""},
		"no word on a nonce":  {map[string]string{"GIT_PUSH_CERT": "1234", "GIT_PUSH_CERT_STATUS": "G"}, "another push", ""},
	} {
		var log strings.Builder
		s := &Service{Options: Options{Directory: rules{known}, Log: slog.New(slog.NewTextHandler(&log, nil))}}
		p := &push{service: s, actor: cluster.Identity{User: "alice"}}
		err := p.checkCertificate(c.env)
		if (err != nil) != (c.refuse != "") || err != nil && !strings.Contains(err.Error(), c.refuse) {
			t.Errorf("%s: %v, want %q", name, err, c.refuse)
		}
		if !strings.Contains(log.String(), c.logged) || (log.Len() > 0) != (c.logged != "") {
			t.Errorf("%s: logged %q, want %q", name, log.String(), c.logged)
		}
	}
}

func cert(nonce, status, key string) map[string]string {
	return map[string]string{"GIT_PUSH_CERT": "1234", "GIT_PUSH_CERT_NONCE_STATUS": nonce, "GIT_PUSH_CERT_STATUS": status, "GIT_PUSH_CERT_KEY": key}
}
