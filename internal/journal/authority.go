package journal

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"gitcluster/internal/durable"
)

// An Authority is the cluster's own certificate authority. Its certificates
// admit a node to the journal's servers, and to nothing else.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Certificates are a node's credentials for the journal, in PEM, and the list of
// those that count no more, in DER.
type Certificates struct {
	CA, Cert, Key []byte
	Revoked       []byte
}

// authorityYears is the life of the authority and of the certificates it issues;
// a node is shut out by revoking its certificate, not by letting it expire.
const authorityYears = 20

// NewAuthority makes the authority of a new cluster.
func NewAuthority(clusterID string) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := certificate("git-cluster "+clusterID, x509.KeyUsageCertSign|x509.KeyUsageCRLSign)
	template.IsCA, template.BasicConstraintsValid, template.MaxPathLenZero = true, true, true
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &Authority{cert: cert, key: key}, err
}

// ParseAuthority reads what Marshal wrote.
func ParseAuthority(data []byte) (*Authority, error) {
	certPEM, rest := pem.Decode(data)
	keyPEM, _ := pem.Decode(rest)
	if certPEM == nil || keyPEM == nil {
		return nil, errors.New("bad certificate authority: not PEM")
	}
	cert, err := x509.ParseCertificate(certPEM.Bytes)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParseECPrivateKey(keyPEM.Bytes)
	return &Authority{cert: cert, key: key}, err
}

// Marshal gives certificate and private key in PEM.
func (a *Authority) Marshal() ([]byte, error) {
	key, err := x509.MarshalECPrivateKey(a.key)
	if err != nil {
		return nil, err
	}
	return append(pemBlock("CERTIFICATE", a.cert.Raw), pemBlock("EC PRIVATE KEY", key)...), nil
}

// Issue makes the credentials of a node that is reached at the given hosts. The
// private key is made by the node itself when it joins, so Issue takes its
// certificate request.
func (a *Authority) Issue(request []byte) (ca, cert []byte, err error) {
	block, _ := pem.Decode(request)
	if block == nil {
		return nil, nil, errors.New("bad certificate request: not PEM")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("bad certificate request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, nil, fmt.Errorf("bad certificate request: %w", err)
	}
	template := certificate(csr.Subject.CommonName, x509.KeyUsageDigitalSignature)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	template.DNSNames, template.IPAddresses = csr.DNSNames, csr.IPAddresses
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, csr.PublicKey, a.key)
	if err != nil {
		return nil, nil, err
	}
	return pemBlock("CERTIFICATE", a.cert.Raw), pemBlock("CERTIFICATE", der), nil
}

// RevocationList lists certificates that count no more, in DER.
func (a *Authority) RevocationList(revoked []x509.RevocationListEntry, now time.Time) ([]byte, error) {
	// Authorities from before there were such lists may not sign them, by their own
	// certificate. Who reads this one does not look at that.
	issuer := *a.cert
	issuer.KeyUsage |= x509.KeyUsageCRLSign
	return x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(now.UnixNano()), ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(revocationLife), RevokedCertificateEntries: revoked,
	}, &issuer, a.key)
}

// NewRequest makes a node's private key and the certificate request for it.
// hosts are the names and addresses by which other nodes reach it.
func NewRequest(name string, hosts ...string) (request, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.CertificateRequest{
		Subject:     pkix.Name{CommonName: name},
		DNSNames:    []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else if host != "" {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, private)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pemBlock("CERTIFICATE REQUEST", der), pemBlock("EC PRIVATE KEY", keyDER), nil
}

// Save writes the credentials into dir, which it makes; only the owner may
// read the key.
func (c Certificates) Save(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f := filesIn(dir)
	if c.Revoked != nil {
		if err := durable.WriteFile(f.revoked, c.Revoked, 0o644); err != nil {
			return err
		}
	}
	return errors.Join(
		durable.WriteFile(f.key, c.Key, 0o600),
		durable.WriteFile(f.ca, c.CA, 0o644),
		durable.WriteFile(f.cert, c.Cert, 0o644))
}

// clientTLS is how a node proves to the journal's servers that it belongs.
func clientTLS(dir string) (*tls.Config, error) {
	f := filesIn(dir)
	pair, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(f.ca)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s holds no certificate", f.ca)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: pool, MinVersion: tls.VersionTLS13,
		VerifyConnection: func(s tls.ConnectionState) error { return checkRevoked(f.revoked, s.PeerCertificates) }}, nil
}

type tlsFiles struct{ ca, cert, key, revoked string }

func filesIn(dir string) tlsFiles {
	return tlsFiles{filepath.Join(dir, "ca.pem"), filepath.Join(dir, "node.pem"), filepath.Join(dir, "node-key.pem"), filepath.Join(dir, "revoked.crl")}
}

func certificate(name string, usage x509.KeyUsage) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err) // crypto/rand.Reader never fails
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour), // a joining node's clock may be behind
		NotAfter:     time.Now().AddDate(authorityYears, 0, 0),
		KeyUsage:     usage,
	}
}

func pemBlock(kind string, der []byte) []byte {
	var b bytes.Buffer
	pem.Encode(&b, &pem.Block{Type: kind, Bytes: der}) // a bytes.Buffer takes everything
	return b.Bytes()
}
