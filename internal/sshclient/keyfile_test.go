package sshclient

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"gitcluster/internal/sshclient/sshtest"
)

// What is encrypted in a way that this client does not know is left to ssh, without
// asking a person in vain.
func TestForeignEncryption(t *testing.T) {
	dir := home(t)
	g := newGate(t)
	plain, plainKey := sshtest.NewKeyFile(t, dir, "plain", "")
	for _, args := range [][]string{
		{"-t", "ecdsa", "-m", "PKCS8"},
		{"-t", "ed25519", "-Z", "aes128-ctr"},
		{"-t", "ed25519", "-Z", "aes256-gcm@openssh.com"},
		{"-t", "ed25519", "-Z", "chacha20-poly1305@openssh.com"},
	} {
		path := filepath.Join(dir, args[len(args)-1])
		keygen(t, append(args, "-N", "secret", "-f", path)...)
		never := func(context.Context, Question) (string, error) {
			t.Errorf("%q: a person was asked", args)
			return "secret", nil
		}
		for _, o := range []Options{{IdentityFiles: []string{path}}, {IdentityFile: path}, {IdentityFiles: []string{path}, Ask: never}} {
			o.Addr, o.HostKey, o.User, o.Agent = g.Addr, g.Host.PublicKey(), "git", AgentNone
			g.accept = []string{nameOf(publicOf(t, path))}
			if _, err := Dial(t.Context(), o); !errors.Is(err, ErrAuth) || !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "which only ssh or an agent can read") {
				t.Errorf("%q: %v", args, err)
			}
			o.IdentityFile, o.IdentityFiles = "", []string{path, plain}
			g.accept = []string{nameOf(plainKey.PublicKey())}
			dial(t, o) // another key does
		}
	}

	// Some of it shows only with the passphrase.
	path, key := sshtest.NewKeyFile(t, dir, "slow", "secret")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	i := bytes.Index(block.Bytes, []byte("bcrypt")) + len("bcrypt") + 4 + 4 + 16 // its options, with the salt
	binary.BigEndian.PutUint32(block.Bytes[i:], 1<<30)
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	o := g.options()
	o.IdentityFiles, o.Agent = []string{path}, AgentNone
	o.Ask = func(context.Context, Question) (string, error) { return "secret", nil }
	g.accept = []string{nameOf(key.PublicKey())}
	if _, err := Dial(t.Context(), o); !errors.Is(err, ErrAuth) || !errors.Is(err, ErrUnsupported) || strings.Contains(err.Error(), "not its passphrase") {
		t.Error(err)
	}
}

func publicOf(t *testing.T, path string) ssh.PublicKey {
	t.Helper()
	text, err := os.ReadFile(path + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return parsePublic(t, text)
}

// A private key that others may read is not used, as with ssh.
func TestOpenKeyFiles(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("files have no such modes")
	}
	dir := home(t)
	g := newGate(t)
	path, key := sshtest.NewKeyFile(t, dir, "open", "")
	locked, lockedKey := sshtest.NewKeyFile(t, dir, "locked", "secret")
	g.accept = []string{nameOf(key.PublicKey()), nameOf(lockedKey.PublicKey())}
	socket, _ := ring(t, agent.AddedKey{PrivateKey: rawKey(t, path, "")})
	for _, file := range []string{path, locked} {
		for _, o := range []Options{{IdentityFiles: []string{file}}, {IdentityFile: file}} {
			o.Addr, o.HostKey, o.User, o.Agent = g.Addr, g.Host.PublicKey(), "git", AgentNone
			o.Ask = func(context.Context, Question) (string, error) { return "secret", nil }
			for mode, ok := range map[os.FileMode]bool{0o600: true, 0o400: true, 0o700: true, 0o640: false, 0o604: false, 0o620: false} {
				if err := os.Chmod(file, mode); err != nil {
					t.Fatal(err)
				}
				conn, err := Dial(t.Context(), o)
				if err == nil {
					conn.Close()
				}
				if want := fmt.Sprintf("%s is not used, as others may read or write it (mode %04o)", file, mode); (err == nil) != ok || err != nil && (!errors.Is(err, ErrAuth) || !strings.Contains(err.Error(), want)) {
					t.Errorf("%04o: %v", mode, err)
				}
			}
		}
	}
	// It still says which of the agent's keys is meant.
	o := g.options()
	o.IdentityFile, o.Agent = path, socket
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	dial(t, o)
}

// Keys that are too short are not offered, from wherever they are.
func TestLengthOfKeys(t *testing.T) {
	dir := home(t)
	g := newGate(t)
	short, long := filepath.Join(dir, "short"), filepath.Join(dir, "long")
	keygen(t, "-t", "rsa", "-b", "2048", "-N", "", "-f", short)
	keygen(t, "-t", "rsa", "-b", "2056", "-N", "", "-f", long)
	longName := ssh.FingerprintSHA256(parsePublic(t, publicHalf(t, long)))
	socket, _ := ring(t, agent.AddedKey{PrivateKey: rawKey(t, short, "")})
	for what, o := range map[string]Options{
		"files":    {IdentityFiles: []string{short, long}, Agent: AgentNone},
		"an agent": {IdentityFiles: []string{long}, Agent: socket},
	} {
		o.Addr, o.HostKey, o.User, o.MinRSABits = g.Addr, g.Host.PublicKey(), "git", 2056
		_, err := Dial(t.Context(), o)
		if !errors.Is(err, ErrAuth) || !strings.Contains(err.Error(), "has 2048 bits of the 2056") {
			t.Errorf("%s: %v", what, err)
		}
		if got := g.take(); !slices.Equal(got, []string{longName}) {
			t.Errorf("%s: offered %q, want %q", what, got, longName)
		}
	}
}

func parsePublic(t *testing.T, text []byte) ssh.PublicKey {
	t.Helper()
	public, _, _, _, err := ssh.ParseAuthorizedKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return public
}

// A security key's file is of use to ssh alone.
func TestSecurityKeyFile(t *testing.T) {
	dir := home(t)
	g := newGate(t)
	path := filepath.Join(dir, "id_ed25519_sk")
	if err := os.WriteFile(path, []byte("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	blob := ssh.Marshal(struct {
		Name string
		Key  []byte
		App  string
	}{ssh.KeyAlgoSKED25519, make([]byte, 32), "ssh:"})
	public, err := ssh.ParsePublicKey(blob)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".pub", ssh.MarshalAuthorizedKey(public), 0o600); err != nil {
		t.Fatal(err)
	}
	o := g.options()
	o.IdentityFiles, o.Agent = []string{path}, AgentNone
	if _, err := Dial(t.Context(), o); !errors.Is(err, ErrAuth) || !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "security key") {
		t.Error(err)
	}
}
