package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// wipe removes the folder of a server that has stopped, as if its disk were another.
func (r *ring) wipe(name string) {
	r.t.Helper()
	if err := os.RemoveAll(filepath.Join(r.dir, name)); err != nil {
		r.t.Fatal(err)
	}
}

// refuses fails unless the server does not start, whether the node knows that it has
// taken part or must learn so from the others.
func (r *ring) refuses(c MemberConfig) {
	r.t.Helper()
	if m, err := StartMember(r.t.Context(), c); !errors.Is(err, ErrLost) {
		if err == nil {
			m.Close()
		}
		r.t.Errorf("%s: %v", c.Name, err)
	}
	kept := c.marker() + "-kept"
	if err := os.Rename(c.marker(), kept); err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), 2*time.Second)
	defer cancel()
	if m, err := StartMember(ctx, c); err == nil {
		m.Close()
		r.t.Errorf("%s starts where nothing says that it has taken part", c.Name)
	}
	if err := os.Rename(kept, c.marker()); err != nil {
		r.t.Fatal(err)
	}
}

// without is the node of a server whose data is gone.
func (r *ring) without(name string, was *ringNode, seeds ...string) *ringNode {
	r.t.Helper()
	client, err := Dial(seeds, r.tls)
	if err != nil {
		r.t.Fatal(err)
	}
	n := &ringNode{client: client, peer: was.peer, addr: was.addr, Members: NewMembers(client, nil, r.tls, nil, slog.New(slog.DiscardHandler))}
	r.seated(n, name, 0)
	r.t.Cleanup(n.stop)
	return n
}

// A voter whose data is gone does not help others to a majority that lacks what it
// has confirmed. It comes back as a server that is new to them.
func TestVoterWithoutItsData(t *testing.T) {
	t.Parallel()
	r := newRing(t)
	one := r.start("one", freeAddr(), "")
	peers := map[string]string{"two": freeAddr(), "three": freeAddr()}
	initialTwo := r.admit(one, "two", peers["two"])
	two := r.start("two", peers["two"], initialTwo, one.addr)
	initialThree := r.admit(one, "three", peers["three"])
	three := r.start("three", peers["three"], initialThree, one.addr)
	r.settle(one)
	r.states(one, "one:voter two:voter three:voter")
	r.works(one)
	was := three.server().id()
	two.stop()
	waitFor(t, func() string {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if _, err := one.client.Put(ctx, "/gc/acknowledged", "yes"); err != nil {
			return err.Error()
		}
		return ""
	})
	acknowledged := func(n *ringNode) string {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		got, err := n.client.Get(ctx, "/gc/acknowledged")
		switch {
		case err != nil:
			return err.Error()
		case len(got.Kvs) == 0:
			t.Fatal("what was acknowledged is gone from the journal")
		}
		return ""
	}
	one.stop()
	three.stop()
	r.wipe("three")
	two = r.start("two", peers["two"], initialTwo)
	c := MemberConfig{Name: "three", Dir: filepath.Join(r.dir, "three"), TLS: r.tls, Peer: three.peer, Client: three.addr, Cluster: "ring",
		Initial: initialThree, Existing: true, Servers: []string{two.addr}, Log: filepath.Join(r.dir, "three.log")}
	r.refuses(c)
	if t.Failed() {
		// It has started meanwhile, and may have voted.
		if _, err := StartMember(t.Context(), c); err == nil {
			waitFor(t, func() string { return acknowledged(two) })
		}
		return
	}
	three = r.without("three", three, two.addr)
	r.follow(two)
	r.follow(three)
	short, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if state, err := three.List(short); err == nil {
		t.Errorf("there is a majority without the one that is away: %+v", state)
	}

	one = r.start("one", one.peer, "")
	r.follow(one)
	r.states(one, "one:voter two:voter three:voter")
	waitFor(t, func() string {
		own := three.server()
		if own == nil || own.id() == was {
			return "three has not begun anew"
		}
		if id, err := c.marked(); err != nil || id != own.id() {
			return fmt.Sprintf("it is %x, and the file says %x, %v", own.id(), id, err)
		}
		return ""
	})
	r.endpoints(three, three.addr)
	waitFor(t, func() string { return acknowledged(three) })
	r.works(three)
}

