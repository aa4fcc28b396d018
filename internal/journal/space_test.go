package journal

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// upkeep is that of a node of the ring, for files of any size.
func (n *ringNode) upkeep() *Upkeep {
	u := NewUpkeep(New(n.client), n.Members, slog.New(slog.DiscardHandler))
	u.smallest = 0
	return u
}

// fill writes to keys until the journal takes no more, or rounds times.
func (n *ringNode) fill(t *testing.T, rounds int, key func(int) string) error {
	t.Helper()
	value := strings.Repeat("x", 1<<20)
	for i := range rounds {
		if _, err := n.client.Put(t.Context(), key(i), value); err != nil {
			return err
		}
	}
	return nil
}

func (n *ringNode) file(t *testing.T, name string) database {
	t.Helper()
	all, _, err := n.upkeep().databases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range all {
		if d.member.Name == name {
			return d
		}
	}
	t.Fatalf("no file of %s in %+v", name, all)
	return database{}
}

// leader returns the node that leads, and the others.
func leader(t *testing.T, nodes ...*ringNode) (first *ringNode, others []*ringNode) {
	t.Helper()
	waitFor(t, func() string {
		first, others = nil, nil
		for _, n := range nodes {
			if n.leads() {
				first = n
			} else {
				others = append(others, n)
			}
		}
		if first == nil {
			return "nobody leads"
		}
		return ""
	})
	return first, others
}

func (n *ringNode) name() string { return n.server().etcd.Config().Name }

// garbage leaves the files of these with more free pages than used ones.
func (n *ringNode) garbage(t *testing.T, names ...string) {
	t.Helper()
	if err := n.fill(t, 8, func(int) string { return "/gc/test/garbage" }); err != nil {
		t.Fatal(err)
	}
	r, err := n.client.Delete(t.Context(), "/gc/test/garbage")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.client.Compact(t.Context(), r.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() string {
		// Each compacts in its own time, and counts with its next write.
		if _, err := n.client.Put(t.Context(), "/gc/test/tick", "x"); err != nil {
			return err.Error()
		}
		if got := n.large(t, names); len(got) != len(names) {
			return fmt.Sprintf("these have free pages: %v", got)
		}
		return ""
	})
}

// large returns those whose files have more free pages than used ones.
func (n *ringNode) large(t *testing.T, names []string) (large []string) {
	t.Helper()
	for _, name := range names {
		if d := n.file(t, name); d.used <= d.size/2 {
			large = append(large, name)
		}
	}
	return large
}

// The files give back what is free, one in each round, the leader's last and not
// while another server is down. Who does not lead leaves them alone.
func TestDefragmentation(t *testing.T) {
	t.Parallel()
	r, one, two, third := three(t)
	first, others := leader(t, one, two, third)
	names := []string{"one", "two", "three"}
	first.garbage(t, names...)
	large := func() []string { return first.large(t, names) }
	round := func(n *ringNode) {
		t.Helper()
		if err := n.upkeep().once(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	round(others[0])
	if got := large(); len(got) != 3 {
		t.Errorf("a follower's node did it: %v are left", got)
	}
	round(first)
	if got := large(); len(got) != 2 {
		t.Errorf("after one round %v are left", got)
	}
	round(first)
	if got := large(); len(got) != 1 || got[0] != first.name() {
		t.Errorf("after two rounds %v are left, and %s leads", got, first.name())
	}
	down := others[1]
	lost := down.name()
	down.stop()
	names = []string{first.name(), others[0].name()}
	round(first)
	if got := large(); len(got) != 1 {
		t.Errorf("the leader's file was rewritten while %s is down", lost)
	}
	r.works(first)
	// A small one is not worth it.
	u := first.upkeep()
	u.smallest = 1 << 40
	if err := u.once(t.Context()); err != nil {
		t.Error(err)
	}
}

// A lone leader's file is rewritten, too.
func TestDefragmentationOfOne(t *testing.T) {
	r := newRing(t)
	one := r.start("one", freeAddr(), "")
	r.works(one)
	one.garbage(t, "one")
	before := one.file(t, "one")
	u := one.upkeep()
	if err := u.once(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := one.file(t, "one"); after.size >= before.size/2 {
		t.Errorf("the file had %d bytes, %d of them used, and has %d", before.size, before.used, after.size)
	}
	r.works(one)
}

// A journal that is full takes writes again when there is room, and not before; and
// says which server it is.
func TestFullJournal(t *testing.T) {
	t.Parallel()
	r := newRing(t)
	r.quota = 24 << 20
	one := r.start("one", freeAddr(), "")
	r.works(one)
	refusedBy := func(err error) {
		t.Helper()
		if !errors.Is(err, rpctypes.ErrNoSpace) {
			t.Fatalf("the journal is not full: %v", err)
		}
		waitFor(t, func() string {
			if states, err := one.List(t.Context()); err != nil || len(states) != 1 || !states[0].Full {
				return fmt.Sprintf("the servers are %+v, %v", states, err)
			}
			return ""
		})
		if err := New(one.client).put(t.Context(), "/gc/test", "x"); err == nil || !strings.Contains(err.Error(), "full") {
			t.Errorf("a write is refused with %v", err)
		}
	}
	// Full of what nobody needs any more.
	refusedBy(one.fill(t, 100, func(int) string { return "/gc/test/again" }))
	if err := one.upkeep().once(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.works(one)
	waitFor(t, func() string {
		if states, err := one.List(t.Context()); err != nil || len(states) != 1 || states[0].Full {
			return fmt.Sprintf("the servers are %+v, %v", states, err)
		}
		return ""
	})
	// Full of what is needed; a file that has pages to give back is not full yet.
	n := 0
	var err error
	for range 20 {
		refusedBy(one.fill(t, 100, func(int) string { n++; return fmt.Sprintf("/gc/test/%d", n) }))
		if err = one.upkeep().once(t.Context()); err != nil {
			break
		}
	}
	if err == nil || !strings.Contains(err.Error(), "full") {
		t.Fatalf("with no room to make: %v", err)
	}
	refusedBy(one.fill(t, 1, func(int) string { return "/gc/test/again" }))
	if _, err := one.client.Delete(t.Context(), "/gc/test/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	if err := one.upkeep().once(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.works(one)
}

// The alarm of a server that was taken out since ends, too.
func TestAlarmOfAServerThatIsGone(t *testing.T) {
	r := newRing(t)
	one := r.start("one", freeAddr(), "")
	r.works(one)
	raise := &etcdserverpb.AlarmRequest{Action: etcdserverpb.AlarmRequest_ACTIVATE, MemberID: 12345, Alarm: etcdserverpb.AlarmType_NOSPACE}
	if _, err := etcdserverpb.NewMaintenanceClient(one.client.ActiveConnection()).Alarm(t.Context(), raise); err != nil {
		t.Fatal(err)
	}
	if err := one.fill(t, 1, func(int) string { return "/gc/test" }); !errors.Is(err, rpctypes.ErrNoSpace) {
		t.Fatalf("the journal is not full: %v", err)
	}
	if err := one.upkeep().once(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.works(one)
}
