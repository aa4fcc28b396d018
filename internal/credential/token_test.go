package credential

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/cluster"
)

const testCluster = "c1a2b3"

var now = time.Unix(1_800_000_000, 700_000_000)

func newSigner(t testing.TB) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newIdentity(t testing.TB) *Identity {
	s := newSigner(t)
	return &Identity{Name: "repo001", ClusterID: testCluster, Cluster: "demo", signer: s, public: s.PublicKey()}
}

// registry is the server's record of its devices.
func registry(ids ...*Identity) func(cluster.DeviceName) (string, bool) {
	return func(name cluster.DeviceName) (string, bool) {
		for _, id := range ids {
			if id.Name == name {
				return id.AuthorizedKey(), true
			}
		}
		return "", false
	}
}

func issue(t testing.TB, id *Identity, audience string) string {
	t.Helper()
	token, expires, err := Issue(t.Context(), id, audience, now)
	if err != nil {
		t.Fatal(err)
	}
	if want := now.Unix() + 300; expires.Unix() != want {
		t.Errorf("it expires at %d and not at %d", expires.Unix(), want)
	}
	return token
}

func TestTokenIsGoodUntilItExpires(t *testing.T) {
	id := newIdentity(t)
	token := issue(t, id, "Git.Example.com:8443")
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' || r == ':' || r == ',' }) {
		t.Errorf("the token %q does not fit a header or a password", token)
	}
	for _, at := range []time.Duration{-Skew, 0, time.Second, Lifetime - time.Second} {
		for range 2 { // any number of times
			c, err := Verify(token, "git.example.com", testCluster, now.Add(at), registry(newIdentityNamed(t, "other"), id))
			if err != nil {
				t.Fatalf("%v after it was issued: %v", at, err)
			}
			if c.Device != "repo001" || c.Cluster != testCluster || c.Audience != "git.example.com" || c.Key != id.Fingerprint() ||
				c.Issued != now.Unix() || c.Expires != now.Unix()+300 || len(c.ID) != 32 {
				t.Errorf("its claims are %+v", c)
			}
		}
	}
	if first, second := issue(t, id, "a"), issue(t, id, "a"); first == second {
		t.Error("two tokens are the same")
	}
}

func newIdentityNamed(t testing.TB, name cluster.DeviceName) *Identity {
	id := newIdentity(t)
	id.Name = name
	return id
}

// A forgery is a token made by hand.
type forgery struct {
	claims    any
	payload   []byte // instead of claims
	signer    ssh.Signer
	namespace string
	hash      string
	edit      func(*envelope)
	after     []byte // bytes after the envelope
}

func (f forgery) token(t testing.TB) string {
	t.Helper()
	payload := f.payload
	if payload == nil {
		var err error
		if payload, err = json.Marshal(f.claims); err != nil {
			t.Fatal(err)
		}
	}
	signed := signedText(f.namespace, f.hash, payload)
	if f.hash == "sha256" {
		sum := sha256.Sum256(payload)
		signed = append([]byte(sshsigMagic), ssh.Marshal(struct {
			Namespace, Reserved, Hash string
			Sum                       []byte
		}{f.namespace, "", f.hash, sum[:]})...)
	}
	sig, err := f.signer.Sign(rand.Reader, signed)
	if err != nil {
		t.Fatal(err)
	}
	e := envelope{
		Version: sshsigVersion, PublicKey: f.signer.PublicKey().Marshal(), Namespace: f.namespace,
		HashAlgorithm: f.hash, Signature: ssh.Marshal(sig),
	}
	if f.edit != nil {
		f.edit(&e)
	}
	return wire.EncodeToString(payload) + "." + wire.EncodeToString(append(e.marshal(), f.after...))
}

