package sshclient

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"gitcluster/internal/cluster"
	"gitcluster/internal/sshclient/sshtest"
)

// A gate is a server that accepts some keys and notes all that it is shown.
type gate struct {
	*sshtest.Server
	mu     sync.Mutex
	accept []string // fingerprints; of certificates those of their keys, with "cert "
	shown  []string
}

func newGate(t *testing.T) *gate {
	g := &gate{}
	g.Server = sshtest.Start(t, sshtest.Options{Handler: echo, Authorize: func(_ string, key ssh.PublicKey) bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		name := nameOf(key)
		if len(g.shown) == 0 || g.shown[len(g.shown)-1] != name { // asked and then signed
			g.shown = append(g.shown, name)
		}
		return slices.Contains(g.accept, name)
	}})
	return g
}

func nameOf(key ssh.PublicKey) string {
	if c, ok := key.(*ssh.Certificate); ok {
		return "cert " + ssh.FingerprintSHA256(c.Key)
	}
	return ssh.FingerprintSHA256(key)
}

func (g *gate) take() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	shown := g.shown
	g.shown = nil
	return shown
}

func (g *gate) options() Options {
	return Options{Addr: g.Addr, User: "git", HostKey: g.Host.PublicKey()}
}

// ring is an agent with these keys, at a socket.
func ring(t *testing.T, keys ...agent.AddedKey) (path string, keyring agent.Agent) {
	t.Helper()
	keyring = agent.NewKeyring()
	for _, k := range keys {
		if err := keyring.Add(k); err != nil {
			t.Fatal(err)
		}
	}
	return serveAgent(t, keyring), keyring
}

