package observe

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/cluster"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/journal"
)

func privateKey(t *testing.T, passphrase string) string {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if passphrase != "" {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(block))
}

func TestNewRemote(t *testing.T) {
	key := privateKey(t, "")
	password := journal.Credential{Username: "bob", Password: "p@:/% =x"}
	for _, c := range []struct {
		uri, credential string
		device          bool
		kind            string
		want            journal.Credential
	}{
		{"https://h/x", "", false, "", journal.Credential{}},
		{"https://h/x", "username=bob\npassword=p@:/% =x\n", false, cluster.CredentialPassword, password},
		{"https://h/x", "protocol=https\r\nhost=h\r\nusername=bob\r\npassword=p@:/% =x\r\n\r\n", false, cluster.CredentialPassword, password},
		{"http://h:8080/x", "http://bob:p%40%3A%2F%25%20%3Dx@h:8080", false, cluster.CredentialPassword, password},
		{"https://bob@h/x", "https://bob:p%40%3A%2F%25%20%3Dx@h/elsewhere\n", false, cluster.CredentialPassword, password},
		{"git@h:x", key, false, cluster.CredentialKey, journal.Credential{Key: key}},
		{"ssh://h/x", strings.TrimSpace(key), false, cluster.CredentialKey, journal.Credential{Key: key}},
		{"ssh://h/x", "", false, "", journal.Credential{}},
		{"cluster://h/x", "", true, cluster.CredentialDevice, journal.Credential{}},
	} {
		r, got, err := NewRemote(c.uri, c.credential, c.device)
		if err != nil || r.URI != c.uri || r.Credential != c.kind || got.Key != c.want.Key || got.Username != c.want.Username || got.Password != c.want.Password {
			t.Errorf("%s with a %s: %+v, %v", c.uri, c.kind, r, err)
		}
	}
}

// What does not fit is refused at once, and never repeated.
func TestNewRemoteRefusals(t *testing.T) {
	for want, c := range map[string]struct {
		uri, credential string
		device          bool
	}{
		"exclude each other":     {"cluster://h/x", "username=bob\npassword=hunter2", true},
		"cluster addresses only": {"https://h/x", "", true},
		"an SSH key is of no":    {"https://h/x", privateKey(t, ""), false},
		"a password is of no":    {"ssh://bob@h/x", "username=bob\npassword=hunter2", false},
		"is of no use for git":   {"git://h/x", "username=bob\npassword=hunter2", false},
		"holds a password":       {"https://bob:hunter2@h/x", "", false},
		"names a program":        {"ext::id", "", false},
		"has a passphrase":       {"git@h:x", privateKey(t, "hunter2"), false},
		"cannot be read":         {"git@h:x", "-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n-----END OPENSSH PRIVATE KEY-----\n", false},
		"none of a credential":   {"https://h/x", "hunter2", false},
		"names no user":          {"https://h/x", "password=hunter2", false},
		"or no password":         {"https://h/x", "username=hunter2", false},
		"URL cannot be read":     {"https://h/x", "https://bob:hunter2@h:p%zz", false},
		"another host":           {"https://h/x", "https://bob:hunter2@other/", false},
		"than h:8443":            {"https://h:8443/x", "https://bob:hunter2@h/", false},
		"another user":           {"https://alice@h/x", "username=bob\npassword=hunter2", false},
		"control characters":     {"https://h/x", "username=bob\npassword=hunter2\x01", false},
		"control char":           {"https://h/x", "https://bob:hunter2%0ahost=evil@h", false},
		"too large":              {"https://h/x", strings.Repeat("hunter2", maxCredential), false},
	} {
		r, credential, err := NewRemote(c.uri, c.credential, c.device)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v, %v, want %q", c.uri, r, err, want)
			continue
		}
		if all := fmt.Sprint(err, cluster.Hint(err), credential); strings.Contains(all, "hunter2") {
			t.Errorf("%s: the secret is told: %s", c.uri, all)
		}
	}
}

// Git reads back from the file what was given.
func TestCredentialFile(t *testing.T) {
	uri, err := gitcmd.ParseRemote("https://h:8443/x")
	if err != nil {
		t.Fatal(err)
	}
	if got := file(journal.Credential{Username: "bob@corp", Password: "p@:/%?#[] =x+"}, uri); got != "https://bob%40corp:p%40%3A%2F%25%3F%23%5B%5D%20=x+@h:8443\n" {
		t.Errorf("the file is %q", got)
	}
}
