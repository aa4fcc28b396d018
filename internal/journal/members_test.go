package journal

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// A ring is the servers of one cluster, each as its node runs it.
type ring struct {
	t   *testing.T
	dir string
	tls string

	quota int64
}

// A ringNode is one of them, with what its node has of the journal.
type ringNode struct {
	*Members
	client  *clientv3.Client
	peer    string
	addr    string
	stopped sync.Once
}

func newRing(t *testing.T) *ring {
	t.Helper()
	authority, err := NewAuthority("ring")
	if err != nil {
		t.Fatal(err)
	}
	r := &ring{t: t, dir: t.TempDir()}
	if r.tls, err = credentials(filepath.Join(r.dir, "tls"), authority); err != nil {
		t.Fatal(err)
	}
	return r
}

// tryStart starts a server at peer with the initial cluster that Admit gave, or
// the first one if that is "". Its client asks the seeds.
func (r *ring) tryStart(name, peer, initial string, seeds ...string) (*ringNode, error) {
	n := &ringNode{peer: peer, addr: freeAddr()}
	member, err := StartMember(r.t.Context(), MemberConfig{Name: name, Dir: filepath.Join(r.dir, name), TLS: r.tls, Peer: peer, Client: n.addr,
		Cluster: "ring", Initial: initial, Existing: initial != "", Servers: seeds, Quota: r.quota, Log: filepath.Join(r.dir, name+".log")})
	if err != nil {
		return nil, err
	}
	if len(seeds) == 0 {
		seeds = []string{n.addr}
	}
	if n.client, err = Dial(seeds, r.tls); err != nil {
		r.t.Fatal(err)
	}
	n.Members = NewMembers(n.client, member, r.tls, nil, slog.New(slog.DiscardHandler))
	r.t.Cleanup(n.stop)
	return n, nil
}

func (r *ring) start(name, peer, initial string, seeds ...string) *ringNode {
	r.t.Helper()
	n, err := r.tryStart(name, peer, initial, seeds...)
	if err != nil {
		r.t.Fatalf("starting %s: %v", name, err)
	}
	return n
}

func (n *ringNode) stop() {
	n.stopped.Do(func() {
		server := n.server()
		n.client.Close()
		n.Members.Close()
		if server == nil {
			return
		}
		// A leader that finds no successor goes on for a while; a process would be gone.
		select {
		case <-server.ended:
		case <-time.After(30 * time.Second):
		}
	})
}

// join admits a node through another and starts it. It is told of the servers that the
// other asks, which vote.
func (r *ring) join(name string, through *ringNode) *ringNode {
	r.t.Helper()
	peer := freeAddr()
	initial := r.admit(through, name, peer)
	var seeds []string
	for _, e := range through.client.Endpoints() {
		seeds = append(seeds, strings.TrimPrefix(e, "https://"))
	}
	return r.start(name, peer, initial, seeds...)
}

func (r *ring) admit(through *ringNode, name, peer string) string {
	r.t.Helper()
	// A server that has just started has no leader yet.
	var initial string
	waitFor(r.t, func() string {
		ctx, cancel := context.WithTimeout(r.t.Context(), 20*time.Second)
		defer cancel()
		var err error
		if initial, err = through.Admit(ctx, name, peer); err != nil {
			return fmt.Sprintf("admitting %s: %v", name, err)
		}
		return ""
	})
	if initial == "" {
		r.t.Fatalf("%s is told to run no server", name)
	}
	return initial
}

// states waits until the servers are these: "name:voter" or "name:learner".
func (r *ring) states(n *ringNode, want string) {
	r.t.Helper()
	waitFor(r.t, func() string {
		ctx, cancel := context.WithTimeout(r.t.Context(), 5*time.Second)
		defer cancel()
		list, err := n.List(ctx)
		if err != nil {
			return err.Error()
		}
		var got []string
		leaders := 0
		for _, m := range list {
			kind := "learner"
			if m.Voter {
				kind = "voter"
			}
			if m.Leader {
				leaders++
			}
			got = append(got, m.Name+":"+kind)
		}
		if len(list) > 0 && leaders != 1 {
			return fmt.Sprintf("there are %d leaders in %+v", leaders, list)
		}
		for _, w := range strings.Fields(want) {
			if !strings.Contains(" "+strings.Join(got, " ")+" ", " "+w+" ") {
				return fmt.Sprintf("the servers are %v, want %s", got, want)
			}
		}
		if len(got) != len(strings.Fields(want)) {
			return fmt.Sprintf("the servers are %v, want %s", got, want)
		}
		return ""
	})
}

