package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"gitcluster/internal/browse"
	"gitcluster/internal/cluster"
	"gitcluster/internal/conduit"
	"gitcluster/internal/config"
	"gitcluster/internal/durable"
	"gitcluster/internal/httpserver"
	"gitcluster/internal/login"
	"gitcluster/internal/web"
)

// composeHTTP makes the HTTPS front.
func (n *Node) composeHTTP() (*httpserver.Server, error) {
	if err := n.dir.makeCertificate(n.self); err != nil {
		return nil, err
	}
	cert, key := n.dir.certificate(n.self)
	certificate, err := httpserver.LoadCertificate(cert, key, n.log)
	if err != nil {
		return nil, err
	}
	who := login.New(login.Options{Cluster: n.cluster.ID, Rules: n.rules, Log: n.log,
		Names: func() []string { return append(hosts(n.self), certificate.Names()...) }})
	return httpserver.New(httpserver.Options{
		Service: n.service, Login: who, Rules: n.rules.Snapshot, Certificate: certificate,
		Conduit: n.newConduit(who),
		Pages:   n.pages(who),
		Metrics: n.metrics.Handler(),
		Ready:   func(ctx context.Context) error { _, err := n.journal.Cluster(ctx); return err },
		Logger:  n.log,
	})
}

// pages are what a person with a browser sees.
func (n *Node) pages(who *login.Login) http.Handler {
	return web.New(web.Options{Cluster: n.cluster.Name, Device: n.self.Name, SSH: n.self.SSHAddress(), HTTP: n.self.HTTPAddress(),
		Repositories: n.service, Browser: browse.New(n.service.Run), Login: who, Status: n.shell.Admin, Log: n.log})
}

// newConduit makes Phabricator's API for one way in; over SSH the key says who calls.
func (n *Node) newConduit(who conduit.Login) *conduit.Conduit {
	return conduit.New(conduit.Options{Repositories: n.service, Browser: n.browser, Login: who, Rules: n.rules.Snapshot, Device: n.self.Name, Log: n.log})
}

// advertiseHTTP tells the others where the HTTPS front is if they know another
// address, as of a node that was made without one.
func (n *Node) advertiseHTTP(ctx context.Context) {
	known, ok := n.rules.Snapshot().Device(n.self.Name)
	if !ok || known.HTTP == n.self.HTTPAddress() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err := n.journal.ChangeDevice(ctx, n.self.Name, func(d *cluster.Device) error {
		d.HTTP = n.self.HTTPAddress()
		return nil
	})
	if err != nil {
		n.log.Warn("the others know another HTTP address of this node", "known", known.HTTP, "error", err)
	}
}

// selfHTTP is what node.toml says of the HTTPS front.
func selfHTTP(s Settings) (*config.SelfHTTP, error) {
	host, port, err := net.SplitHostPort(s.HTTP)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", s.HTTP, err)
	}
	h := &config.SelfHTTP{Listen: s.HTTP, Cert: s.Cert, Key: s.Key}
	switch {
	case s.Advertise != "":
		h.Advertise = net.JoinHostPort(s.Advertise, port)
	case everywhere(host):
		h.Advertise = net.JoinHostPort(hostOf(s.SSH), port)
	}
	return h, nil
}

// addresses are those by which others reach the node.
func addresses(self *config.Self) []string {
	all := []string{self.SSHAddress()}
	if web := self.HTTPAddress(); web != "" && hostOf(web) != hostOf(all[0]) {
		all = append(all, web)
	}
	return all
}

// hosts are the names and addresses by which the node knows itself.
func hosts(self *config.Self) []string {
	var all []string
	for _, address := range append(addresses(self), self.SSH.Listen, self.HTTP.Listen) {
		if host := hostOf(address); !everywhere(host) && !slices.Contains(all, host) {
			all = append(all, host)
		}
	}
	return all
}

// everywhere reports whether a listener on the host has all of the machine's
// addresses.
func everywhere(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.IsUnspecified()
}

// certificate names the files of the HTTPS front's certificate and key.
func (d dataDir) certificate(self *config.Self) (cert, key string) {
	if self.HTTP.Cert != "" {
		return self.HTTP.Cert, self.HTTP.Key
	}
	return d.path("http", "cert.pem"), d.path("http", "key.pem")
}

// makeCertificate makes a certificate for a node that needs one and has none, and
// checks one that it was given.
func (d dataDir) makeCertificate(self *config.Self) error {
	if self.HTTP == nil {
		return nil
	}
	cert, key := d.certificate(self)
	if self.HTTP.Cert != "" {
		_, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			err = cluster.WithHint(fmt.Errorf("the certificate of the HTTPS front: %w", err), "give two PEM files that belong together, which this account can read")
		}
		return err
	}
	if _, err := os.Stat(cert); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	certPEM, keyPEM, err := httpserver.SelfSigned(hosts(self), time.Now())
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(cert), 0o700); err != nil {
		return err
	}
	// The key first: a certificate without one would count as made.
	return errors.Join(durable.WriteFile(key, keyPEM, 0o600), durable.WriteFile(cert, certPEM, 0o644))
}

// A WebFront is what clients need to know of a node's HTTPS front.
type WebFront struct {
	URL         string // https://host:port/
	Cert        string // file
	Fingerprint string // of the certificate, SHA-256
	SelfSigned  bool   // so that clients must be told to trust it
}

// Web returns the HTTPS front of the node in a data directory, or nil if it has
// none.
func Web(dir string) (*WebFront, error) {
	d := dataDir(dir)
	self, err := config.LoadSelf(d.config())
	if err != nil || self.HTTP == nil {
		return nil, err
	}
	cert, key := d.certificate(self)
	certificate, err := httpserver.LoadCertificate(cert, key, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	return &WebFront{URL: "https://" + self.HTTPAddress() + "/", Cert: cert, Fingerprint: certificate.Fingerprint(), SelfSigned: self.HTTP.Cert == ""}, nil
}
