package service

import (
	"net/netip"
	"testing"

	"gitcluster/internal/cluster"
)

// TestHolder: a stranger has one share, however many addresses of a network it controls.
func TestHolder(t *testing.T) {
	holder := func(id cluster.Identity, remote string) string { return Holder(id, netip.MustParseAddrPort(remote)) }
	var nobody cluster.Identity
	if a, b := holder(nobody, "[2001:db8::1]:5000"), holder(nobody, "[2001:db8::ffff:2]:6000"); a != b {
		t.Errorf("one stranger counts as %q and as %q", a, b)
	}
	if a, b := holder(nobody, "[2001:db8::1]:5000"), holder(nobody, "[2001:db8:0:1::1]:5000"); a == b {
		t.Errorf("two networks count as %q", a)
	}
	if a, b := holder(cluster.Identity{User: "alice"}, "192.0.2.1:1"), holder(cluster.Identity{User: "alice"}, "192.0.2.2:1"); a != b || a != "alice" {
		t.Errorf("alice counts as %q and as %q", a, b)
	}
}
