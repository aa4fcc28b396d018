package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// seated gives a node of the ring a seat; before is how many of the others that
// have no server come first.
func (r *ring) seated(n *ringNode, name string, before int) *Seat {
	n.seat = &Seat{
		Server: MemberConfig{Name: name, Dir: filepath.Join(r.dir, name), TLS: r.tls, Peer: n.peer, Client: n.addr, Cluster: "ring",
			Log: filepath.Join(r.dir, name+".log")},
		Remember: func(string) error { return nil },
		Turn:     func(context.Context, map[string]bool) (int, bool) { return before, true },
	}
	n.turn = 200 * time.Millisecond
	return n.seat
}

// spare is a node without a server.
func (r *ring) spare(name string, before int, through *ringNode) *ringNode {
	r.t.Helper()
	client, err := Dial([]string{through.addr}, r.tls)
	if err != nil {
		r.t.Fatal(err)
	}
	n := &ringNode{client: client, peer: freeAddr(), addr: freeAddr(), Members: NewMembers(client, nil, r.tls, nil, slog.New(slog.DiscardHandler))}
	r.seated(n, name, before)
	r.t.Cleanup(n.stop)
	return n
}

// three is a ring of three voters.
func three(t *testing.T) (r *ring, one, two, third *ringNode) {
	t.Helper()
	r = newRing(t)
	one = r.start("one", freeAddr(), "")
	two, third = r.join("two", one), r.join("three", one)
	r.settle(one)
	r.states(one, "one:voter two:voter three:voter")
	return r, one, two, third
}

// remove takes a server out of the journal, as soon as etcd finds that safe.
func (r *ring) remove(through *ringNode, name string) {
	r.t.Helper()
	waitFor(r.t, func() string {
		ctx, cancel := context.WithTimeout(r.t.Context(), 20*time.Second)
		defer cancel()
		if err := through.Remove(ctx, name); err != nil {
			return fmt.Sprintf("removing %s: %v", name, err)
		}
		return ""
	})
}

// A node without a server starts one when one of three is taken out, and only one
// of them does.
func TestSpareTakesAFreeSeat(t *testing.T) {
	t.Parallel()
	r, one, two, third := three(t)
	four, five := r.spare("four", 0, one), r.spare("five", 300, one) // a minute later
	var mu sync.Mutex
	var remembered []string
	four.seat.Remember = func(initial string) error {
		mu.Lock()
		defer mu.Unlock()
		remembered = append(remembered, initial)
		return nil
	}
	for _, n := range []*ringNode{one, third, four, five} {
		r.follow(n)
	}
	r.works(four)
	r.states(one, "one:voter two:voter three:voter")
	two.stop()
	r.remove(one, "two")
	r.states(one, "one:voter three:voter four:voter")
	r.endpoints(four, four.addr)
	mu.Lock()
	if len(remembered) != 1 || remembered[0] == "" {
		t.Errorf("it remembers %q", remembered)
	}
	mu.Unlock()
	if five.server() != nil {
		t.Error("a fourth started a server")
	}
	one.stop()
	r.works(four)
	r.works(five)
}

// Those that must not have a server start none.
func TestSpareThatMustNot(t *testing.T) {
	r := newRing(t)
	one := r.start("one", freeAddr(), "")
	r.works(one)
	asked := make(chan struct{}, 100)
	four, five := r.spare("four", 0, one), r.spare("five", 1, one)
	four.seat.Turn = func(_ context.Context, seated map[string]bool) (int, bool) {
		if !seated["one"] {
			t.Errorf("it is told that these have servers: %v", seated)
		}
		asked <- struct{}{}
		return 0, false
	}
	r.follow(four)
	r.follow(five)
	r.states(one, "one:voter five:learner")
	<-asked
	if four.server() != nil {
		t.Error("it started a server")
	}
}

// A server that was taken out of the journal leaves nothing behind, and its node takes
// a seat like any other.
func TestServerThatWasTakenOut(t *testing.T) {
	t.Parallel()
	t.Run("running", func(t *testing.T) {
		r, one, two, third := three(t)
		r.seated(two, "two", 0)
		cleared := make(chan bool, 10)
		two.seat.Remember = func(initial string) error { cleared <- initial == ""; return nil }
		for _, n := range []*ringNode{one, two, third} {
			r.follow(n)
		}
		was := two.server().id()
		r.remove(one, "two")
		r.states(third, "one:voter two:voter three:voter")
		waitFor(t, func() string {
			if server := two.server(); server == nil || server.id() == was {
				return "it is the same server, or has none"
			}
			return ""
		})
		if !<-cleared || <-cleared {
			t.Error("it did not note that it has no server, and then one")
		}
		r.works(two)
	})
	t.Run("while it was down", func(t *testing.T) {
		r, one, two, third := three(t)
		two.stop()
		r.remove(one, "two")
		r.states(one, "one:voter three:voter")
		again, err := r.tryStart("two", two.peer, "", one.addr, two.addr, third.addr)
		if err != nil {
			t.Fatal(err)
		}
		r.seated(again, "two", 0)
		r.follow(one)
		r.follow(again)
		r.states(third, "one:voter two:voter three:voter")
		r.works(again)
	})
}

// A server that was admitted and finds that it has lost its place says so, and its
// node can go on without.
func TestFirstStartTooLate(t *testing.T) {
	r := newRing(t)
	one := r.start("one", freeAddr(), "")
	peer := freeAddr()
	initial := r.admit(one, "two", peer)
	r.admit(one, "two", freeAddr())
	_, err := StartMember(t.Context(), MemberConfig{Name: "two", Dir: filepath.Join(r.dir, "two"), TLS: r.tls, Peer: peer, Client: freeAddr(),
		Cluster: "ring", Initial: initial, Existing: true, Servers: []string{one.addr}, Log: filepath.Join(r.dir, "two.log")})
	if !errors.Is(err, ErrNotMember) {
		t.Errorf("it started: %v", err)
	}
	if _, err := os.Stat(filepath.Join(r.dir, "two", "member")); err == nil {
		t.Error("it left files of a member")
	}
}

// A node whose server does not start does not keep the seat from others.
func TestSpareThatCannot(t *testing.T) {
	t.Parallel()
	r := newRing(t)
	one := r.start("one", freeAddr(), "")
	r.works(one)
	r.join("two", one)
	four, five := r.spare("four", 0, one), r.spare("five", 30, one)
	taken, err := net.Listen("tcp", four.addr) // by something else
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, n := range []*ringNode{one, four, five} {
		r.follow(n)
	}
	r.states(one, "one:voter two:voter five:voter")
}
