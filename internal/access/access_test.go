package access

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/cluster"
)

func newKey(t *testing.T) ssh.PublicKey {
	t.Helper()
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func line(key ssh.PublicKey) string { return string(ssh.MarshalAuthorizedKey(key)) }

func TestAuthenticate(t *testing.T) {
	var (
		alice, laptop, node, off, stranger  = newKey(t), newKey(t), newKey(t), newKey(t), newKey(t)
		unsure, both, twoUsers, twoMachines = newKey(t), newKey(t), newKey(t), newKey(t)
	)
	good := func(name cluster.DeviceName, key ssh.PublicKey) cluster.Device {
		return cluster.Device{Name: name, PublicKey: line(key), Enabled: true, Trusted: true}
	}
	disabled := good("off", off)
	disabled.Enabled = false
	untrusted := good("unsure", unsure)
	untrusted.Trusted = false
	d := NewDirectory(
		[]cluster.Device{good("node1", node), disabled, untrusted, good("twin", both), good("m1", twoMachines), good("m2", twoMachines)},
		[]cluster.User{
			{Name: "alice", Keys: []string{line(alice), line(laptop), line(alice)}},
			{Name: "bob", Keys: []string{line(both), line(twoUsers)}},
			{Name: "carol", Keys: []string{line(twoUsers)}},
		}, nil, nil)
	if p := d.Problems(); len(p) != 0 {
		t.Fatalf("problems: %v", p)
	}

	tests := []struct {
		name   string
		key    ssh.PublicKey
		remote string
		want   string // an identity, or
		reason string // part of the refusal
	}{
		{"user from anywhere", alice, "203.0.113.5", "alice", ""},
		{"user's second key", laptop, "2001:db8::1", "alice", ""},
		{"user from nowhere", alice, "", "alice", ""},
		{"device on loopback", node, "127.0.0.1", "device/node1", ""},
		{"device on v6 loopback", node, "::1", "device/node1", ""},
		{"device on 10/8", node, "10.1.2.3", "device/node1", ""},
		{"device on 172.16/12", node, "172.31.255.255", "device/node1", ""},
		{"device on 192.168/16", node, "192.168.4.1", "device/node1", ""},
		{"device on mapped v4", node, "::ffff:10.0.0.1", "device/node1", ""},
		{"device on unique local", node, "fd12::1", "device/node1", ""},
		{"device on link-local with a zone", node, "fe80::1%eth0", "device/node1", ""},
		{"device just outside 172.16/12", node, "172.32.0.0", "", "no trusted network"},
		{"device on the internet", node, "203.0.113.5", "", "no trusted network"},
		{"device on mapped internet", node, "::ffff:203.0.113.5", "", "no trusted network"},
		{"device from nowhere", node, "", "", "no trusted network"},
		{"disabled device", off, "127.0.0.1", "", "disabled"},
		{"untrusted device", unsure, "127.0.0.1", "", "not trusted"},
		{"user and device", both, "127.0.0.1", "", "several"},
		{"two users", twoUsers, "127.0.0.1", "", "several"},
		{"two devices", twoMachines, "127.0.0.1", "", "several"},
		{"stranger", stranger, "127.0.0.1", "", "nobody"},
		{"certificate over a known key", &ssh.Certificate{Key: alice, SignatureKey: stranger, Signature: &ssh.Signature{Format: "x"}}, "127.0.0.1", "", "nobody"},
		{"no key", nil, "127.0.0.1", "", "no key"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var remote netip.Addr
			if tt.remote != "" {
				remote = netip.MustParseAddr(tt.remote)
			}
			id, err := d.Authenticate(tt.key, remote)
			checkIdentity(t, id, err, tt.want, tt.reason)
		})
	}

	var none *Directory
	if _, err := none.Authenticate(alice, netip.Addr{}); !errors.Is(err, cluster.ErrDenied) {
		t.Errorf("nil directory: %v", err)
	}
	noNetworks := NewDirectory([]cluster.Device{good("node1", node)}, nil, nil, []netip.Prefix{})
	_, err := noNetworks.Authenticate(node, netip.MustParseAddr("127.0.0.1"))
	checkIdentity(t, cluster.Identity{}, err, "", "no trusted network")
	mapped := NewDirectory([]cluster.Device{good("node1", node)}, nil, nil,
		[]netip.Prefix{netip.MustParsePrefix("::ffff:203.0.113.0/120"), {}})
	if len(mapped.Problems()) != 1 {
		t.Errorf("an invalid network: problems %v", mapped.Problems())
	}
	id, err := mapped.Authenticate(node, netip.MustParseAddr("203.0.113.9"))
	checkIdentity(t, id, err, "device/node1", "")
}

