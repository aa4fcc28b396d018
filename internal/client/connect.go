package client

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"gitcluster/internal/address"
	"gitcluster/internal/config"
	"gitcluster/internal/nodecache"
	"gitcluster/internal/replica"
	"gitcluster/internal/sshconfig"
)

// Connect connects to one node as the helper would, with the same keys and the
// same care for its host key. node is its name in the client configuration, or
// host[:port]; user, if not "", is who to log in as. own is as for [ConnectTo].
func Connect(ctx context.Context, node, user, clusterName string, getenv func(string) string, own bool) (Connection, error) {
	conf, err := config.LoadClient(config.ClientPath())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	candidate, err := findNode(node, user, clusterName, conf)
	if err != nil {
		return nil, err
	}
	return ConnectTo(ctx, candidate, getenv, own)
}

// LoginName is who would be logged in as on a candidate, unless as a device: what its
// address or client.toml says, or else ssh_config.
func LoginName(candidate replica.Candidate, getenv func(string) string) (string, error) {
	aimed, err := target(candidate)
	if err != nil {
		return "", err
	}
	found, err := sshconfig.New(getenv).Lookup(aimed)
	if err != nil {
		return "", err
	}
	return found.User, nil
}

// findNode takes node for a name of the configuration, or of a node learned from
// one of it, if it is one.
func findNode(node, user, clusterName string, conf *config.Client) (replica.Candidate, error) {
	q := replica.Query{Address: address.Address{Cluster: clusterName, User: user}, Config: conf, Pin: node, Nodes: nodecache.Open().Nodes, Now: time.Now()}
	if conf != nil {
		if all, err := replica.Find(q); err == nil {
			return all[0], nil
		}
	}
	host, err := address.ParseHost(node)
	if err != nil {
		return replica.Candidate{}, fmt.Errorf("no node of the configuration is called %q, and as an address: %w", node, err)
	}
	q.Address, q.Pin = address.Address{Hosts: []address.Host{host}, User: user}, ""
	all, err := replica.Find(q)
	if err != nil {
		return replica.Candidate{}, err
	}
	return all[0], nil
}