func rawKey(t *testing.T, path, passphrase string) any {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	private, err := ssh.ParseRawPrivateKey(text)
	if passphrase != "" {
		private, err = ssh.ParseRawPrivateKeyWithPassphrase(text, []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	return private
}

func TestOrderOfKeys(t *testing.T) {
	dir := home(t)
	g := newGate(t)
	file := func(name, passphrase string) (string, string) {
		path, signer := sshtest.NewKeyFile(t, dir, name, passphrase)
		return path, ssh.FingerprintSHA256(signer.PublicKey())
	}
	plain, plainName := file("plain", "")
	locked, lockedName := file("locked", "secret")
	heldFile, heldName := file("held", "")
	_, otherName := file("other", "")
	if err := os.WriteFile(filepath.Join(dir, "named.pub"), publicHalf(t, filepath.Join(dir, "other")), 0o600); err != nil {
		t.Fatal(err)
	}
	socket, _ := ring(t, agent.AddedKey{PrivateKey: rawKey(t, filepath.Join(dir, "other"), "")}, agent.AddedKey{PrivateKey: rawKey(t, heldFile, "")})

	never := func(context.Context, Question) (string, error) {
		return "", errors.New("asked for a key that nobody wants")
	}
	for what, c := range map[string]struct {
		o    Options
		want []string
	}{
		"files in their order":            {Options{IdentityFiles: []string{plain, heldFile}, Agent: AgentNone}, []string{plainName, heldName}},
		"the agent's come first":          {Options{IdentityFiles: []string{plain, heldFile}, Agent: socket}, []string{heldName, otherName, plainName}},
		"only those that a file names":    {Options{IdentityFiles: []string{locked, heldFile, filepath.Join(dir, "named.pub")}, IdentitiesOnly: true, Agent: socket, Ask: never}, []string{heldName, otherName, lockedName}},
		"a public half alone":             {Options{IdentityFiles: []string{filepath.Join(dir, "named")}, IdentitiesOnly: true, Agent: socket}, []string{otherName}},
		"missing ones are nobody's fault": {Options{IdentityFiles: []string{"/nonexistent/key", plain}, Agent: AgentNone}, []string{plainName}},
		"none at all":                     {Options{IdentityFiles: []string{}, Agent: AgentNone}, nil},
		"one that must be used":           {Options{IdentityFile: plain, IdentityFiles: []string{locked}, Agent: socket}, []string{plainName}},
	} {
		o := g.options()
		o.IdentityFile, o.IdentityFiles, o.IdentitiesOnly, o.Agent, o.Ask = c.o.IdentityFile, c.o.IdentityFiles, c.o.IdentitiesOnly, c.o.Agent, c.o.Ask
		if _, err := Dial(t.Context(), o); !errors.Is(err, ErrAuth) {
			t.Errorf("%s: %v", what, err)
		}
		if got := g.take(); !slices.Equal(got, c.want) {
			t.Errorf("%s: offered %q, want %q", what, got, c.want)
		}
	}
}

func publicHalf(t *testing.T, path string) []byte {
	t.Helper()
	signer, err := ssh.NewSignerFromKey(rawKey(t, path, ""))
	if err != nil {
		t.Fatal(err)
	}
	return ssh.MarshalAuthorizedKey(signer.PublicKey())
}

func TestPassphrases(t *testing.T) {
	dir := home(t)
	g := newGate(t)
	locked, lockedKey := sshtest.NewKeyFile(t, dir, "locked", "secret")
	plain, plainKey := sshtest.NewKeyFile(t, dir, "plain", "")
	lockedName, plainName := nameOf(lockedKey.PublicKey()), nameOf(plainKey.PublicKey())
	old := filepath.Join(dir, "old") // a format that does not say its public key
	keygen(t, "-t", "ecdsa", "-m", "PEM", "-N", "secret", "-f", old)
	oldKey, err := ssh.NewSignerFromKey(rawKey(t, old, "secret"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what, answer string
		files        []string
		accept       string
		asked        int
		ok           bool
		says         string
	}{
		{"right", "secret", []string{locked}, lockedName, 1, true, ""},
		{"not wanted", "secret", []string{locked, plain}, plainName, 0, true, ""},
		{"wrong, then another", "wrong", []string{locked, plain}, "both", 1, true, ""},
		{"wrong", "wrong", []string{locked}, lockedName, 1, false, "that was not its passphrase"},
		{"nobody", "", []string{locked}, lockedName, 1, false, "its passphrase was not given: nobody is there"},
		{"an older file", "secret", []string{old}, nameOf(oldKey.PublicKey()), 1, true, ""},
	} {
		g.accept = []string{c.accept}
		if c.accept == "both" {
			g.accept = []string{lockedName, plainName}
		}
		asked := 0
		o := g.options()
		o.IdentityFiles, o.Agent = c.files, AgentNone
		o.Ask = func(_ context.Context, q Question) (string, error) {
			asked++
			if want := fmt.Sprintf("Enter passphrase for key '%s': ", c.files[0]); !q.Secret || q.Text != want {
				t.Errorf("%s: question %+v", c.what, q)
			}
			if c.answer == "" {
				return "", errors.New("nobody is there")
			}
			return c.answer, nil
		}
		conn, err := Dial(t.Context(), o)
		if conn != nil {
			conn.Close()
		}
		if (err == nil) != c.ok || asked != c.asked || err != nil && (!errors.Is(err, ErrAuth) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "wrong")) {
			t.Errorf("%s: %v, asked %d times", c.what, err, asked)
		}
	}

	// Nobody is asked for what ssh may find by itself.
	for _, file := range []string{locked, old} {
		o := g.options()
		o.IdentityFiles, o.Agent, o.Keychain = []string{file}, AgentNone, true
		o.Ask = func(context.Context, Question) (string, error) {
			t.Errorf("asked for the passphrase of %s", file)
			return "secret", nil
		}
		g.accept = []string{lockedName, nameOf(oldKey.PublicKey())}
		if _, err := Dial(t.Context(), o); !errors.Is(err, ErrAuth) || !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "may be in the keychain") {
			t.Error(err)
		}
		o.IdentityFiles = append(o.IdentityFiles, plain)
		g.accept = []string{plainName}
		dial(t, o)
	}

	// An unlocked key can be given to the agent, which then needs no person.
	socket, keyring := ring(t)
	g.accept = []string{lockedName}
	o := g.options()
	o.IdentityFiles, o.Agent, o.AddToAgent = []string{locked}, socket, true
	o.Ask = func(context.Context, Question) (string, error) { return "secret", nil }
	dial(t, o)
	if list, err := keyring.List(); err != nil || len(list) != 1 {
		t.Errorf("the agent holds %v, %v", list, err)
	}
	o.Ask = nil
	dial(t, o)
}

// A person at the key may take longer than the handshake.
func TestPatience(t *testing.T) {
	dir := home(t)
	g := newGate(t)
	locked, key := sshtest.NewKeyFile(t, dir, "locked", "secret")
	g.accept = []string{nameOf(key.PublicKey())}
	o := g.options()
	o.IdentityFiles, o.Agent, o.HandshakeTimeout = []string{locked}, AgentNone, 4*time.Second
	o.Ask = func(ctx context.Context, _ Question) (string, error) {
		select {
		case <-time.After(5 * time.Second): // the limit itself is what is tested
		case <-ctx.Done():
		}
		return "secret", nil
	}
	dial(t, o)
}

func TestCertificates(t *testing.T) {
	dir := home(t)
	g := newGate(t)
	authority := filepath.Join(dir, "ca")
	keygen(t, "-t", "ed25519", "-N", "", "-f", authority)
	for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
		path := filepath.Join(dir, "id_"+kind)
		keygen(t, "-t", kind, "-N", "", "-f", path)
		keygen(t, "-s", authority, "-I", "me", "-n", "git", path+".pub")
		certText, err := os.ReadFile(path + "-cert.pub")
		if err != nil {
			t.Fatal(err)
		}
		public, _, _, _, err := ssh.ParseAuthorizedKey(certText)
		if err != nil {
			t.Fatal(err)
		}
		cert := public.(*ssh.Certificate)
		g.accept = []string{nameOf(cert)}
		g.take()
		elsewhere := filepath.Join(dir, kind+"-elsewhere.pub")
		for what, edit := range map[string]func(o *Options){
			"beside its key": func(o *Options) {},
			"in an agent": func(o *Options) {
				o.Agent, _ = ring(t, agent.AddedKey{PrivateKey: rawKey(t, path, ""), Certificate: cert})
				o.IdentityFiles = []string{}
			},
			"key in an agent": func(o *Options) {
				o.Agent, _ = ring(t, agent.AddedKey{PrivateKey: rawKey(t, path, "")})
				o.IdentityFiles, o.CertificateFiles, o.IdentitiesOnly = []string{}, []string{elsewhere}, true
			},
		} {
			if err := os.WriteFile(elsewhere, certText, 0o600); err != nil {
				t.Fatal(err)
			}
			o := g.options()
			o.IdentityFiles, o.Agent = []string{path}, AgentNone
			edit(&o)
			conn, err := Dial(t.Context(), o)
			if err != nil {
				t.Errorf("%s, %s: %v", kind, what, err)
				continue
			}
			conn.Close()
			if got := g.take(); len(got) != 1 || got[0] != nameOf(cert) {
				t.Errorf("%s, %s: offered %q", kind, what, got)
			}
		}
	}
}