// settle promotes until nothing is left to do.
func (r *ring) settle(n *ringNode) {
	r.t.Helper()
	waitFor(r.t, func() string {
		ctx, cancel := context.WithTimeout(r.t.Context(), 5*time.Second)
		defer cancel()
		if settled, err := n.Settle(ctx); err != nil || !settled {
			return fmt.Sprintf("settled: %v, %v", settled, err)
		}
		return ""
	})
}

// works fails unless a write and a linearizable read through the node's client succeed.
func (r *ring) works(n *ringNode) {
	r.t.Helper()
	waitFor(r.t, func() string {
		ctx, cancel := context.WithTimeout(r.t.Context(), 5*time.Second)
		defer cancel()
		want := NewID()
		if _, err := n.client.Put(ctx, "/gc/test", want); err != nil {
			return fmt.Sprintf("write: %v", err)
		}
		got, err := n.client.Get(ctx, "/gc/test")
		if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != want {
			return fmt.Sprintf("read: %v", err)
		}
		return ""
	})
}

// follow runs Follow until the test ends, and returns the endpoints it last
// told of.
func (r *ring) follow(n *ringNode) (voters func() []string) {
	ctx, cancel := context.WithCancel(context.Background())
	var mu sync.Mutex
	var last []string
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.Follow(ctx, func(endpoints []string) {
			mu.Lock()
			defer mu.Unlock()
			last = endpoints
		})
	}()
	r.t.Cleanup(func() { cancel(); <-done })
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return last
	}
}

func (r *ring) endpoints(n *ringNode, want ...string) {
	r.t.Helper()
	waitFor(r.t, func() string {
		got := strings.ReplaceAll(strings.Join(n.client.Endpoints(), " "), "https://", "")
		if got == strings.Join(want, " ") {
			return ""
		}
		return fmt.Sprintf("the client asks %s, want %v", got, want)
	})
}

// One voter for one or two nodes, three from three on, and clients beyond that.
func TestMembersGrow(t *testing.T) {
	r := newRing(t)
	one := r.start("one", freeAddr(), "")
	r.works(one)
	r.states(one, "one:voter")
	r.settle(one)
	two := r.join("two", one)
	r.states(one, "one:voter two:learner")
	r.settle(one)
	r.states(one, "one:voter two:learner") // two voters would stop when either dies
	seen := r.follow(two)
	r.endpoints(two, one.addr) // a learner answers no linearizable read
	r.works(two)
	if _, err := one.Admit(t.Context(), "two", two.peer); err == nil {
		t.Error("a node was admitted a second time")
	}
	if _, err := one.Admit(t.Context(), "two", freeAddr()); err == nil {
		t.Error("the name of a member was admitted a second time")
	}
	three := r.join("three", two)
	r.follow(three)
	r.states(two, "one:voter two:voter three:voter") // by Follow
	r.endpoints(two, two.addr)
	r.endpoints(three, three.addr)
	waitFor(t, func() string {
		if got := seen(); len(got) != 3 {
			return fmt.Sprintf("it was told of the voters %v", got)
		}
		return ""
	})
	if initial, err := two.Admit(t.Context(), "four", freeAddr()); err != nil || initial != "" {
		t.Errorf("the fourth is told %q, %v", initial, err)
	}
	r.states(two, "one:voter two:voter three:voter")
	// A client of its own, which knows only the seed.
	client, err := Dial([]string{one.addr}, r.tls)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	four := &ringNode{Members: NewMembers(client, nil, r.tls, nil, slog.New(slog.DiscardHandler)), client: client}
	told := r.follow(four)
	waitFor(t, func() string {
		if got := told(); len(got) != 3 {
			return fmt.Sprintf("the client was told of the voters %v", got)
		}
		return ""
	})
	// The seed dies: nobody minds.
	one.stop()
	r.works(two)
	r.works(three)
	r.works(four)
}

