// Package replica decides which servers to ask for a repository, and in which
// order.
//
// Entry point: [Candidates].
//
// It promises to make no connection, to name every candidate by a name that is
// unique in the list, and to let a host named in an address benefit from what the
// configuration says of the node there, above all its host key.
package replica

import (
	"errors"
	"fmt"
	"strings"

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
	Name       string
	Addr       string // "host:port"
	User       string
	Identity   string // private key file, or ""
	HostKey    string // an authorized_keys line, or ""
	KnownHosts string // a known_hosts file, or ""
}

// String is how messages name the candidate.
func (c Candidate) String() string {
	if c.Name == c.Addr {
		return c.Name
	}
	return fmt.Sprintf("%s (%s)", c.Name, c.Addr)
}

// Candidates returns the servers to try for an address, best first: at least
// one. conf may be nil for an address that names hosts. pin, if not "", is the
// name of the only one to use.
func Candidates(a address.Address, conf *config.Client, pin string) ([]Candidate, error) {
	var all []Candidate
	var err error
	if a.Hosts != nil {
		all = fromHosts(a, conf)
	} else if all, err = fromConfig(a, conf); err != nil {
		return nil, err
	}
	if pin != "" {
		return pinned(all, pin)
	}
	return rank(all), nil
}

// rank puts the best candidate first. The order of the configuration or of the
// address is what its author prefers.
func rank(all []Candidate) []Candidate { return all }

func fromConfig(a address.Address, conf *config.Client) (all []Candidate, err error) {
	if conf == nil {
		return nil, config.ErrNoCluster
	}
	_, k, err := conf.Find(a.Cluster)
	if err != nil {
		return nil, err
	}
	for _, n := range k.Nodes {
		all = append(all, candidate(k, n, a.User))
	}
	return all, nil
}

func fromHosts(a address.Address, conf *config.Client) (all []Candidate) {
	seen := map[string]bool{}
	for _, h := range a.Hosts {
		addr := h.Dial()
		if seen[addr] {
			continue
		}
		seen[addr] = true
		c := Candidate{Addr: addr, User: a.User}
		if k, n, ok := configured(conf, addr); ok {
			c = candidate(k, n, a.User)
		}
		c.Name = h.String()
		if c.User == "" {
			c.User = config.DefaultUser
		}
		all = append(all, c)
	}
	return all
}

func candidate(k *config.Cluster, n config.Node, user string) Candidate {
	if user == "" {
		user = k.User
	}
	return Candidate{
		Name: n.Name, Addr: n.Addr(), User: user,
		Identity: k.Identity, HostKey: n.HostKey, KnownHosts: k.KnownHosts,
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
			return []Candidate{c}, nil
		}
		names = append(names, c.Name)
	}
	return nil, cluster.WithHint(fmt.Errorf("%w: $%s is %q", ErrUnknownReplica, EnvReplica, pin),
		"set it to one of: "+strings.Join(names, ", "))
}
