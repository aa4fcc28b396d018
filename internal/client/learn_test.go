package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"gitcluster/internal/address"
	"gitcluster/internal/cluster"
	"gitcluster/internal/config"
	"gitcluster/internal/nodecache"
	"gitcluster/internal/remotehelper"
	"gitcluster/internal/replica"
	"gitcluster/internal/sshclient/sshtest"
)

// What is learned of a node holds for this configuration alone, and only as long
// as the node is one of the cluster it was learned from.
func TestLearnedNodeIsHeldToItsCluster(t *testing.T) {
	g := remembering(t)
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.at("n1", dead.Addr().String(), "")
	dead.Close()
	o := g.opts
	o.Handler = good // of cluster "c"
	learned := sshtest.Start(t, o)
	teach := func(id, key string) {
		t.Helper()
		if err := g.conf.Write(g.file); err != nil {
			t.Fatal(err)
		}
		conf, err := config.LoadClient(g.file)
		if err != nil {
			t.Fatal(err)
		}
		all, err := replica.Find(replica.Query{Address: address.Address{Path: "demo/x"}, Config: conf})
		if err != nil {
			t.Fatal(err)
		}
		g.cache.Learn(all[0].Origin, &cluster.NodeList{Cluster: id, Nodes: []cluster.NodeAddress{{Name: "n2", SSH: learned.Addr, HostKey: key}}}, &nodecache.Voucher{})
	}
	for _, c := range []struct {
		id, key, want string
	}{
		{"c", learned.HostKey(), ""},
		{"other", learned.HostKey(), "it is a node of another cluster now"},
		{"c", (&sshtest.Server{Host: sshtest.NewKey(t)}).HostKey(), "host key has changed"},
	} {
		teach(c.id, c.key)
		out, stderr, err := g.connect(remotehelper.UploadPack)
		if c.want == "" && (out != "\nhello0000" || err != nil) || c.want != "" && (err == nil || out != "" || !strings.Contains(err.Error()+stderr, c.want)) {
			t.Errorf("%+v: stdout %q, stderr %q, %v", c, out, stderr, err)
		}
	}
	// A configuration that names another node has nothing to do with it.
	teach("c", learned.HostKey())
	g.conf.Clusters["demo"].Nodes[0].SSH = "127.0.0.1:1"
	if out, stderr, err := g.connect(remotehelper.UploadPack); err == nil || learned.Connections() > 2 {
		t.Errorf("stdout %q, stderr %q, %v", out, stderr, err)
	}
}

// Nodes are learned with the synchronization, once.
func TestLearning(t *testing.T) {
	g := remembering(t)
	o := g.opts
	o.Handler = good
	other := sshtest.Start(t, o)
	first := g.node("n1", func(ctx context.Context, s *sshtest.Session) int {
		if !isSync(s) {
			return good(ctx, s)
		}
		fmt.Fprintf(s.Stdout, `{"cluster":"c","node":"n1","nodes":[{"name":"n2","ssh":%q,"host_key":%q}]}`+"\n", other.Addr, other.HostKey())
		return 0
	})
	want := cluster.NodeList{Cluster: "c", Nodes: []cluster.NodeAddress{{Name: "n2", SSH: other.Addr, HostKey: other.HostKey()}}}.Hash()
	g.connect(remotehelper.UploadPack)
	g.connect(remotehelper.UploadPack)
	var syncs []string
	for _, c := range first.Commands() {
		if strings.HasPrefix(c, syncCommand) {
			syncs = append(syncs, c)
		}
	}
	if len(syncs) != 2 || !strings.Contains(syncs[0], " --nodes= ") || !strings.Contains(syncs[1], " --nodes="+want+" ") {
		t.Errorf("asked %q, want the hash %s in the second", syncs, want)
	}
	g.env = map[string]string{replica.EnvReplica: "n2"}
	if out, stderr, err := g.connect(remotehelper.UploadPack); out != "\nhello0000" || err != nil || other.Connections() != 1 {
		t.Errorf("the learned node: stdout %q, stderr %q, %v", out, stderr, err)
	}
}

func TestServices(t *testing.T) {
	records := []*net.SRV{{Target: "N1.example.com.", Port: 2222, Priority: 5}, {Target: "evil.org.", Port: 22}, {Target: "evilexample.com.", Port: 22}, {Target: "-x.example.com.", Port: 22}, {Target: ".", Port: 0}, {Target: "example.com.", Port: 23}}
	for _, c := range []struct {
		address string
		err     error
		want    string
		asked   int // in two runs
	}{
		{"cluster://example.com/r", nil, "[5 n1.example.com:2222 0 example.com:23]", 1},
		{"cluster://Example.com/r", &net.DNSError{IsNotFound: true}, "[]", 1},
		{"cluster://example.com/r", errors.New("no network"), "[]", 1},
		{"cluster://example.com:22/r", nil, "[]", 0},
		{"cluster://example.com,b.example.com/r", nil, "[]", 0},
		{"cluster://192.0.2.1/r", nil, "[]", 0},
		{"cluster://[2001:db8::1]/r", nil, "[]", 0},
		{"cluster://localhost/r", nil, "[]", 0},
		{"cluster::r", nil, "[]", 0},
	} {
		asked := 0
		con := &connector{Params: Params{Cache: nodecache.In(t.TempDir()), LookupSRV: func(_ context.Context, service, proto, name string) (string, []*net.SRV, error) {
			if asked++; service != "git-cluster" || proto != "tcp" || name != "example.com." {
				t.Errorf("asked for %s %s %s", service, proto, name)
			}
			if c.err != nil {
				return "", nil, c.err
			}
			return "", records, nil
		}}}
		a, err := address.Parse(c.address)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			got := []string{}
			for _, s := range con.services(t.Context(), a) {
				got = append(got, fmt.Sprintf("%d %v", s.Priority, s.Host))
			}
			if got := fmt.Sprint(got); got != c.want {
				t.Errorf("%s, %v: %s, want %s", c.address, c.err, got, c.want)
			}
			con.Cache.Save()
			con.Cache = again(con.Cache)
		}
		if asked != c.asked {
			t.Errorf("%s: asked %d times, want %d", c.address, asked, c.asked)
		}
	}
}

// again is the cache as the next process has it.
func again(c *nodecache.Cache) *nodecache.Cache { return nodecache.In(c.Dir()) }