func checkIdentity(t *testing.T, id cluster.Identity, err error, want, reason string) {
	t.Helper()
	if reason == "" {
		if err != nil || id.String() != want {
			t.Errorf("got %s, %v; want %s", id, err, want)
		}
		return
	}
	if !errors.Is(err, cluster.ErrDenied) || !strings.Contains(err.Error(), reason) {
		t.Errorf("error %v, want ErrDenied with %q", err, reason)
	}
	if id != (cluster.Identity{}) {
		t.Errorf("a refusal came with the identity %s", id)
	}
}

func testDirectory() *Directory {
	device := func(name cluster.DeviceName, enabled, trusted bool) cluster.Device {
		return cluster.Device{Name: name, Enabled: enabled, Trusted: trusted, Node: name != "mirror"}
	}
	robot := device("robot", true, true)
	robot.Node, robot.ActsAs = false, true
	return NewDirectory(
		[]cluster.Device{robot, device("node2", true, true), device("node1", true, true), device("mirror", true, true), device("off", false, true), device("unsure", true, false)},
		[]cluster.User{{Name: "root", Admin: true}, {Name: "alice"}, {Name: "bob"}, {Name: "carol"}},
		[]cluster.Grant{
			{Subject: "alice", Pattern: "team/*", Role: cluster.RoleWrite},
			{Subject: "alice", Pattern: "team/app", Role: cluster.RoleRead},
			{Subject: "bob", Pattern: "*", Role: cluster.RoleAdmin},
			{Subject: cluster.EveryUser, Pattern: "shared/*", Role: cluster.RoleWrite},
			{Subject: "device/mirror", Pattern: "team/app", Role: cluster.RoleWrite},
			{Subject: "device/off", Pattern: "*", Role: cluster.RoleAdmin},
			{Subject: "mirror", Pattern: "*", Role: cluster.RoleAdmin},
			{Subject: "gone", Pattern: "*", Role: cluster.RoleAdmin},
		}, nil)
}

func TestRole(t *testing.T) {
	d := testDirectory()
	user := func(n cluster.UserName) cluster.Identity { return cluster.Identity{User: n} }
	machine := func(n cluster.DeviceName) cluster.Identity { return cluster.Identity{Device: n} }
	operator := cluster.Identity{Operator: true}
	tests := []struct {
		name   string
		id     cluster.Identity
		repo   cluster.RepoName
		public bool
		want   cluster.Role
	}{
		{"anonymous, private", cluster.Identity{}, "team/app", false, cluster.RoleNone},
		{"anonymous, public", cluster.Identity{}, "team/app", true, cluster.RoleRead},
		{"anonymous, granted to all users", cluster.Identity{}, "shared/x", false, cluster.RoleNone},
		{"operator", operator, "team/app", false, cluster.RoleAdmin},
		{"operator that names a user is that user", cluster.Identity{Operator: true, User: "carol"}, "team/app", false, cluster.RoleNone},
		{"admin user", user("root"), "team/app", false, cluster.RoleAdmin},
		{"strongest grant", user("alice"), "team/app", false, cluster.RoleWrite},
		{"folder grant", user("alice"), "team/sub/x", false, cluster.RoleWrite},
		{"folder grant is not a prefix", user("alice"), "teams/x", false, cluster.RoleNone},
		{"grant on all", user("bob"), "any", false, cluster.RoleAdmin},
		{"grant to all users", user("carol"), "shared/x", false, cluster.RoleWrite},
		{"no grant", user("carol"), "team/app", false, cluster.RoleNone},
		{"no grant, public", user("carol"), "team/app", true, cluster.RoleRead},
		{"public never weakens", user("alice"), "team/app", true, cluster.RoleWrite},
		{"removed user", user("gone"), "shared/x", false, cluster.RoleNone},
		{"removed user, public", user("gone"), "shared/x", true, cluster.RoleRead},
		{"device reads", machine("node1"), "team/app", false, cluster.RoleRead},
		{"device has no user's grants", machine("node1"), "shared/x", false, cluster.RoleRead},
		{"device granted write", machine("mirror"), "team/app", false, cluster.RoleWrite},
		{"device, a user's grant of its name", machine("mirror"), "other", false, cluster.RoleRead},
		{"disabled device", machine("off"), "team/app", false, cluster.RoleNone},
		{"disabled device, public", machine("off"), "team/app", true, cluster.RoleRead},
		{"untrusted device", machine("unsure"), "team/app", false, cluster.RoleNone},
		{"unknown device", machine("nope"), "team/app", false, cluster.RoleNone},
		{"device as user", cluster.Identity{User: "alice", Device: "node1"}, "team/x", false, cluster.RoleWrite},
		{"device as user has only the user's role", cluster.Identity{User: "carol", Device: "mirror"}, "team/app", false, cluster.RoleNone},
		{"device as administrator", cluster.Identity{User: "root", Device: "node1"}, "team/x", false, cluster.RoleWrite},
		{"disabled device as user", cluster.Identity{User: "root", Device: "off"}, "team/app", false, cluster.RoleNone},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := d.Role(tt.id, &cluster.Repo{Name: tt.repo, Public: tt.public}); got != tt.want {
				t.Errorf("Role(%s, %s) = %s, want %s", tt.id, tt.repo, got, tt.want)
			}
		})
	}
	if got := d.Role(operator, nil); got != cluster.RoleNone {
		t.Errorf("role on no repository: %s", got)
	}
	var none *Directory
	if got := none.Role(user("alice"), &cluster.Repo{Name: "x"}); got != cluster.RoleNone {
		t.Errorf("role in the nil directory: %s", got)
	}
}

