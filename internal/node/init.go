package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"gitcluster/internal/admin"
	"gitcluster/internal/cluster"
	"gitcluster/internal/config"
	"gitcluster/internal/durable"
	"gitcluster/internal/journal"
)

// Settings are what an operator says of a new node.
type Settings struct {
	Name      cluster.DeviceName
	Dir       string // the data directory to make
	Region    string
	SSH       string // host:port the SSH front listens on
	HTTP      string // host:port the HTTPS front listens on; "" for none
	Cert, Key string // its certificate and key; "" for one of its own making
	Advertise string // host by which others reach this node, if not that of SSH
	Peer      string // host:port of the embedded journal server for the others
	Client    string // host:port of the embedded journal server for clients
	// Endpoints is an etcd cluster that is used instead of an embedded one;
	// TLS is a folder with the credentials for it, or "".
	Endpoints []string
	TLS       string
}

// InitSettings are what an operator says of a new cluster.
type InitSettings struct {
	Settings
	Cluster  string
	Admin    cluster.UserName // the first administrator
	AdminKey string           // its public key; "" for no administrator
	Trusted  []string         // networks that device keys count from; nil for the default
}

// Init makes a new cluster with its first node. Nothing runs afterwards; the
// node is started by [Open].
func Init(ctx context.Context, s InitSettings) error {
	if err := checkMachine(ctx); err != nil {
		return err
	}
	if _, err := cluster.ParseDeviceName(string(s.Name)); err != nil {
		return err
	}
	var first *cluster.User
	if s.AdminKey != "" || s.Admin != "" {
		if _, err := cluster.ParseUserName(string(s.Admin)); err != nil {
			return err
		}
		line, _, err := admin.NormalKey(s.AdminKey)
		if err != nil {
			return fmt.Errorf("the administrator's key: %w", err)
		}
		first = &cluster.User{Name: s.Admin, Keys: []string{line}, Admin: true}
	}
	record := journal.ClusterRecord{ID: journal.NewID(), Name: s.Cluster, Created: time.Now().UTC(), Trusted: s.Trusted}
	authority, err := journal.NewAuthority(record.ID)
	if err != nil {
		return err
	}
	return build(s.Dir, func(d dataDir) error {
		self, err := d.write(s.Settings, s.Cluster, record.ID)
		if err != nil {
			return err
		}
		key, err := d.createKey(string(s.Name))
		if err != nil {
			return err
		}
		if err := errors.Join(d.saveIdentity(self, addresses(self)), d.makeCertificate(self)); err != nil {
			return err
		}
		request, private, err := journal.NewRequest(string(s.Name), hostOf(s.Peer), s.Advertise)
		if err != nil {
			return err
		}
		ca, cert, err := authority.Issue(request)
		if err != nil {
			return err
		}
		revoked, err := authority.RevocationList(nil, time.Now())
		if err != nil {
			return err
		}
		if err := (journal.Certificates{CA: ca, Cert: cert, Key: private, Revoked: revoked}).Save(d.path("tls")); err != nil {
			return err
		}
		incarnation := journal.NewID()
		if err := durable.WriteFile(d.path("incarnation"), []byte(incarnation+"\n"), 0o600); err != nil {
			return err
		}
		member, client, err := d.dial(ctx, self, true, slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		defer client.Close()
		if member != nil {
			defer member.Close()
		}
		marshalled, err := authority.Marshal()
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		return journal.New(client).Found(ctx, record, marshalled, device(self, key), incarnation, first)
	})
}

// write writes node.toml.
func (d dataDir) write(s Settings, name, id string) (*config.Self, error) {
	self := &config.Self{Name: s.Name, Cluster: name, ClusterID: id, Region: s.Region, SSH: config.SelfSSH{Listen: s.SSH}}
	if s.Advertise != "" {
		_, port, err := net.SplitHostPort(s.SSH)
		if err != nil {
			return nil, fmt.Errorf("address %q: %w", s.SSH, err)
		}
		self.SSH.Advertise = net.JoinHostPort(s.Advertise, port)
	}
	if s.HTTP != "" {
		var err error
		if self.HTTP, err = selfHTTP(s); err != nil {
			return nil, err
		}
	}
	if len(s.Endpoints) > 0 {
		self.Journal = config.SelfJournal{Endpoints: s.Endpoints, TLS: s.TLS}
	} else {
		self.Journal = config.SelfJournal{Peer: s.Peer, Client: s.Client, Advertise: s.Advertise}
	}
	return self, self.Write(d.config())
}

// device is the record of this node.
func device(self *config.Self, k key) cluster.Device {
	return cluster.Device{
		Name: self.Name, PublicKey: k.public, Node: true, SSH: self.SSHAddress(), HTTP: self.HTTPAddress(), Region: self.Region,
		Enabled: true, Trusted: true, Writable: true, Joined: time.Now().UTC(),
	}
}

func hostOf(hostport string) string {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		return ""
	}
	return host
}
