package client

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"gitcluster/internal/replica"
	"gitcluster/internal/sshclient"
	"gitcluster/internal/sshclient/sshtest"
	"gitcluster/internal/sshconfig"
)

// configured is an account whose ~/.ssh/config is text.
func configured(t *testing.T, text string) *account {
	t.Helper()
	home := t.TempDir()
	t.Setenv("HOME", home)
	if err := os.Mkdir(filepath.Join(home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, ".ssh", "config"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	a := newAccount(func(string) string { return "" })
	a.config = &sshconfig.Config{Home: home, Getenv: a.getenv}
	return a
}

// The policy that Red Hat's systems give every host leaves our client in use, and
// it finds algorithms to connect with.
func TestCryptoPolicy(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{})
	dir := t.TempDir()
	path, key := sshtest.NewKeyFile(t, dir, "key", "")
	s.Accept = key
	known := filepath.Join(dir, "known_hosts")
	if err := os.WriteFile(known, []byte(knownhosts.Line([]string{s.Addr}, s.Host.PublicKey())+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := configured(t, "IdentityFile "+path+"\nUserKnownHostsFile "+known+"\nGlobalKnownHostsFile none\nMatch final all\n"+sshtest.CryptoPolicy)
	r, err := a.route(t.Context(), replica.Candidate{Name: "n", Addr: s.Addr})
	if err != nil || len(r.beyond)+len(r.ifRefused) > 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if o := r.options; o.MinRSABits != 2048 || !strings.Contains(o.Algorithms.CASignatures, "ssh-ed25519,") {
		t.Errorf("%+v", o)
	}
	conn, err := sshclient.Dial(t.Context(), r.options)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

// A key that known_hosts revokes is not told to another program, which would be given
// this key alone to judge by.
func TestRevokedKeyForAProgram(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	key := sshtest.NewKey(t).PublicKey()
	text := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
	candidate := replica.Candidate{Name: "n", Addr: "host.example:22", HostKey: text}
	for known, want := range map[string]error{"": nil, "@revoked * " + text: sshclient.ErrHostKeyRevoked, "@revoked * rubbish": nil} {
		a := configured(t, "")
		file := filepath.Join(os.Getenv("HOME"), ".ssh", "known_hosts")
		if err := os.WriteFile(file, []byte(known+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := a.route(t.Context(), candidate)
		if err != nil {
			t.Fatal(err)
		}
		_, err = newProgramTransport(program{command: "ssh", variant: variantSSH}, candidate, r, "", 0)
		if strings.HasSuffix(known, "rubbish") {
			if err == nil || !strings.Contains(err.Error(), "known_hosts line 1 revokes a key that cannot be read") {
				t.Errorf("%q: %v", known, err)
			}
		} else if !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", known, err, want)
		}
	}
}