func TestAdmin(t *testing.T) {
	d := testDirectory()
	for _, tt := range []struct {
		id   cluster.Identity
		want bool
	}{
		{cluster.Identity{}, false},
		{cluster.Identity{Operator: true}, true},
		{cluster.Identity{User: "root"}, true},
		{cluster.Identity{User: "bob"}, false}, // admin of repositories, not of the cluster
		{cluster.Identity{User: "gone"}, false},
		{cluster.Identity{Device: "node1"}, false},
		{cluster.Identity{User: "root", Device: "node1"}, false},
		{cluster.Identity{User: "root", Device: "off"}, false},
		{cluster.Identity{User: "alice", Operator: true}, false},
	} {
		if got := d.Admin(tt.id); got != tt.want {
			t.Errorf("Admin(%s) = %t, want %t", tt.id, got, tt.want)
		}
	}
}

func TestActAs(t *testing.T) {
	d := testDirectory()
	for _, tt := range []struct {
		name   string
		id     cluster.Identity
		user   cluster.UserName
		want   string
		reason string
	}{
		{"node", cluster.Identity{Device: "node1"}, "alice", "alice (device/node1)", ""},
		{"device", cluster.Identity{Device: "mirror"}, "alice", "", "may not act for users"},
		{"device that may", cluster.Identity{Device: "robot"}, "alice", "alice (device/robot)", ""},
		{"disabled device", cluster.Identity{Device: "off"}, "alice", "", "disabled"},
		{"untrusted device", cluster.Identity{Device: "unsure"}, "alice", "", "not trusted"},
		{"unknown device", cluster.Identity{Device: "nope"}, "alice", "", "no device"},
		{"unknown user", cluster.Identity{Device: "node1"}, "gone", "", "not a user"},
		{"no user", cluster.Identity{Device: "node1"}, "", "", "not a user"},
		{"user", cluster.Identity{User: "bob"}, "alice", "", "may not act"},
		{"admin", cluster.Identity{User: "root"}, "alice", "", "may not act"},
		{"anonymous", cluster.Identity{}, "alice", "", "may not act"},
		{"operator", cluster.Identity{Operator: true}, "alice", "", "may not act"},
		{"acting already", cluster.Identity{User: "bob", Device: "node1"}, "alice", "", "may not act"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id, err := d.ActAs(tt.id, tt.user)
			checkIdentity(t, id, err, tt.want, tt.reason)
		})
	}
}

