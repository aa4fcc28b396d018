package shell

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"gitcluster/internal/access"
	"gitcluster/internal/cluster"
)

func TestParseSyncArgs(t *testing.T) {
	hash := func(s string) *string { return &s }
	for line, want := range map[string]*syncArgs{
		"a":                        {repo: "a"},
		"--write a":                {write: true, repo: "a"},
		"--current --nodes=12 a/b": {current: true, nodes: hash("12"), repo: "a/b"},
		"--nodes= a":               {nodes: hash(""), repo: "a"},
		"":                         nil,
		"a b":                      nil,
		"--nodes a":                nil,
		"--write=1 a":              nil,
		"--other a":                nil,
		"a --write":                nil,
		"../x":                     nil,
	} {
		got, err := parseSyncArgs(strings.Fields(line))
		if (err == nil) != (want != nil) || want != nil && !reflect.DeepEqual(got, *want) {
			t.Errorf("%q: %+v, %v; want %+v", line, got, err, want)
		}
	}
}

// Whoever may log in learns where the nodes are that serve, and nobody else.
func TestNodes(t *testing.T) {
	sh, _ := newShell(t)
	one := cluster.Device{Name: "node1", PublicKey: key(t), Node: true, Enabled: true, Trusted: true, SSH: "h1:2222", HTTP: "h1:443", Region: "eu"}
	two := cluster.Device{Name: "node2", PublicKey: key(t), Node: true, Enabled: true, Trusted: true, SSH: "h2:2222"}
	off := two
	off.Name, off.Enabled, off.PublicKey = "off", false, key(t)
	builder := two
	builder.Name, builder.Node, builder.PublicKey = "builder", false, key(t)
	rules := access.NewDirectory([]cluster.Device{two, off, one, builder}, []cluster.User{{Name: "alice"}}, nil, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")})
	sh.Rules = func() *access.Directory { return rules }
	want := cluster.NodeList{Cluster: "c1", Nodes: []cluster.NodeAddress{
		{Name: "node1", SSH: "h1:2222", HTTP: "h1:443", Region: "eu", HostKey: one.PublicKey}, {Name: "node2", SSH: "h2:2222", HostKey: two.PublicKey},
	}}

	status, stdout, stderr := serve(sh, cluster.Identity{User: "alice"}, here, NodesCommand, "")
	var reply nodesReply
	if err := json.Unmarshal([]byte(stdout), &reply); err != nil || status != 0 || strings.Count(stdout, "\n") != 1 {
		t.Fatalf("status %d, %q, %q, %v", status, stdout, stderr, err)
	}
	if !reflect.DeepEqual(reply.NodeList, want) || reply.Node != "node1" || reply.Version == "" || time.Since(reply.Time).Abs() > time.Minute {
		t.Errorf("got %+v, want the nodes %+v", reply, want)
	}

	// The reply to a synchronization has them if they are news, whether it could be
	// done or not.
	for asked, told := range map[string]bool{" --nodes=": true, " --nodes=x": true, " --nodes=" + want.Hash(): false, "": false} {
		_, stdout, _ := serve(sh, cluster.Identity{User: "alice"}, here, SyncCommand+asked+" ../x", "")
		var reply syncReply
		if err := json.Unmarshal([]byte(stdout), &reply); err != nil {
			t.Fatal(err)
		}
		if got := reflect.DeepEqual(reply.Nodes, want.Nodes); got != told || !told && reply.Nodes != nil {
			t.Errorf("%q: nodes %+v", asked, reply.Nodes)
		}
	}

	for _, id := range []cluster.Identity{{}, {Device: "off"}} {
		for _, command := range []string{NodesCommand, SyncCommand + " --nodes= ../x"} {
			if _, stdout, _ := serve(sh, id, here, command, ""); strings.Contains(stdout, "h1") {
				t.Errorf("%s: %s was told %q", command, id, stdout)
			}
		}
	}
	if status, stdout, _ := serve(sh, cluster.Identity{User: "alice"}, here, NodesCommand+" x", ""); status == 0 || stdout != "" {
		t.Errorf("with an argument: status %d, %q", status, stdout)
	}
}
