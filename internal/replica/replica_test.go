package replica

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"gitcluster/internal/address"
	"gitcluster/internal/cluster"
	"gitcluster/internal/config"
)

func conf() *config.Client {
	return &config.Client{Clusters: map[string]*config.Cluster{
		"demo": {User: "git", Identity: "/key", KnownHosts: "/known", Nodes: []config.Node{
			{Name: "node1", SSH: "h1:2201", HostKey: "key1"}, {Name: "node2", SSH: "h2"},
		}},
		"other": {User: "bob", Nodes: []config.Node{{Name: "x", SSH: "h2:22"}, {Name: "y", SSH: "h3:22"}}},
	}}
}

func TestCandidates(t *testing.T) {
	node1 := Candidate{"node1", "h1:2201", "git", "/key", "key1", "/known"}
	node2 := Candidate{"node2", "h2:22", "git", "/key", "", "/known"}
	as := func(c Candidate, name, user string) Candidate {
		c.Name, c.User = name, user
		return c
	}
	for _, c := range []struct {
		address, pin string
		conf         *config.Client
		want         []Candidate
	}{
		{"cluster::demo:r", "", conf(), []Candidate{node1, node2}},
		{"cluster::alice@demo:r", "node2", conf(), []Candidate{as(node2, "node2", "alice")}},
		{"cluster::demo:r", "h1:2201", conf(), []Candidate{node1}},
		{"cluster://h9,h9:22,[::1]:3/r", "", nil, []Candidate{{Name: "h9", Addr: "h9:22", User: "git"}, {Name: "[::1]:3", Addr: "[::1]:3", User: "git"}}},
		// The configuration's host key holds for the host, too.
		{"cluster://h1:2201/r", "", conf(), []Candidate{as(node1, "h1:2201", "git")}},
		{"cluster://alice@h3/r", "", conf(), []Candidate{{Name: "h3", Addr: "h3:22", User: "alice"}}},
		// Two clusters have a node there.
		{"cluster://h2/r", "", conf(), []Candidate{{Name: "h2", Addr: "h2:22", User: "git"}}},
	} {
		a, err := address.Parse(c.address)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Candidates(a, c.conf, c.pin)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s pinned to %q: %+v, %v; want %+v", c.address, c.pin, got, err, c.want)
		}
	}
	a, _ := address.Parse("cluster::demo:r")
	if _, err := Candidates(a, conf(), "node3"); !errors.Is(err, ErrUnknownReplica) || !strings.HasSuffix(cluster.Hint(err), "node1, node2") {
		t.Errorf("pinned to none: %v, hint %q", err, cluster.Hint(err))
	}
	if _, err := Candidates(a, nil, ""); !errors.Is(err, config.ErrNoCluster) {
		t.Errorf("no configuration: %v", err)
	}
}