func TestVerifyRefuses(t *testing.T) {
	id := newIdentity(t)
	stranger := newSigner(t)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecSigner, err := ssh.NewSignerFromKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	ecID := &Identity{Name: "ec", public: ecSigner.PublicKey()}
	good := Claims{
		Device: id.Name, Cluster: testCluster, Audience: "git.example.com", Key: id.Fingerprint(),
		Issued: now.Unix(), Expires: now.Unix() + 300, ID: strings.Repeat("0a", 16),
	}
	forge := func(edits ...func(*forgery, *Claims)) string {
		c := good
		f := forgery{signer: id.signer, namespace: namespace, hash: hashName}
		for _, edit := range edits {
			edit(&f, &c)
		}
		f.claims = c
		return f.token(t)
	}
	claim := func(edit func(*Claims)) string {
		return forge(func(_ *forgery, c *Claims) { edit(c) })
	}
	seal := func(edit func(*envelope)) string {
		return forge(func(f *forgery, _ *Claims) { f.edit = edit })
	}
	payload := func(text string) string {
		return forge(func(f *forgery, _ *Claims) { f.payload = []byte(text) })
	}
	plain, err := json.Marshal(good)
	if err != nil {
		t.Fatal(err)
	}
	check := func(token string) (Claims, error) {
		return Verify(token, "git.example.com", testCluster, now, registry(id, ecID))
	}
	if _, err := check(forge()); err != nil {
		t.Fatalf("what no test has changed: %v", err)
	}
	signature := func(format string, blob []byte) []byte { return ssh.Marshal(ssh.Signature{Format: format, Blob: blob}) }

	for name, c := range map[string]struct{ token, why string }{
		"empty":                {"", "form of a token"},
		"no dot":               {"e30", "form of a token"},
		"two dots":             {forge() + ".e30", "form of a token"},
		"only a dot":           {".", "not JSON"},
		"padded":               {forge() + "=", "form of a token"},
		"a newline after it":   {forge() + "\n", "form of a token"},
		"a newline in it":      {forge()[:9] + "\n" + forge()[9:], "form of a token"},
		"oversized":            {forge() + strings.Repeat("A", maxToken), "bytes"},
		"truncated claims":     {payload(string(plain[:len(plain)-1])), "not JSON"},
		"no signature":         {strings.Split(forge(), ".")[0] + ".", "not an SSH signature"},
		"another's signature":  {strings.Split(forge(), ".")[0] + "." + strings.Split(claim(func(c *Claims) { c.Issued-- }), ".")[1], "signature is wrong"},
		"expired":              {claim(func(c *Claims) { c.Issued, c.Expires = now.Unix()-300, now.Unix() }), "expired"},
		"issued in the future": {claim(func(c *Claims) { c.Issued, c.Expires = now.Unix()+61, now.Unix()+301 }), "in the future"},
		"lasts too long":       {claim(func(c *Claims) { c.Expires = now.Unix() + 361 }), "longer than"},
		"lasts for ever":       {claim(func(c *Claims) { c.Issued, c.Expires = -1<<63, 1<<63-1 }), "longer than"},
		"another audience":     {claim(func(c *Claims) { c.Audience = "git.example.org" }), "for the host"},
		"audience in capitals": {claim(func(c *Claims) { c.Audience = "Git.example.com" }), "bad host"},
		"audience with a port": {claim(func(c *Claims) { c.Audience = "git.example.com:1" }), "bad host"},
		"no audience":          {claim(func(c *Claims) { c.Audience = "" }), "bad host"},
		"other cluster":        {claim(func(c *Claims) { c.Cluster = "c9" }), "for the cluster"},
		"no cluster":           {claim(func(c *Claims) { c.Cluster = "" }), "bad cluster id"},
		"unknown device":       {claim(func(c *Claims) { c.Device = "repo009" }), "no such device"},
		"device by a path":     {claim(func(c *Claims) { c.Device = "../repo001" }), "bad device name"},
		"another key's name":   {claim(func(c *Claims) { c.Key = ssh.FingerprintSHA256(stranger.PublicKey()) }), "another key"},
		"no key's name":        {claim(func(c *Claims) { c.Key = "" }), "another key"},
		"no id":                {claim(func(c *Claims) { c.ID = "" }), "bad id"},
		"a null":               {payload("null"), "fields"},
		"an array":             {payload("[]"), "not JSON"},
		"an extra field":       {payload(strings.Replace(string(plain), `{`, `{"admin":true,`, 1)), "fields"},
		"a repeated field":     {payload(strings.Replace(string(plain), `{`, `{"device":"repo002",`, 1)), "fields"},
		"a missing field":      {payload(strings.Replace(string(plain), `"cluster":"`+testCluster+`",`, "", 1)), "fields"},
		"a field in capitals":  {payload(strings.Replace(string(plain), `"device"`, `"Device"`, 1)), "fields"},
		"a space":              {payload(string(plain) + " "), "fields"},
		"trailing data":        {payload(string(plain) + "{}"), "not JSON"},
		"signed by a stranger": {forge(func(f *forgery, _ *Claims) { f.signer = stranger }), "another key"},
		"a stranger in disguise": {forge(func(f *forgery, _ *Claims) {
			f.signer = stranger
			f.edit = func(e *envelope) { e.PublicKey = id.public.Marshal() }
		}), "signature is wrong"},
		"another namespace": {forge(func(f *forgery, _ *Claims) { f.namespace = "git" }), `made for "git"`},
		"namespace in disguise": {forge(func(f *forgery, _ *Claims) {
			f.namespace = "git"
			f.edit = func(e *envelope) { e.Namespace = namespace }
		}), "signature is wrong"},
		"hash sha256": {forge(func(f *forgery, _ *Claims) { f.hash = "sha256" }), `the hash "sha256"`},
		"hash in disguise": {forge(func(f *forgery, _ *Claims) {
			f.hash = "sha256"
			f.edit = func(e *envelope) { e.HashAlgorithm = hashName }
		}), "signature is wrong"},
		"version 2":             {seal(func(e *envelope) { e.Version = 2 }), "version 2"},
		"a reserved part":       {seal(func(e *envelope) { e.Reserved = []byte("x") }), "unknown meaning"},
		"data after the seal":   {forge(func(f *forgery, _ *Claims) { f.after = []byte{0} }), "not an SSH signature"},
		"data in the signature": {seal(func(e *envelope) { e.Signature = append(e.Signature, 0) }), "not an Ed25519"},
		"a short signature":     {seal(func(e *envelope) { e.Signature = signature(ssh.KeyAlgoED25519, make([]byte, 63)) }), "signature is wrong"},
		"an RSA signature":      {seal(func(e *envelope) { e.Signature = signature(ssh.KeyAlgoRSASHA512, make([]byte, 64)) }), "not an Ed25519"},
		"an ECDSA device": {forge(func(f *forgery, c *Claims) {
			f.signer, c.Device, c.Key = ecSigner, "ec", ecID.Fingerprint()
		}), "of the type"},
		"an ECDSA signature": {forge(func(f *forgery, _ *Claims) { f.signer = ecSigner }), "another key"},
	} {
		t.Run(name, func(t *testing.T) {
			claims, err := check(c.token)
			if !errors.Is(err, ErrToken) || !strings.Contains(err.Error(), c.why) {
				t.Errorf("got %v, and not that %q", err, c.why)
			}
			if claims != (Claims{}) {
				t.Errorf("with the error come the claims %+v", claims)
			}
		})
	}

	token := forge()
	for name, verify := range map[string]func() error{
		"by another host": func() error {
			_, err := Verify(token, "git.example.org", testCluster, now, registry(id))
			return err
		},
		"by another cluster": func() error {
			_, err := Verify(token, "git.example.com", "c9", now, registry(id))
			return err
		},
		"by a host without a name": func() error {
			_, err := Verify(token, "", testCluster, now, registry(id))
			return err
		},
		"after it expired": func() error {
			_, err := Verify(token, "git.example.com", testCluster, now.Add(Lifetime), registry(id))
			return err
		},
		"before it was issued": func() error {
			_, err := Verify(token, "git.example.com", testCluster, now.Add(-Skew-time.Second), registry(id))
			return err
		},
		"with the device's next key": func() error {
			_, err := Verify(token, "git.example.com", testCluster, now, registry(newIdentity(t)))
			return err
		},
		"with a record that is no key": func() error {
			_, err := Verify(token, "git.example.com", testCluster, now, func(cluster.DeviceName) (string, bool) { return "", true })
			return err
		},
		"with a key that has options": func() error {
			_, err := Verify(token, "git.example.com", testCluster, now, func(cluster.DeviceName) (string, bool) {
				return `from="10.0.0.1" ` + id.AuthorizedKey(), true
			})
			return err
		},
	} {
		if err := verify(); !errors.Is(err, ErrToken) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestVerifyRefusesEveryChange(t *testing.T) {
	id := newIdentity(t)
	token := issue(t, id, "git.example.com")
	refused := func(changed, what string, i int) {
		t.Helper()
		if _, err := Verify(changed, "git.example.com", testCluster, now, registry(id)); !errors.Is(err, ErrToken) {
			t.Errorf("%s %d: %v", what, i, err)
		}
	}
	for i := range token {
		for bit := range 8 {
			changed := []byte(token)
			changed[i] ^= 1 << bit
			refused(string(changed), "a bit changed in letter", i)
		}
		refused(token[:i], "cut at letter", i)
	}
	first, second, _ := strings.Cut(token, ".")
	parts := [2][]byte{}
	for n, part := range []string{first, second} {
		raw, err := wire.DecodeString(part)
		if err != nil {
			t.Fatal(err)
		}
		parts[n] = raw
	}
	for n := range parts {
		for i := range parts[n] {
			for bit := range 8 {
				changed := [2][]byte{bytes.Clone(parts[0]), bytes.Clone(parts[1])}
				changed[n][i] ^= 1 << bit
				refused(wire.EncodeToString(changed[0])+"."+wire.EncodeToString(changed[1]), "a bit changed in byte", i)
			}
		}
	}
}

func FuzzVerify(f *testing.F) {
	id := newIdentity(f)
	token, _, err := Issue(f.Context(), id, "git.example.com", now)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(token)
	f.Add(forgery{payload: []byte(`{}`), signer: id.signer, namespace: namespace, hash: hashName}.token(f))
	f.Add("e30.U1NIU0lH")
	f.Fuzz(func(t *testing.T, s string) {
		_, err := Verify(s, "git.example.com", testCluster, now, registry(id))
		if err == nil && s != token {
			t.Errorf("%q is a token", s)
		}
		if err != nil && !errors.Is(err, ErrToken) {
			t.Errorf("%q: %v", s, err)
		}
		Armor(s)
	})
}
