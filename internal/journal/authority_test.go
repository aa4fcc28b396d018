package journal

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func newAuthority(t *testing.T) *Authority {
	t.Helper()
	a, err := NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func parse(t *testing.T, data []byte) *x509.Certificate {
	t.Helper()
	block, rest := pem.Decode(data)
	if block == nil || len(rest) > 0 {
		t.Fatalf("not one PEM block: %q", data)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestAuthorityIssues(t *testing.T) {
	made := newAuthority(t)
	data, err := made.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	a, err := ParseAuthority(data) // as another node has it
	if err != nil {
		t.Fatal(err)
	}
	request, key, err := NewRequest("node1", "10.1.2.3", "node1.example", "fd00::1", "")
	if err != nil {
		t.Fatal(err)
	}
	ca, certPEM, err := a.Issue(request)
	if err != nil {
		t.Fatal(err)
	}
	cert, roots := parse(t, certPEM), x509.NewCertPool()
	roots.AddCert(parse(t, ca))
	for _, host := range []string{"10.1.2.3", "node1.example", "fd00::1", "localhost", "127.0.0.1", "::1"} {
		for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
			if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: host, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
				t.Errorf("%s: %v", host, err)
			}
		}
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: "other.example"}); err == nil {
		t.Error("it is good for a host that was not named")
	}
	if cert.Subject.CommonName != "node1" || cert.IsCA || cert.NotAfter.Before(time.Now().AddDate(10, 0, 0)) {
		t.Errorf("%v, authority: %v, until %v", cert.Subject, cert.IsCA, cert.NotAfter)
	}
	// It cannot issue itself.
	other := newAuthority(t)
	foreign := x509.NewCertPool()
	foreign.AddCert(other.cert)
	if _, err := cert.Verify(x509.VerifyOptions{Roots: foreign}); err == nil {
		t.Error("another authority vouches for it")
	}
	dir := filepath.Join(t.TempDir(), "a", "tls")
	if err := (Certificates{CA: ca, Cert: certPEM, Key: key}).Save(dir); err != nil {
		t.Fatal(err)
	}
	if s, err := os.Stat(filesIn(dir).key); err != nil || s.Mode().Perm() != 0o600 {
		t.Errorf("the key has the mode %v, %v", s.Mode(), err)
	}
	if _, err := clientTLS(dir); err != nil {
		t.Error(err)
	}
}

func TestAuthorityRefuses(t *testing.T) {
	a := newAuthority(t)
	request, key, err := NewRequest("node1")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(request)
	forged := append([]byte{}, block.Bytes...)
	forged[len(forged)-5] ^= 1
	for what, bad := range map[string][]byte{
		"nothing":         nil,
		"text":            []byte("give me a certificate"),
		"a private key":   key,
		"empty":           pemBlock("CERTIFICATE REQUEST", nil),
		"garbage":         pemBlock("CERTIFICATE REQUEST", []byte("garbage")),
		"cut short":       pemBlock("CERTIFICATE REQUEST", block.Bytes[:len(block.Bytes)/2]),
		"a bad signature": pemBlock("CERTIFICATE REQUEST", forged),
	} {
		if _, cert, err := a.Issue(bad); err == nil {
			t.Errorf("%s: issued %q", what, cert)
		}
	}
	for _, bad := range [][]byte{nil, []byte("x"), key, pemBlock("CERTIFICATE", a.cert.Raw), append(pemBlock("CERTIFICATE", []byte("x")), key...)} {
		if _, err := ParseAuthority(bad); err == nil {
			t.Errorf("%.40q is taken for an authority", bad)
		}
	}
}

// A node that asks to be an authority, or for any other power, does not get it.
func TestAuthorityGivesNoPowerThatIsAskedFor(t *testing.T) {
	a := newAuthority(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	isCA, err := asn1.Marshal(struct{ CA bool }{true})
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:         pkix.Name{CommonName: "greedy", Organization: []string{"system:masters"}},
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: isCA}},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	_, data, err := a.Issue(pemBlock("CERTIFICATE REQUEST", der))
	if err != nil {
		return // refusing it is as good
	}
	cert := parse(t, data)
	if cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign != 0 || len(cert.Subject.Organization) > 0 {
		t.Errorf("it got authority %v, usage %b, %v", cert.IsCA, cert.KeyUsage, cert.Subject)
	}
}

// Whoever has no certificate, or one of another cluster, is not let in, and
// does not take the server for its own.
func TestForeignCertificateIsRefused(t *testing.T) {
	ours, err := os.ReadFile(filesIn(embedded.tls).ca)
	if err != nil {
		t.Fatal(err)
	}
	request, key, err := NewRequest("intruder")
	if err != nil {
		t.Fatal(err)
	}
	foreignCA, cert, err := newAuthority(t).Issue(request)
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]Certificates{
		"another cluster's certificate": {CA: ours, Cert: cert, Key: key}, // the server must refuse
		"another cluster's trust":       {CA: foreignCA, Cert: cert, Key: key},
	} {
		dir := t.TempDir()
		if err := c.Save(dir); err != nil {
			t.Fatal(err)
		}
		client, err := Dial([]string{embedded.addr}, dir)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		if r, err := client.Get(ctx, "/gc/authority"); err == nil {
			t.Errorf("%s: read %d keys", what, r.Count)
		}
		cancel()
		client.Close()
	}
	plain, err := Dial([]string{embedded.addr}, "")
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if r, err := plain.Get(ctx, "/gc/authority"); err == nil {
		t.Errorf("without TLS: read %d keys", r.Count)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := embedded.client.Get(ctx, "/gc/authority"); err != nil {
		t.Errorf("our own: %v", err)
	}
	if _, err := Dial([]string{embedded.addr}, t.TempDir()); err == nil {
		t.Error("a folder without credentials was enough to dial")
	}
}