func TestAdmit(t *testing.T) {
	d := testDirectory()
	local := netip.MustParseAddr("127.0.0.1")
	for _, tt := range []struct {
		id     cluster.Identity
		remote netip.Addr
		reason string
	}{
		{cluster.Identity{Operator: true}, netip.Addr{}, ""},
		{cluster.Identity{User: "alice"}, netip.Addr{}, ""},
		{cluster.Identity{Device: "node1"}, local, ""},
		{cluster.Identity{User: "alice", Device: "node1"}, local, ""},
		{cluster.Identity{}, local, "neither"},
		{cluster.Identity{User: "gone"}, local, "no user"},
		{cluster.Identity{Device: "node1"}, netip.MustParseAddr("192.0.2.1"), "no trusted network"},
		{cluster.Identity{Device: "off"}, local, "disabled"},
	} {
		err := d.Admit(tt.id, tt.remote)
		if tt.reason == "" && err != nil || tt.reason != "" && (err == nil || !strings.Contains(err.Error(), tt.reason)) {
			t.Errorf("Admit(%s, %s) = %v, want %q", tt.id, tt.remote, err, tt.reason)
		}
	}
}

func TestMalformedRecords(t *testing.T) {
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	shortKey, err := ssh.NewPublicKey(&short.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	ok := newKey(t)
	d := NewDirectory(
		[]cluster.Device{
			{Name: "broken", PublicKey: "ssh-ed25519 nonsense", Enabled: true, Trusted: true, Node: true},
			{Name: "../x", PublicKey: line(newKey(t)), Enabled: true, Trusted: true},
			{Name: "broken", PublicKey: line(newKey(t)), Enabled: true, Trusted: true},
		},
		[]cluster.User{
			{Name: "alice", Keys: []string{
				"", "not a key", line(shortKey), `from="10.0.0.1" ` + line(newKey(t)),
				line(newKey(t)) + line(newKey(t)), line(ok),
			}},
			{Name: "alice", Admin: true},
			{Name: "@all", Admin: true},
		},
		[]cluster.Grant{
			{Subject: "alice", Pattern: "team*", Role: cluster.RoleAdmin},
			{Subject: "alice", Pattern: "", Role: cluster.RoleAdmin},
			{Subject: "alice", Pattern: "/team/*", Role: cluster.RoleAdmin},
			{Subject: "alice", Pattern: "*", Role: 9},
			{Subject: "alice", Pattern: "*", Role: cluster.RoleNone},
		}, nil)
	if got, want := len(d.Problems()), 3+5+2+5; got != want {
		t.Errorf("%d problems, want %d: %v", got, want, d.Problems())
	}
	id, err := d.Authenticate(ok, netip.Addr{})
	checkIdentity(t, id, err, "alice", "")
	if got := d.Role(cluster.Identity{User: "alice"}, &cluster.Repo{Name: "teams/x"}); got != cluster.RoleNone {
		t.Errorf("a malformed grant gave %s", got)
	}
	if d.Admin(cluster.Identity{User: "alice"}) || d.Admin(cluster.Identity{User: "@all"}) {
		t.Error("a malformed user is an admin")
	}
}

func TestAccessors(t *testing.T) {
	keys := []string{line(newKey(t))}
	d := testDirectory()
	if nodes := d.Nodes(); len(nodes) != 4 || nodes[0].Name != "node1" || nodes[3].Name != "unsure" {
		t.Errorf("nodes: %v", nodes)
	}
	d = NewDirectory(nil, []cluster.User{{Name: "alice", Keys: keys}}, nil, nil)
	keys[0] = "changed by the caller"
	u, ok := d.User("alice")
	if !ok || u.Keys[0] == keys[0] {
		t.Errorf("the snapshot changed with its source: %v", u)
	}
	u.Keys[0] = "changed by a reader"
	if again, _ := d.User("alice"); again.Keys[0] == u.Keys[0] {
		t.Error("a reader changed the snapshot")
	}
	if _, ok := d.Device("alice"); ok {
		t.Error("a user was found as a device")
	}
}

func TestSource(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.7": "192.0.2.7/32", "::ffff:192.0.2.7": "192.0.2.7/32", "2001:db8::1": "2001:db8::/64", "fe80::1%eth0": "fe80::/64",
	} {
		if got := Source(netip.MustParseAddr(in)).String(); got != want {
			t.Errorf("Source(%s) = %s, want %s", in, got, want)
		}
	}
	if Source(netip.Addr{}) != (netip.Prefix{}) {
		t.Error("no address is a network")
	}
}
