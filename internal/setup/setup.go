// Package setup makes a person's machine know a cluster: what `git cluster use`
// does, apart from asking.
//
// Entry points: [ParseSeed] reads the address a person was given and
// [Seed.Reach] finds the server there; [Server.Learn] logs in and asks for the
// nodes; [Server.Cluster] is what to put into the client's file; [WriteLFS] tells
// git-lfs where the cluster's large files are.
//
// It promises to log in only to a server with the very host key that was shown,
// and to write nothing that the cluster has not said over such a connection.
package setup

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/address"
	"gitcluster/internal/client"
	"gitcluster/internal/cluster"
	"gitcluster/internal/config"
	"gitcluster/internal/credential"
	"gitcluster/internal/replica"
)

// A Seed is where to look for a first node of a cluster.
type Seed struct {
	User     string // "" for the usual one
	Identity string // private key file to log in with; "" for the usual ones
	Hosts    []address.Host
}

// nodePort is where a node listens unless it was told otherwise.
const nodePort = 2222

// ParseSeed reads "[user@]host[:port]", or several hosts with commas between
// them. A node's port is tried before SSH's where none is named.
func ParseSeed(text string) (Seed, error) {
	text = strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(text, "cluster://"), "ssh://"), "/")
	a, err := address.Parse("cluster://" + text + "/x")
	if err != nil || strings.Contains(text, "/") {
		// It is not repeated: somebody may have put a password into it.
		return Seed{}, cluster.WithHint(errors.New("that is no address of a node"), "use host or host:port")
	}
	s := Seed{User: a.User}
	for _, h := range a.Hosts {
		if h.Port == 0 {
			s.Hosts = append(s.Hosts, address.Host{Name: h.Name, Port: nodePort})
		}
		s.Hosts = append(s.Hosts, h)
	}
	return s, nil
}

// A Server is the one that answers at a seed. Nothing says yet that it is the
// right one.
type Server struct {
	User     string // "" for the usual one
	Identity string // private key file to log in with; "" for the usual ones
	Host     address.Host
	Key      ssh.PublicKey // nil if Program checks it
	Program  error         // why another SSH program connects; nil if none does
	nodes    *client.Nodes // what it has said; with Program
}

// Reach finds the first of the seed's servers that speaks SSH. Where another program
// connects, that means to log in: the program has checked the host key then, by what
// it knows or by asking.
func (s Seed) Reach(ctx context.Context, getenv func(string) string) (Server, error) {
	var told []string
	for _, h := range s.Hosts {
		server := Server{User: s.User, Identity: s.Identity, Host: h}
		key, err := client.HostKey(ctx, server.candidate(), getenv)
		if err == nil {
			server.Key = key
			return server, nil
		}
		if errors.Is(err, client.ErrProgram) {
			server.Program = err
			var nodes client.Nodes
			if nodes, err = server.ask(ctx, getenv); err == nil {
				server.nodes = &nodes
				return server, nil
			}
		}
		if cause := context.Cause(ctx); cause != nil {
			return Server{}, cause
		}
		told = append(told, fmt.Sprintf("%s: %v", h, strings.TrimPrefix(err.Error(), h.Dial()+": ")))
	}
	return Server{}, cluster.WithHint(fmt.Errorf("no node answers: %s", strings.Join(told, "; ")),
		"name the port by which nodes are reached: host:port")
}

func (s Server) candidate() replica.Candidate {
	addr := s.Host.Dial()
	c := replica.Candidate{Name: addr, Addr: addr, DefaultPort: s.Host.Port == 0, User: s.User, Identity: s.Identity}
	if s.Key != nil {
		c.HostKey = line(s.Key)
	}
	return c
}

// Fingerprint is the host key's as people compare it: "SHA256:…".
func (s Server) Fingerprint() string { return ssh.FingerprintSHA256(s.Key) }

// Learn logs in as the helper would and asks for the nodes.
func (s Server) Learn(ctx context.Context, getenv func(string) string) (client.Nodes, error) {
	if s.nodes != nil {
		return *s.nodes, nil
	}
	return s.ask(ctx, getenv)
}

// LearnAsDevice is Learn for this machine as a device.
func (s Server) LearnAsDevice(ctx context.Context, getenv func(string) string) (client.Nodes, error) {
	conn, err := client.ConnectTo(ctx, s.candidate(), func(name string) string {
		if name == credential.EnvAsDevice {
			return "1"
		}
		return getenv(name)
	}, true)
	if err != nil {
		return client.Nodes{}, err
	}
	defer conn.Close()
	return client.AskNodes(ctx, conn)
}

func (s Server) ask(ctx context.Context, getenv func(string) string) (client.Nodes, error) {
	conn, err := client.ConnectTo(ctx, s.candidate(), getenv, false)
	if err != nil {
		return client.Nodes{}, err
	}
	defer conn.Close()
	return client.AskNodes(ctx, conn)
}

// Alone is what the client's file should say of a cluster of which nothing is known but
// the server.
func (s Server) Alone() *config.Cluster {
	return &config.Cluster{Nodes: []config.Node{{Name: "seed", SSH: s.Host.String(), HostKey: line(s.Key)}}}
}

// Cluster is what the client's file should say of a cluster, by the word of the
// server that was asked: its nodes, with the keys they must show. region is where
// this machine is, or "".
func (s Server) Cluster(n client.Nodes, region string) (*config.Cluster, error) {
	c := &config.Cluster{Region: region, Identity: s.Identity}
	if s.User != "" && s.User != config.DefaultUser {
		c.User = s.User
	}
	met := false
	for _, node := range n.Nodes {
		host, err := address.ParseHost(node.SSH)
		key, _, options, rest, keyErr := ssh.ParseAuthorizedKey([]byte(node.HostKey))
		if err = errors.Join(err, keyErr); err != nil || len(options) > 0 || len(rest) > 0 {
			return nil, fmt.Errorf("node %q has the address %q and the host key %q, which cannot be used", node.Name, node.SSH, node.HostKey)
		}
		entry := config.Node{Name: string(node.Name), SSH: host.String(), HostKey: line(key)}
		if node.Name == n.Node {
			met = true
			if s.Key == nil {
				// The way there is known to the program that connects, and so is the key
				// at its end.
				entry.SSH, entry.HostKey = s.Host.String(), ""
			} else if entry.HostKey != line(s.Key) {
				// Another SSH server stands before the node. It is the one that was
				// seen to work, and whose key was confirmed.
				entry.SSH, entry.HostKey = s.Host.String(), line(s.Key)
			}
		}
		// The one that was asked comes first: it can be reached from here.
		if node.Name == n.Node {
			c.Nodes = append([]config.Node{entry}, c.Nodes...)
		} else {
			c.Nodes = append(c.Nodes, entry)
		}
	}
	if !met {
		return nil, fmt.Errorf("node %q is not in its cluster's own list of nodes", n.Node)
	}
	return c, nil
}

// line is a key as a configuration has it, without a comment.
func line(key ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}
