package client

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

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
		_, err = newProgramTransport(program{command: "ssh", variant: variantSSH}, candidate, r, "", 0, nil)
		if strings.HasSuffix(known, "rubbish") {
			if err == nil || !strings.Contains(err.Error(), "known_hosts line 1 revokes a key that cannot be read") {
				t.Errorf("%q: %v", known, err)
			}
		} else if !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", known, err, want)
		}
	}
}

// Every setting of ssh_config that is followed gets to where it is followed.
func TestOptionsOfTheConfiguration(t *testing.T) {
	usual := func() sshclient.Options {
		return sshclient.Options{Addr: "node.example:22", User: "git", Version: "gitcluster", KeepAlive: keepAlive, Revocable: true}
	}
	for text, want := range map[string]func(o *sshclient.Options){
		"":                                   func(*sshclient.Options) {},
		"HostName h\nPort 7\nUser bob":       func(o *sshclient.Options) { o.Addr, o.User = "h:7", "bob" },
		"ConnectTimeout 7":                   func(o *sshclient.Options) { o.ConnectTimeout = 7 * time.Second },
		"StrictHostKeyChecking accept-new":   func(o *sshclient.Options) { o.StrictHostKeys = sshclient.StrictAcceptNew },
		"StrictHostKeyChecking yes":          func(o *sshclient.Options) { o.StrictHostKeys = sshclient.StrictYes },
		"HostKeyAlias other":                 func(o *sshclient.Options) { o.HostKeyAlias = "other" },
		"IdentityFile /a\nIdentityFile /b":   func(o *sshclient.Options) { o.IdentityFiles = []string{"/a", "/b"} },
		"IdentityFile none":                  func(o *sshclient.Options) { o.IdentityFiles = []string{} },
		"CertificateFile /c":                 func(o *sshclient.Options) { o.CertificateFiles = []string{"/c"} },
		"IdentitiesOnly yes":                 func(o *sshclient.Options) { o.IdentitiesOnly = true },
		"IdentityAgent /s":                   func(o *sshclient.Options) { o.Agent = "/s" },
		"IdentityAgent none":                 func(o *sshclient.Options) { o.Agent = sshclient.AgentNone },
		"AddKeysToAgent yes":                 func(o *sshclient.Options) { o.AddToAgent = true },
		"UserKnownHostsFile /k /l":           func(o *sshclient.Options) { o.KnownHosts = []string{"/k", "/l"} },
		"GlobalKnownHostsFile /g":            func(o *sshclient.Options) { o.GlobalKnownHosts = []string{"/g"} },
		"GlobalKnownHostsFile none":          func(o *sshclient.Options) { o.GlobalKnownHosts = []string{} },
		"HashKnownHosts yes":                 func(o *sshclient.Options) { o.HashKnownHosts = true },
		"AddressFamily inet":                 func(o *sshclient.Options) { o.Network = "tcp4" },
		"AddressFamily inet6":                func(o *sshclient.Options) { o.Network = "tcp6" },
		"HostKeyAlgorithms ssh-ed25519":      func(o *sshclient.Options) { o.Algorithms.HostKeys = "ssh-ed25519" },
		"CASignatureAlgorithms -ssh-ed25519": func(o *sshclient.Options) { o.Algorithms.CASignatures = "-ssh-ed25519" },
		"Ciphers aes256-ctr":                 func(o *sshclient.Options) { o.Algorithms.Ciphers = "aes256-ctr" },
		"MACs hmac-sha2-512":                 func(o *sshclient.Options) { o.Algorithms.MACs = "hmac-sha2-512" },
		"KexAlgorithms +x":                   func(o *sshclient.Options) { o.Algorithms.KeyExchanges = "+x" },
		"UseKeychain yes":                    func(o *sshclient.Options) { o.Keychain = runtime.GOOS == "darwin" },
		"RequiredRSASize 4096":               func(o *sshclient.Options) { o.MinRSABits = 4096 },
		"Host node.example\nProxyJump ian@hop:9\nHost hop\nConnectTimeout 3": func(o *sshclient.Options) {
			o.Via = &sshclient.Options{Addr: "hop:9", User: "ian", Version: "gitcluster", ConnectTimeout: 3 * time.Second}
		},
	} {
		a := configured(t, text)
		r, err := a.route(t.Context(), replica.Candidate{Name: "n", Addr: "node.example:22", DefaultPort: true})
		if err != nil || len(r.beyond)+len(r.ifRefused) > 0 {
			t.Errorf("%q: %+v, %v", text, r, err)
			continue
		}
		expected := usual()
		want(&expected)
		for got := &r.options; got != nil; got = got.Via {
			if got.Ask == nil || got.Agents != &a.agents {
				t.Errorf("%q: %s has nobody to ask, or asks the agent anew", text, got.Addr)
			}
			got.Ask, got.Agents = nil, nil // functions cannot be compared
		}
		if !reflect.DeepEqual(r.options, expected) {
			t.Errorf("%q:\n got %+v\nwant %+v", text, r.options, expected)
		}
	}
	a := configured(t, "BatchMode yes")
	if r, err := a.route(t.Context(), replica.Candidate{Name: "n", Addr: "node.example:22"}); err != nil || r.options.Ask != nil {
		t.Errorf("BatchMode: %+v, %v", r, err)
	}
}

