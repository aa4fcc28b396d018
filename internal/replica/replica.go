// Package replica decides which servers to ask for a repository, and in which
// order.
//
// Entry points: [Find] gives the candidates for an address, best first;
// [Candidate.Why] says what put one into its place.
//
// It promises to make no connection, to name every candidate by a name that is
// unique in the list, to leave out none that might serve, and to let what the
// configuration says of a node, above all its host key, win over anything that was
// learned of it.
package replica

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"gitcluster/internal/address"
	"gitcluster/internal/cluster"
	"gitcluster/internal/config"
)

// EnvReplica is the environment variable that pins one replica by its name.
const EnvReplica = "GIT_CLUSTER_REPLICA"

// ErrUnknownReplica: the pinned replica is not one of the cluster's.
var ErrUnknownReplica = errors.New("no such replica")

// A Candidate is a server to try, and how to log in to it.
type Candidate struct {
	Name        string
	Addr        string // "host:port"
	User        string // "" where neither the address nor the configuration names one
	DefaultPort bool   // the port is SSH's because nobody names one
	Identity    string // private key file, or ""
	HostKey     string // an authorized_keys line, or ""
	KnownHosts  string // a known_hosts file, or ""

	Region  string // where it is, if that is known
	HTTP    string // "host:port" of its HTTPS front, if that is known
	Cluster string // the id of the cluster that a learned node is of
	// Vouchers are the addresses of those that the user has named, by whose word a
	// learned node is one of their cluster.
	Vouchers []string
	// Origin names whom the user trusts for this candidate: what it says of its
	// cluster's nodes may be kept under that name.
	Origin string

	Priority   uint16        // by the DNS; lower goes first
	Near       bool          // it is in the region of this machine
	Answers    time.Duration // how long it takes to its first word; 0: not known
	AvoidUntil time.Time     // it has failed, and is tried last until then
	Pinned     bool
}

// HostOrigin begins the origin of a candidate that an address names.
const HostOrigin = "host "

// Learned reports whether only another node has named it, and the user has not.
func (c Candidate) Learned() bool { return c.Cluster != "" }

// String is how messages name the candidate.
func (c Candidate) String() string {
	if c.Name == c.Addr {
		return c.Name
	}
	return fmt.Sprintf("%s (%s)", c.Name, c.Addr)
}

// A Service is a server that the DNS names. One with a lower priority goes before
// those with a higher, however near (RFC 2782).
type Service struct {
	address.Host
	Priority uint16
}

// A Query is what to find replicas for, and what is known.
type Query struct {
	Address address.Address
	Config  *config.Client // may be nil for an address that names hosts
	Pin     string         // if not "", the name of the only candidate to use
	// Services are servers that the DNS names for the address's host, best first.
	Services []Service
	// Nodes returns the nodes that were learned under an origin; may be nil.
	Nodes func(origin string) (cluster.NodeList, bool)
	// Measured returns how long a server takes to its first word, and until when it
	// should be tried last; may be nil.
	Measured func(addr string) (answers time.Duration, avoidUntil time.Time)
	Now      time.Time
}

// Find returns the servers to try for an address, best first: at least one.
func Find(q Query) ([]Candidate, error) {
	var all []Candidate
	var err error
	region := ""
	if q.Address.Hosts != nil {
		all = q.fromHosts()
		if k := q.Cluster(); k != nil {
			region = k.Region
		}
	} else if all, region, err = q.fromConfig(); err != nil {
		return nil, err
	}
	for i := range all {
		c := &all[i]
		c.Near = region != "" && c.Region == region
		if q.Measured != nil {
			c.Answers, c.AvoidUntil = q.Measured(c.Addr)
		}
	}
	if q.Pin != "" {
		return pinned(all, q.Pin)
	}
	rank(all, q.Address.Hosts != nil, q.Now)
	return all, nil
}

func (q Query) fromConfig() (all []Candidate, region string, err error) {
	if q.Config == nil {
		return nil, "", config.ErrNoCluster
	}
	name, k, err := q.Config.Find(q.Address.Cluster)
	if err != nil {
		return nil, "", err
	}
	origin := configOrigin(name, k)
	for _, n := range k.Nodes {
		c := candidate(k, n, q.Address.User)
		c.Origin = origin
		all = append(all, c)
	}
	if k.Learns() {
		all = q.learned(all, origin)
	}
	return all, k.Region, nil
}

// Cluster is the one of the configuration that the address means, or has a host of; nil
// if there is none.
func (q Query) Cluster() *config.Cluster {
	if q.Config == nil {
		return nil
	}
	if q.Address.Hosts == nil {
		_, k, err := q.Config.Find(q.Address.Cluster)
		if err != nil {
			return nil
		}
		return k
	}
	for _, h := range q.hosts() {
		if k, _, ok := configured(q.Config, h.Dial()); ok {
			return k
		}
	}
	return nil
}

// hosts are those of the address, or those that the DNS names for it.
func (q Query) hosts() []Service {
	if len(q.Services) > 0 {
		return q.Services
	}
	var all []Service
	for _, h := range q.Address.Hosts {
		all = append(all, Service{Host: h})
	}
	return all
}

func (q Query) fromHosts() (all []Candidate) {
	seen := map[string]bool{}
	var learning []string // the origins of those whose word is taken for others
	for _, h := range q.hosts() {
		addr := h.Dial()
		if seen[addr] {
			continue
		}
		seen[addr] = true
		c := Candidate{Addr: addr, User: q.Address.User, DefaultPort: h.Port == 0}
		k, n, ok := configured(q.Config, addr)
		if ok {
			c = candidate(k, n, q.Address.User)
		}
		c.Name, c.Origin, c.Priority = h.String(), HostOrigin+addr, h.Priority
		all = append(all, c)
		if !ok || k.Learns() {
			learning = append(learning, c.Origin)
		}
	}
	for _, origin := range learning {
		all = q.learned(all, origin)
	}
	return all
}

func candidate(k *config.Cluster, n config.Node, user string) Candidate {
	if user == "" {
		user = k.User
	}
	return Candidate{
		Name: n.Name, Addr: n.Addr(), User: user, DefaultPort: !n.HasPort(),
		Identity: k.Identity, HostKey: n.HostKey, KnownHosts: k.KnownHosts, Region: n.Region,
	}
}

// configured finds the only node of the configuration at an address. Where two
// clusters have one there, neither is meant.
func configured(conf *config.Client, addr string) (found *config.Cluster, node config.Node, ok bool) {
	if conf == nil {
		return nil, node, false
	}
	for _, k := range conf.Clusters {
		for _, n := range k.Nodes {
			if n.Addr() != addr {
				continue
			}
			if ok {
				return nil, config.Node{}, false
			}
			found, node, ok = k, n, true
		}
	}
	return found, node, ok
}

func pinned(all []Candidate, pin string) ([]Candidate, error) {
	var names []string
	for _, c := range all {
		if c.Name == pin || c.Addr == pin {
			c.Pinned = true
			return []Candidate{c}, nil
		}
		names = append(names, c.Name)
	}
	return nil, cluster.WithHint(fmt.Errorf("%w: $%s is %q", ErrUnknownReplica, EnvReplica, pin),
		"set it to one of: "+strings.Join(names, ", "))
}
