package client

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/address"
	"gitcluster/internal/config"
	"gitcluster/internal/replica"
	"gitcluster/internal/sshclient"
)

// Connect connects to one node as the helper would, with the same keys and the
// same care for its host key. node is its name in the client configuration, or
// host[:port]; user, if not "", is who to log in as.
func Connect(ctx context.Context, node, user, clusterName string, getenv func(string) string) (*sshclient.Conn, error) {
	conf, err := config.LoadClient(config.ClientPath())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	candidate, err := findNode(node, user, clusterName, conf)
	if err != nil {
		return nil, err
	}
	opts, err := options(ctx, candidate, getenv)
	if err != nil {
		return nil, err
	}
	conn, err := sshclient.Dial(ctx, opts)
	if err != nil {
		return nil, plain(candidate.String(), err)
	}
	return conn, nil
}

// findNode takes node for a name of the configuration if it is one.
func findNode(node, user, clusterName string, conf *config.Client) (replica.Candidate, error) {
	if conf != nil {
		if _, c, err := conf.Find(clusterName); err == nil {
			for _, n := range c.Nodes {
				if n.Name != node {
					continue
				}
				all, err := replica.Candidates(address.Address{Cluster: clusterName, User: user}, conf, node)
				if err != nil {
					return replica.Candidate{}, err
				}
				return all[0], nil
			}
		}
	}
	host, err := address.ParseHost(node)
	if err != nil {
		return replica.Candidate{}, fmt.Errorf("no node of the configuration is called %q, and as an address: %w", node, err)
	}
	all, err := replica.Candidates(address.Address{Hosts: []address.Host{host}, User: user}, conf, "")
	if err != nil {
		return replica.Candidate{}, err
	}
	return all[0], nil
}

// options says how to connect to a candidate, and as whom.
func options(ctx context.Context, candidate replica.Candidate, getenv func(string) string) (sshclient.Options, error) {
	o := sshclient.Options{
		Addr:         candidate.Addr,
		User:         candidate.User,
		IdentityFile: candidate.Identity,
		KeepAlive:    keepAlive,
		Version:      "gitcluster",
	}
	if candidate.KnownHosts != "" {
		o.KnownHosts = []string{candidate.KnownHosts}
	}
	if candidate.HostKey != "" {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(candidate.HostKey))
		if err != nil {
			return o, fmt.Errorf("host key of %s: %w", candidate.Name, err)
		}
		o.HostKey = key
	}
	return o, identify(ctx, candidate, getenv, &o)
}