// A join that fails costs nothing: the journal goes on, the same node may try
// again, from another address too, and others may join meanwhile.
func TestAdmitOfANodeThatNeverStarts(t *testing.T) {
	t.Parallel()
	t.Run("second, again", func(t *testing.T) {
		r := newRing(t)
		one := r.start("one", freeAddr(), "")
		peer := freeAddr()
		r.admit(one, "two", peer)
		r.works(one)
		r.settle(one)
		initial := r.admit(one, "two", peer)
		r.start("two", peer, initial, one.addr)
		r.states(one, "one:voter two:learner")
	})
	t.Run("third, again", func(t *testing.T) {
		r := newRing(t)
		one := r.start("one", freeAddr(), "")
		r.join("two", one)
		r.states(one, "one:voter two:learner")
		peer := freeAddr()
		r.admit(one, "three", peer)
		r.works(one)
		initial := r.admit(one, "three", peer)
		r.start("three", peer, initial, one.addr)
		r.settle(one)
		r.states(one, "one:voter two:voter three:voter")
	})
	t.Run("from another address", func(t *testing.T) {
		r := newRing(t)
		one := r.start("one", freeAddr(), "")
		r.admit(one, "two", freeAddr())
		r.join("two", one)
		r.works(one)
		r.join("three", one)
		r.settle(one)
		r.states(one, "one:voter two:voter three:voter")
	})
	t.Run("another comes first", func(t *testing.T) {
		r := newRing(t)
		one := r.start("one", freeAddr(), "")
		r.admit(one, "two", freeAddr())
		r.join("three", one)
		r.works(one)
	})
}

// A server whose admission has not been noted yet, because the node that admits it
// is just about to, is not taken for one that was given up.
func TestAdmitBesideAnAdmissionUnderWay(t *testing.T) {
	r := newRing(t)
	one := r.start("one", freeAddr(), "")
	r.works(one)
	peer := freeAddr()
	added, err := one.client.MemberAddAsLearner(t.Context(), []string{"https://" + peer}) // and no more yet
	if err != nil {
		t.Fatal(err)
	}
	r.join("three", one)
	initial := initialCluster(added.Members, func(m *etcdserverpb.Member) bool { return m.ID == added.Member.ID }, "two")
	if _, err := r.tryStart("two", peer, initial, one.addr); err != nil {
		t.Fatalf("the one that was admitted first: %v", err)
	}
	r.settle(one)
	r.states(one, "one:voter two:voter three:voter")
}

// One whose admission was never noted, because the node that admitted it died,
// loses its place like any other that does not start.
func TestAdmissionThatWasNeverNoted(t *testing.T) {
	r := newRing(t)
	one := r.start("one", freeAddr(), "")
	r.works(one)
	added, err := one.client.MemberAddAsLearner(t.Context(), []string{"https://" + freeAddr()})
	if err != nil {
		t.Fatal(err)
	}
	isThere := func() bool {
		list, err := one.client.MemberList(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(list.Members, func(m *etcdserverpb.Member) bool { return m.ID == added.Member.ID })
	}
	r.admit(one, "two", freeAddr())
	if !isThere() {
		t.Fatal("it lost its place at once")
	}
	one.startWithin = 0
	r.admit(one, "three", freeAddr())
	if isThere() {
		t.Error("it keeps its place for ever")
	}
}

// Of many who are admitted at once no more become servers than vote.
func TestAdmitAtTheSameTime(t *testing.T) {
	t.Parallel()
	r := newRing(t)
	one := r.start("one", freeAddr(), "")
	r.works(one)
	var wg sync.WaitGroup
	var servers atomic.Int32
	for i := range 5 {
		wg.Go(func() {
			initial, err := one.Admit(t.Context(), fmt.Sprintf("joiner%d", i), freeAddr())
			if err != nil {
				t.Error(err)
			}
			if initial != "" {
				servers.Add(1)
			}
		})
	}
	wg.Wait()
	list, err := one.client.MemberList(t.Context())
	if err != nil || len(list.Members) != voters || servers.Load() != voters-1 {
		t.Errorf("%d were told to be servers, and there are %d in all, %v", servers.Load(), len(list.Members), err)
	}
}