// Servers that take no keys, or no more of them, are told apart from one that
// wants another.
func TestWhyNoKeyIsTaken(t *testing.T) {
	dir := home(t)
	plain, _ := sshtest.NewKeyFile(t, dir, "plain", "")
	try := func(s *sshtest.Server, o Options) error {
		t.Helper()
		o.Addr, o.HostKey, o.User = s.Addr, s.Host.PublicKey(), "git"
		_, err := Dial(t.Context(), o)
		return err
	}
	one := Options{IdentityFiles: []string{plain}, Agent: AgentNone}
	err := try(sshtest.Start(t, sshtest.Options{NoKeys: true, Password: "x"}), one)
	if !errors.Is(err, ErrAuth) || !errors.Is(err, ErrInteractive) || !strings.Contains(err.Error(), `for user "git": the server takes no SSH keys`) {
		t.Errorf("none: %v", err)
	}
	err = try(sshtest.Start(t, sshtest.Options{Password: "x"}), one)
	if !errors.Is(err, ErrAuth) || !errors.Is(err, ErrInteractive) || !strings.Contains(err.Error(), "with the one SSH key there is") {
		t.Errorf("another: %v", err)
	}
	if err := try(sshtest.Start(t, sshtest.Options{}), one); !errors.Is(err, ErrAuth) || errors.Is(err, ErrInteractive) {
		t.Errorf("another, and no password: %v", err)
	}
	var many []agent.AddedKey
	for i := range 8 {
		name := fmt.Sprint("many", i)
		sshtest.NewKeyFile(t, dir, name, "")
		many = append(many, agent.AddedKey{PrivateKey: rawKey(t, filepath.Join(dir, name), "")})
	}
	socket, _ := ring(t, many...)
	err = try(sshtest.Start(t, sshtest.Options{}), Options{IdentityFiles: []string{plain}, Agent: socket})
	if !errors.Is(err, ErrAuth) || !strings.HasSuffix(err.Error(), "with any of 9 SSH keys before the right one came") || !strings.Contains(cluster.Hint(err), "IdentitiesOnly") {
		t.Errorf("too many: %v (hint %q)", err, cluster.Hint(err))
	}
}

