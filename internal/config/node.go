package config

import (
	"bytes"
	"fmt"

	"github.com/BurntSushi/toml"

	"gitcluster/internal/cluster"
)

// A Self is what a node knows of itself before it has reached the journal: the
// file node.toml in its data directory. `git cluster init` and `join` write it.
type Self struct {
	Name      cluster.DeviceName `toml:"name"`
	Cluster   string             `toml:"cluster"`
	ClusterID string             `toml:"cluster-id"`
	Region    string             `toml:"region,omitempty"`
	SSH       SelfSSH            `toml:"ssh"`
	HTTP      *SelfHTTP          `toml:"http"` // nil: no HTTPS front
	Journal   SelfJournal        `toml:"journal"`
}

// SelfSSH is where the node's SSH front is.
type SelfSSH struct {
	Listen    string `toml:"listen"`              // host:port
	Advertise string `toml:"advertise,omitempty"` // how others reach it, if not by Listen
}

// SelfHTTP is where the node's HTTPS front is, and what it shows.
type SelfHTTP struct {
	Listen    string `toml:"listen"`              // host:port
	Advertise string `toml:"advertise,omitempty"` // how others reach it, if not by Listen
	// Cert and Key are PEM files that the operator keeps; without them the node
	// has a certificate of its own making.
	Cert string `toml:"cert,omitempty"`
	Key  string `toml:"key,omitempty"`
}

// SelfJournal is how the node reaches the journal: an etcd server that it
// embeds, or servers elsewhere.
type SelfJournal struct {
	Peer      string   `toml:"peer,omitempty"`      // host:port of the embedded server for the other servers; empty: none is embedded
	Client    string   `toml:"client,omitempty"`    // host:port of the embedded server for clients
	Advertise string   `toml:"advertise,omitempty"` // host by which the others reach both, if not that of Peer
	Initial   string   `toml:"initial,omitempty"`   // all members at the embedded server's first start
	Servers   []string `toml:"servers,omitempty"`   // servers that were there when this node joined
	Endpoints []string `toml:"endpoints,omitempty"` // an etcd that is not ours; excludes all of the above
	// Spare is set where there were enough servers when the node joined: it embeds
	// one, with the addresses above, when there are too few.
	Spare bool   `toml:"spare,omitempty"`
	TLS   string `toml:"tls,omitempty"` // folder with ca.pem, node.pem, node-key.pem for Endpoints
}

// LoadSelf reads and checks a node's file.
func LoadSelf(path string) (*Self, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, err
	}
	s := new(Self)
	meta, err := toml.Decode(string(text), s)
	if err != nil {
		return nil, syntaxError(path, err)
	}
	for _, key := range meta.Undecoded() {
		return nil, at(path, text, key, anyTable, fmt.Errorf("unknown key %q", key))
	}
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// Write replaces the file at path, whole or not at all.
func (s *Self) Write(path string) error {
	if err := s.check(); err != nil {
		return err
	}
	var b bytes.Buffer
	if err := toml.NewEncoder(&b).Encode(s); err != nil {
		return err
	}
	return writeFile(path, b.Bytes())
}

// SSHAddress is how others reach the node's SSH front.
func (s *Self) SSHAddress() string {
	if s.SSH.Advertise != "" {
		return s.SSH.Advertise
	}
	return s.SSH.Listen
}

// HTTPAddress is how others reach the node's HTTPS front; "" if it has none.
func (s *Self) HTTPAddress() string {
	switch {
	case s.HTTP == nil:
		return ""
	case s.HTTP.Advertise != "":
		return s.HTTP.Advertise
	}
	return s.HTTP.Listen
}

func (s *Self) check() error {
	if _, err := cluster.ParseDeviceName(string(s.Name)); err != nil {
		return err
	}
	addressed, external := s.Journal.Peer != "", len(s.Journal.Endpoints) > 0
	switch {
	case s.ClusterID == "":
		return fmt.Errorf("cluster-id is missing")
	case s.SSH.Listen == "":
		return fmt.Errorf("ssh.listen is missing")
	case s.HTTP != nil && s.HTTP.Listen == "":
		return fmt.Errorf("http.listen is missing")
	case s.HTTP != nil && (s.HTTP.Cert == "") != (s.HTTP.Key == ""):
		return fmt.Errorf("http.cert and http.key go together")
	case addressed && external:
		return fmt.Errorf("journal.peer and journal.endpoints exclude each other")
	case addressed && s.Journal.Client == "":
		return fmt.Errorf("journal.client is missing")
	case s.Journal.Spare && !addressed:
		return fmt.Errorf("journal.spare needs journal.peer and journal.client")
	case (!addressed || s.Journal.Spare) && !external && len(s.Journal.Servers) == 0:
		return fmt.Errorf("one of journal.peer, journal.servers and journal.endpoints must be set")
	}
	return nil
}
