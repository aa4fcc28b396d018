package httpserver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"gitcluster/internal/cluster"
)

// A Certificate is a server's certificate and key in two files, read again when
// they change.
type Certificate struct {
	files [2]string
	log   *slog.Logger

	mu      sync.Mutex
	now     *tls.Certificate
	stamps  [2]stamp  // of the files when now was read
	checked time.Time // when the files were last looked at
}

// A stamp tells one state of a file from another.
type stamp struct {
	size int64
	time time.Time
}

// lookEvery is how soon a change of the files is noticed.
const lookEvery = 5 * time.Second

// LoadCertificate reads a certificate chain and its key, both PEM.
func LoadCertificate(certFile, keyFile string, log *slog.Logger) (*Certificate, error) {
	c := &Certificate{files: [2]string{certFile, keyFile}, log: log}
	return c, c.read()
}

func (c *Certificate) read() error {
	stamps, err := c.look()
	if err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(c.files[0], c.files[1])
	if err != nil {
		return cluster.WithHint(fmt.Errorf("certificate %s with key %s: %w", c.files[0], c.files[1], err), "both must be PEM files, and belong together")
	}
	c.now, c.stamps, c.checked = &pair, stamps, time.Now()
	return nil
}

func (c *Certificate) look() (stamps [2]stamp, err error) {
	for i, file := range c.files {
		var info fs.FileInfo
		if info, err = os.Stat(file); err != nil {
			return stamps, err
		}
		stamps[i] = stamp{info.Size(), info.ModTime()}
	}
	return stamps, nil
}

// get is what TLS asks for at each connection. A certificate that can no longer be
// read is served as it was: it may be in the middle of being replaced.
func (c *Certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.checked) >= lookEvery {
		c.checked = time.Now()
		if stamps, err := c.look(); err != nil || stamps != c.stamps {
			if err == nil {
				err = c.read()
			}
			if err != nil {
				c.log.Warn("the certificate stays as it was", "error", err)
			} else {
				c.log.Info("the certificate was read again", "file", c.files[0])
			}
		}
	}
	return c.now, nil
}

// Names are the hosts that the certificate is for, without those by a wildcard.
// Whoever shows it and has its key is all of them.
func (c *Certificate) Names() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var names []string
	for _, name := range c.now.Leaf.DNSNames {
		if !strings.Contains(name, "*") {
			names = append(names, name)
		}
	}
	for _, ip := range c.now.Leaf.IPAddresses {
		names = append(names, ip.String())
	}
	return names
}

// Fingerprint is the SHA-256 of the certificate, as browsers and
// `openssl x509 -fingerprint -sha256` show it.
func (c *Certificate) Fingerprint() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	sum := sha256.Sum256(c.now.Leaf.Raw)
	return strings.ReplaceAll(fmt.Sprintf("% X", sum[:]), " ", ":")
}

// selfSignedYears is how long a certificate is good that nobody renews.
const selfSignedYears = 10

// SelfSigned makes a key and a certificate for hosts, names or addresses, that
// clients must be told to trust. It can serve, and issue nothing.
func SelfSigned(hosts []string, now time.Time) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial.Add(serial, big.NewInt(1)),
		NotBefore:             now.Add(-time.Hour), // clocks differ
		NotAfter:              now.AddDate(selfSignedYears, 0, 0),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, // it is no authority
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	// Two certificates for one host differ in name, too: some clients look for those
	// they trust by that alone.
	template.Subject.SerialNumber = template.SerialNumber.Text(16)
	if len(hosts) > 0 {
		template.Subject.CommonName = hosts[0][:min(len(hosts[0]), 64)]
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return nil, nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), nil
}