// So does the one that made the cluster, which must not make another.
func TestFounderWithoutItsData(t *testing.T) {
	t.Parallel()
	r, one, two, third := three(t)
	r.works(two)
	one.stop()
	r.wipe("one")
	c := MemberConfig{Name: "one", Dir: filepath.Join(r.dir, "one"), TLS: r.tls, Peer: one.peer, Client: one.addr, Cluster: "ring",
		Existing: true, Log: filepath.Join(r.dir, "one.log")}
	r.refuses(c)
	c.Existing = false
	if _, err := StartMember(t.Context(), c); !errors.Is(err, ErrLost) {
		t.Errorf("it makes a cluster again: %v", err)
	}
	one = r.without("one", one, two.addr)
	for _, n := range []*ringNode{one, two, third} {
		r.follow(n)
	}
	r.states(two, "one:voter two:voter three:voter")
	r.endpoints(one, one.addr)
	r.works(one)
}

// A learner counts for nothing, and still has confirmed what it lacks now.
func TestLearnerWithoutItsData(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(r *ring, c MemberConfig) error{
		"all":     func(r *ring, c MemberConfig) error { return os.RemoveAll(c.Dir) },
		"its log": func(r *ring, c MemberConfig) error { return os.RemoveAll(filepath.Join(c.Dir, "member", "wal")) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRing(t)
			one := r.start("one", freeAddr(), "")
			peer := freeAddr()
			initial := r.admit(one, "two", peer)
			two := r.start("two", peer, initial, one.addr)
			r.states(one, "one:voter two:learner")
			two.stop()
			c := MemberConfig{Name: "two", Dir: filepath.Join(r.dir, "two"), TLS: r.tls, Peer: two.peer, Client: two.addr, Cluster: "ring",
				Initial: initial, Existing: true, Servers: []string{one.addr}, Log: filepath.Join(r.dir, "two.log")}
			if err := spoil(r, c); err != nil {
				t.Fatal(err)
			}
			r.refuses(c)
			two = r.without("two", two, one.addr)
			r.follow(one)
			r.follow(two)
			waitFor(t, func() string {
				if two.server() == nil {
					return "two has no server"
				}
				return ""
			})
			r.states(one, "one:voter two:learner")
			r.works(two)
		})
	}
}

// A node that dies between writing down that its server takes part and its start
// begins anew, too; and one of an earlier release, which wrote nothing down, does so at
// its next start.
func TestMarker(t *testing.T) {
	r := newRing(t)
	one := r.start("one", freeAddr(), "")
	marked := func(name string, n *ringNode) {
		t.Helper()
		c := MemberConfig{Dir: filepath.Join(r.dir, name)}
		if id, err := c.marked(); err != nil || id != n.server().id() {
			t.Errorf("the file of %s names %x, not %x: %v", name, id, n.server().id(), err)
		}
	}
	marked("one", one)
	one.stop()
	if err := os.Remove(filepath.Join(r.dir, "one-member")); err != nil {
		t.Fatal(err)
	}
	one = r.start("one", one.peer, "")
	marked("one", one)

	r.works(one)
	peer := freeAddr()
	initial := r.admit(one, "two", peer)
	list, err := one.client.MemberList(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := MemberConfig{Name: "two", Dir: filepath.Join(r.dir, "two"), TLS: r.tls, Peer: peer, Client: freeAddr(), Cluster: "ring",
		Initial: initial, Existing: true, Servers: []string{one.addr}, Log: filepath.Join(r.dir, "two.log")}
	for _, m := range list.Members {
		if m.Name == "" {
			if err := c.mark(m.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := StartMember(t.Context(), c); !errors.Is(err, ErrLost) {
		t.Errorf("it starts: %v", err)
	}
	two := r.without("two", &ringNode{peer: peer, addr: c.Client}, one.addr)
	r.follow(one)
	r.follow(two)
	r.states(one, "one:voter two:learner")
	r.works(two)
	marked("two", two)
}
