package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"strings"
	"sync"
	"testing"

	"gitcluster/internal/cluster"
)

// A watched is what a watcher of heads believes.
type watched struct {
	mu    sync.Mutex
	heads map[cluster.RepoID]cluster.Version
	ended chan error
}

func watchHeads(t *testing.T, j *Journal) *watched {
	t.Helper()
	s := &watched{heads: map[cluster.RepoID]cluster.Version{}, ended: make(chan error, 1)}
	cause := errors.New("the test is over")
	ctx, cancel := context.WithCancelCause(context.Background())
	go func() {
		s.ended <- j.WatchHeads(ctx, func(id cluster.RepoID, h Head) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.heads[id] = h.Version
		}, func(id cluster.RepoID) {
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.heads, id)
		})
	}()
	t.Cleanup(func() {
		cancel(cause)
		if err := <-s.ended; !errors.Is(err, cause) {
			t.Errorf("the watch ended with %v, want the cause", err)
		}
	})
	return s
}

func (s *watched) wait(t *testing.T, want map[cluster.RepoID]cluster.Version) {
	t.Helper()
	waitFor(t, func() string {
		s.mu.Lock()
		defer s.mu.Unlock()
		if maps.Equal(s.heads, want) {
			return ""
		}
		return fmt.Sprintf("it shows %v, want %v", s.heads, want)
	})
}

func TestWatchHeads(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		one, head := w.create("one")
		head = w.append(one.ID, head, entry(head, 1))
		s := watchHeads(t, w.Journal)
		s.wait(t, map[cluster.RepoID]cluster.Version{one.ID: 1})
		two, headTwo := w.create("two")
		for i := range 5 {
			head = w.append(one.ID, head, entry(head, i))
		}
		s.wait(t, map[cluster.RepoID]cluster.Version{one.ID: 6, two.ID: 0})
		w.append(two.ID, headTwo, entry(headTwo, 1))
		if err := w.DeleteRepo(t.Context(), one); err != nil {
			t.Fatal(err)
		}
		s.wait(t, map[cluster.RepoID]cluster.Version{two.ID: 1})
	})
}

// The watcher loses its connection; meanwhile heads change, a repository goes,
// and the revisions it would need are compacted away.
func TestWatchHeadsSurvivesACompaction(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		keep, head := w.create("keep")
		gone, _ := w.create("gone")
		p := newProxy(t, w.addr)
		client, err := Dial([]string{p.addr}, w.tls)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		s := watchHeads(t, New(client))
		s.wait(t, map[cluster.RepoID]cluster.Version{keep.ID: 0, gone.ID: 0})
		p.cut(true)
		for i := range 3 {
			head = w.append(keep.ID, head, entry(head, i))
		}
		if err := w.DeleteRepo(t.Context(), gone); err != nil {
			t.Fatal(err)
		}
		r, err := w.client.Put(t.Context(), "/gc/other", "x")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.client.Compact(t.Context(), r.Header.Revision); err != nil {
			t.Fatal(err)
		}
		p.cut(false)
		s.wait(t, map[cluster.RepoID]cluster.Version{keep.ID: 3})
		w.append(keep.ID, head, entry(head, 9))
		s.wait(t, map[cluster.RepoID]cluster.Version{keep.ID: 4})
	})
}

func TestWatchDirectory(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx, cancel := context.WithCancel(context.Background())
		seen := make(chan string)
		ended := make(chan error, 1)
		go func() {
			ended <- w.WatchDirectory(ctx, func(d Directory) {
				select {
				case seen <- fmt.Sprintf("%d devices, %d users, %d grants", len(d.Devices), len(d.Users), len(d.Grants)):
				case <-ctx.Done():
				}
			})
		}()
		last := ""
		wait := func(want string) {
			t.Helper()
			waitFor(t, func() string {
				select {
				case last = <-seen:
				default:
				}
				if last == want {
					return ""
				}
				return fmt.Sprintf("it shows %q, want %q", last, want)
			})
		}
		wait("0 devices, 0 users, 0 grants")
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(w.AddDevice(t.Context(), device("a"), "1"))
		wait("1 devices, 0 users, 0 grants")
		must(w.AddUser(t.Context(), cluster.User{Name: "alice"}))
		wait("1 devices, 1 users, 0 grants")
		must(w.SetGrant(t.Context(), cluster.Grant{Subject: "alice", Pattern: "*", Role: cluster.RoleRead}))
		wait("1 devices, 1 users, 1 grants")
		must(w.RemoveUser(t.Context(), "alice"))
		wait("1 devices, 0 users, 0 grants")
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the watch ended with %v", err)
		}
	})
}

// A proxy stands between a client and a server, and can be cut.
type proxy struct {
	addr  string
	to    string
	mu    sync.Mutex
	off   bool
	conns map[net.Conn]bool
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: l.Addr().String(), to: strings.TrimPrefix(to, "https://"), conns: map[net.Conn]bool{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { p.pass(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.cut(true)
		wg.Wait()
	})
	return p
}

func (p *proxy) pass(in net.Conn) {
	defer in.Close()
	out, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	defer out.Close()
	p.mu.Lock()
	off := p.off
	p.conns[in], p.conns[out] = true, true
	p.mu.Unlock()
	if off {
		return
	}
	go func() { io.Copy(out, in); out.Close() }()
	io.Copy(in, out)
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, in)
	delete(p.conns, out)
}

// cut ends all connections and lets none in, or lets them in again.
func (p *proxy) cut(off bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.off = off
	if off {
		for c := range p.conns {
			c.Close()
		}
	}
}
