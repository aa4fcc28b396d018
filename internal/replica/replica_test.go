package replica

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

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

func parse(t *testing.T, text string) address.Address {
	t.Helper()
	a, err := address.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestFind(t *testing.T) {
	node1 := Candidate{Name: "node1", Addr: "h1:2201", User: "git", Identity: "/key", HostKey: "key1", KnownHosts: "/known"}
	node2 := Candidate{Name: "node2", Addr: "h2:22", DefaultPort: true, User: "git", Identity: "/key", KnownHosts: "/known"}
	as := func(c Candidate, name, user string) Candidate {
		c.Name, c.User = name, user
		return c
	}
	pinned := func(c Candidate) Candidate {
		c.Pinned = true
		return c
	}
	for _, c := range []struct {
		address, pin string
		conf         *config.Client
		want         []Candidate
	}{
		{"cluster::demo:r", "", conf(), []Candidate{node1, node2}},
		{"cluster::alice@demo:r", "node2", conf(), []Candidate{pinned(as(node2, "node2", "alice"))}},
		{"cluster::demo:r", "h1:2201", conf(), []Candidate{pinned(node1)}},
		{"cluster://h9,h9:22,[::1]:3/r", "", nil, []Candidate{{Name: "h9", Addr: "h9:22", DefaultPort: true}, {Name: "[::1]:3", Addr: "[::1]:3"}}},
		// The configuration's host key holds for the host, too.
		{"cluster://h1:2201/r", "", conf(), []Candidate{as(node1, "h1:2201", "git")}},
		{"cluster://alice@h3/r", "", conf(), []Candidate{{Name: "h3", Addr: "h3:22", User: "alice"}}},
		// Two clusters have a node there.
		{"cluster://h2/r", "", conf(), []Candidate{{Name: "h2", Addr: "h2:22", DefaultPort: true}}},
	} {
		got, err := Find(Query{Address: parse(t, c.address), Config: c.conf, Pin: c.pin})
		for i := range got {
			got[i].Origin = ""
		}
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s pinned to %q: %#v, %v; want %#v", c.address, c.pin, got, err, c.want)
		}
	}
	a := parse(t, "cluster::demo:r")
	if _, err := Find(Query{Address: a, Config: conf(), Pin: "node3"}); !errors.Is(err, ErrUnknownReplica) || !strings.HasSuffix(cluster.Hint(err), "node1, node2") {
		t.Errorf("pinned to none: %v, hint %q", err, cluster.Hint(err))
	}
	if _, err := Find(Query{Address: a}); !errors.Is(err, config.ErrNoCluster) {
		t.Errorf("no configuration: %v", err)
	}
}

const (
	keyC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGGJpE1rcCLN3mUkvRf/CdWyqVJ0wkxL8xUzQ1iE+3Xk"
	keyA = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMAQXL6tXfwjWJHQuFJtmTUQp9PdWZEI+JmAvPIJE1Hg"
	keyB = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJvvLlRRQsaqNgm5NkXPjwtCSj7LkM0uNQrr6/TDiAuh"
)

// everywhere gives one list for every origin, and notes which were asked for.
func everywhere(asked *[]string, nodes ...cluster.NodeAddress) func(string) (cluster.NodeList, bool) {
	return func(origin string) (cluster.NodeList, bool) {
		*asked = append(*asked, origin)
		return cluster.NodeList{Cluster: "c1", Nodes: nodes}, true
	}
}