func TestVia(t *testing.T) {
	home(t)
	target := sshtest.Start(t, sshtest.Options{Handler: echo})
	inner := sshtest.Start(t, sshtest.Options{Forward: true})
	outer := sshtest.Start(t, sshtest.Options{Forward: true})
	closed := sshtest.Start(t, sshtest.Options{})
	through := func(to *sshtest.Server, via *Options) *Options {
		o := options(to)
		o.Via = via
		return &o
	}
	var order []string
	first := through(outer, nil)
	first.Before = func(context.Context) error { order = append(order, "before"); return nil }
	first.Proceed = func(context.Context) error { order = append(order, "proceed"); return nil }
	c := dial(t, *through(target, through(inner, first)))
	if status, err := c.Run(t.Context(), "x", nil, nil, nil, nil); status != 3 || err != nil {
		t.Errorf("status %d, %v", status, err)
	}
	if strings.Join(order, " ") != "before proceed" {
		t.Errorf("order %q", order)
	}
	c.Close()
	<-c.Done()

	wrong := through(outer, nil)
	wrong.HostKey = sshtest.NewKey(t).PublicKey()
	if _, err := Dial(t.Context(), *through(target, wrong)); !errors.Is(err, ErrHostKeyChanged) || !strings.HasPrefix(err.Error(), "through "+outer.Addr) {
		t.Errorf("a host on the way with another key: %v", err)
	}
	gone := through(target, through(outer, nil))
	gone.Addr = "127.0.0.1:1"
	if _, err := Dial(t.Context(), *gone); err == nil || !strings.Contains(err.Error(), "does not connect to 127.0.0.1:1") {
		t.Errorf("a target that is not there: %v", err)
	}
	if _, err := Dial(t.Context(), *through(target, through(closed, nil))); err == nil || !strings.Contains(err.Error(), "through "+closed.Addr) {
		t.Errorf("a host that forwards nothing: %v", err)
	}
	// The host key of what is behind is checked as ever.
	other := through(target, through(outer, nil))
	other.HostKey = sshtest.NewKey(t).PublicKey()
	if _, err := Dial(t.Context(), *other); !errors.Is(err, ErrHostKeyChanged) {
		t.Errorf("behind it another key: %v", err)
	}
}