// A host of which nothing is known is met as the configuration says, and remembered
// where that says.
func TestFirstContact(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the programs are shell scripts")
	}
	for name, c := range map[string]struct {
		strict, answer string
		asked, known   bool
	}{
		"accept-new":       {"accept-new", "no", false, true},
		"no":               {"no", "no", false, true},
		"yes":              {"yes", "yes", false, false},
		"asked, yes":       {"ask", "yes", true, true},
		"asked, no":        {"ask", "no", true, false},
		"nothing is said":  {"", "yes", true, true},
		"nobody's there":   {"ask", "", false, false},
		"asked and hashed": {"ask", "yes", true, true},
	} {
		t.Run(name, func(t *testing.T) {
			path, key := sshtest.NewKeyFile(t, t.TempDir(), "key", "")
			s := sshtest.Start(t, sshtest.Options{Accept: key})
			text := "IdentityFile " + path + "\nGlobalKnownHostsFile none\nUserKnownHostsFile ~/known\nIdentityAgent none\n"
			if c.strict != "" {
				text += "StrictHostKeyChecking " + c.strict + "\n"
			}
			hashed := strings.HasSuffix(name, "hashed")
			if hashed {
				text += "HashKnownHosts yes\n"
			}
			a := configured(t, text)
			record := filepath.Join(t.TempDir(), "record")
			program := filepath.Join(t.TempDir(), "askpass")
			if err := os.WriteFile(program, []byte("#!/bin/sh\necho \"$*\" >>"+record+"\necho "+c.answer+"\n"), 0o700); err != nil {
				t.Fatal(err)
			}
			a.person.Getenv = func(name string) string {
				return map[string]string{"SSH_ASKPASS": program, "SSH_ASKPASS_REQUIRE": "force"}[name]
			}
			if c.answer == "" {
				a.person.Getenv = func(name string) string { return map[string]string{"GIT_TERMINAL_PROMPT": "0"}[name] }
			}
			r, err := a.route(t.Context(), replica.Candidate{Name: "n", Addr: s.Addr})
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second time it is known, or refused again
				conn, err := sshclient.Dial(t.Context(), r.options)
				if err == nil {
					conn.Close()
				}
				if (err == nil) != c.known || err != nil && !errors.Is(err, sshclient.ErrHostKeyUnknown) {
					t.Errorf("%v", err)
				}
			}
			question, _ := os.ReadFile(record)
			if c.asked != (strings.Count(string(question), ssh.FingerprintSHA256(s.Host.PublicKey())) == 1) {
				t.Errorf("asked %q", question)
			}
			known, _ := os.ReadFile(filepath.Join(os.Getenv("HOME"), "known"))
			if c.known != strings.HasSuffix(string(known), " "+s.HostKey()+"\n") || c.known && hashed != strings.HasPrefix(string(known), "|1|") {
				t.Errorf("known hosts: %q", known)
			}
		})
	}
}