// What the user has said of a node holds, whatever others say of it.
func TestLearnedNodes(t *testing.T) {
	var asked []string
	k := &config.Cluster{User: "bob", Identity: "/key", KnownHosts: "/known", Nodes: []config.Node{
		{Name: "node1", SSH: "h1:2201", HostKey: keyA}, {Name: "node2", SSH: "h2:22"},
	}}
	q := Query{Address: parse(t, "cluster::r"), Config: &config.Client{Clusters: map[string]*config.Cluster{"demo": k}},
		Nodes: everywhere(&asked,
			cluster.NodeAddress{Name: "node1", SSH: "evil:22", HostKey: keyB, Region: "eu"},    // another address for a name
			cluster.NodeAddress{Name: "nodeX", SSH: "h2:22", HostKey: keyB, HTTP: "h2:443"},    // another name for an address
			cluster.NodeAddress{Name: "node3", SSH: "h3:2222", HostKey: keyC + " a comment"},   // new
			cluster.NodeAddress{Name: "node4", SSH: "-oProxyCommand=x", HostKey: keyB},         // what is wrong is left out
			cluster.NodeAddress{Name: "node5", SSH: "h5:22"},                                   //
			cluster.NodeAddress{Name: "node6", SSH: "h6:22", HostKey: "command=\"x\" " + keyB}, //
			cluster.NodeAddress{Name: "a\nb", SSH: "h7:22", HostKey: keyB},                     //
			cluster.NodeAddress{Name: "node8", SSH: "h8:22", HostKey: keyB + "\n" + keyA},      //
			cluster.NodeAddress{Name: "node10", SSH: "10.0.0.1:22", HostKey: keyA},             // node1 by its inner address
			cluster.NodeAddress{Name: "node9", SSH: "h9:22", HostKey: keyB, Region: "\x1b[2J", HTTP: "a b"},
		)}
	got, err := Find(q)
	if err != nil {
		t.Fatal(err)
	}
	origin := got[0].Origin
	want := []Candidate{
		{Name: "node1", Addr: "h1:2201", User: "bob", Identity: "/key", HostKey: keyA, KnownHosts: "/known", Region: "eu", Origin: origin},
		{Name: "node2", Addr: "h2:22", User: "bob", Identity: "/key", KnownHosts: "/known", HTTP: "h2:443", Origin: origin},
		{Name: "node3", Addr: "h3:2222", User: "bob", Identity: "/key", HostKey: keyC, Cluster: "c1", Vouchers: []string{"h1:2201", "h2:22"}, Origin: origin},
		{Name: "node9", Addr: "h9:22", User: "bob", Identity: "/key", HostKey: keyB, Cluster: "c1", Vouchers: []string{"h1:2201", "h2:22"}, Origin: origin},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v, want\n%+v", got, want)
	}
	// The list of a cluster is that of its configuration as it stands: another
	// address or key may mean another cluster.
	k.Nodes[0].HostKey = keyB
	if got, _ := Find(q); got[0].Origin == origin {
		t.Errorf("the origin %q did not change with the configuration", origin)
	}
	never := false
	k.Learn = &never
	if got, _ := Find(q); len(got) != 2 {
		t.Errorf("learned in spite of learn = false: %+v", got)
	}
	// Of an address's hosts each has a list of its own.
	asked = nil
	q.Address, q.Config = parse(t, "cluster://a,b:7/r"), nil
	if got, _ := Find(q); len(got) < 3 || got[0].Name != "a" || got[1].Name != "b:7" || got[2].Origin != "host a:22" ||
		!reflect.DeepEqual(asked, []string{"host a:22", "host b:7"}) {
		t.Errorf("%+v; asked for %q", got, asked)
	}
}

// What the configuration says of a cluster holds for an address that names a host of it.
func TestHostsOfAConfiguredCluster(t *testing.T) {
	var asked []string
	never := false
	k := &config.Cluster{Region: "eu", SyncWait: 7 * time.Second, Learn: &never, Nodes: []config.Node{
		{Name: "node1", SSH: "h1:2201", Region: "us"}, {Name: "node2", SSH: "h2:2201", Region: "eu"},
	}}
	q := Query{Config: &config.Client{Clusters: map[string]*config.Cluster{"demo": k}},
		Nodes: everywhere(&asked, cluster.NodeAddress{Name: "node3", SSH: "h3:2222", HostKey: keyC})}
	for address, want := range map[string]string{
		"cluster://h1:2201,h2:2201/r": "h2:2201 h1:2201", // the one in the region first, and no other
		"cluster://h1:2201,h9:7/r":    "h1:2201 h9:7 node3",
		"cluster::r":                  "node2 node1",
	} {
		q.Address = parse(t, address)
		got, err := Find(q)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, c := range got {
			names = append(names, c.Name)
		}
		if strings.Join(names, " ") != want || q.Cluster() != k {
			t.Errorf("%s: %q, want %q; of the cluster %+v", address, names, want, q.Cluster())
		}
	}
	q.Address = parse(t, "cluster://h9:7/r")
	if q.Cluster() != nil {
		t.Errorf("a host of no cluster: %+v", q.Cluster())
	}
}

func TestServicesOfTheDNS(t *testing.T) {
	q := Query{Address: parse(t, "cluster://example.com/r"), Services: []Service{
		{address.Host{Name: "n2.example.com", Port: 2222}, 10}, {address.Host{Name: "n1.example.com", Port: 22}, 10}, {address.Host{Name: "n3.example.com", Port: 22}, 20},
	}}
	order := func() (names string) {
		t.Helper()
		got, err := Find(q)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range got {
			names += c.Addr + " "
		}
		return names
	}
	if got := order(); got != "n2.example.com:2222 n1.example.com:22 n3.example.com:22 " {
		t.Error(got)
	}
	// Among those of one priority the near one, and a backup only when they have failed.
	q.Now = time.Now()
	away := time.Time{}
	q.Measured = func(addr string) (time.Duration, time.Time) {
		times := map[string]time.Duration{"n1.example.com:22": time.Millisecond, "n2.example.com:2222": time.Second, "n3.example.com:22": time.Millisecond}
		if addr == "n3.example.com:22" {
			return times[addr], time.Time{}
		}
		return times[addr], away
	}
	if got := order(); got != "n1.example.com:22 n2.example.com:2222 n3.example.com:22 " {
		t.Error(got)
	}
	away = q.Now.Add(time.Minute)
	if got := order(); got != "n3.example.com:22 n1.example.com:22 n2.example.com:2222 " {
		t.Error(got)
	}
}

func TestRank(t *testing.T) {
	now := time.Now()
	ms := time.Millisecond
	for name, c := range map[string]struct {
		region string
		nodes  []Candidate // Name, Region, Answers, AvoidUntil
		want   string
	}{
		"nothing is known: as configured":         {"", []Candidate{{Name: "b"}, {Name: "a"}}, "b a"},
		"by time":                                 {"", []Candidate{{Name: "a", Answers: 120 * ms}, {Name: "b", Answers: 40 * ms}, {Name: "c", Answers: ms}}, "c b a"},
		"times that hardly differ: as configured": {"", []Candidate{{Name: "a", Answers: 7 * ms}, {Name: "b", Answers: ms / 10}}, "a b"},
		"not measured: not before the nearest":    {"", []Candidate{{Name: "a", Answers: 90 * ms}, {Name: "b"}, {Name: "c", Answers: 30 * ms}}, "b c a"},
		"not measured: as configured":             {"", []Candidate{{Name: "a"}, {Name: "b", Answers: 20 * ms}}, "a b"},
		"the region goes before time":             {"eu", []Candidate{{Name: "a", Region: "us", Answers: ms}, {Name: "b", Region: "eu", Answers: 90 * ms}}, "b a"},
		"no region here":                          {"", []Candidate{{Name: "a", Region: "us", Answers: 90 * ms}, {Name: "b", Answers: 20 * ms}}, "b a"},
		"failed: last, not left out":              {"eu", []Candidate{{Name: "a", Region: "eu", Answers: ms, AvoidUntil: now.Add(time.Second)}, {Name: "b"}}, "b a"},
		"failed long ago":                         {"", []Candidate{{Name: "a", Answers: ms, AvoidUntil: now.Add(-time.Second)}, {Name: "b", Answers: 30 * ms}}, "a b"},
	} {
		k := &config.Cluster{Region: c.region}
		measured := map[string]Candidate{}
		for _, n := range c.nodes {
			k.Nodes = append(k.Nodes, config.Node{Name: n.Name, SSH: n.Name, Region: n.Region})
			measured[n.Name+":22"] = n
		}
		got, err := Find(Query{Address: parse(t, "cluster::r"), Config: &config.Client{Clusters: map[string]*config.Cluster{"demo": k}}, Now: now,
			Measured: func(addr string) (time.Duration, time.Time) { return measured[addr].Answers, measured[addr].AvoidUntil }})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, g := range got {
			names = append(names, g.Name)
		}
		if strings.Join(names, " ") != c.want {
			t.Errorf("%s: %v, want %s", name, names, c.want)
		}
	}
}

func TestWhy(t *testing.T) {
	now := time.Now()
	got := Candidate{Region: "eu", Near: true, Answers: 1500 * time.Microsecond, AvoidUntil: now.Add(time.Minute), Cluster: "c"}.Why(now)
	if want := `region "eu", as here; answers in 1.5 ms; has failed, so tried last for 1m0s; learned from the cluster`; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
