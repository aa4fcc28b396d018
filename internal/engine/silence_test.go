package engine

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/repository"
)

// deaf is peers of which one opens a stream, sends some of it and then no more.
type deaf struct {
	peersOf
	who  cluster.DeviceName
	send string
}

func (d deaf) Pack(ctx context.Context, from cluster.DeviceName, id cluster.RepoID, wants, haves []cluster.OID) (io.ReadCloser, error) {
	if from != d.who {
		return d.peersOf.Pack(ctx, from, id, wants, haves)
	}
	r, w := io.Pipe()
	context.AfterFunc(ctx, func() { w.CloseWithError(context.Cause(ctx)) })
	go io.WriteString(w, d.send)
	return r, nil
}

func (d deaf) Refs(ctx context.Context, from cluster.DeviceName, id cluster.RepoID) (cluster.Position, *repository.RefTable, error) {
	if from != d.who {
		return d.peersOf.Refs(ctx, from, id)
	}
	<-ctx.Done()
	return cluster.Position{}, nil, context.Cause(ctx)
}

// A peer whose disk hangs holds up nobody for long where another has the objects.
func TestSilentPeer(t *testing.T) {
	for name, send := range map[string]string{"nothing": "", "a beginning": "PACK\x00\x00\x00\x02\x00\x00\x00\x03"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "a", "c", "b")
			a := w.another("a", Options{Silence: 3 * time.Second, HedgeAfter: 30 * time.Millisecond})
			base := w.commit()
			a.accept(set("refs/heads/main", "", base))
			w.nodes["b"].sync()
			w.nodes["c"].sync()
			a.Peers = deaf{peersOf{a}, "c", send}
			next := w.commit(base)
			w.nodes["c"].accept(set("refs/heads/other", "", next))
			w.nodes["b"].sync() // b has it, too
			var told []string
			at, err := a.Resolve(t.Context(), w.repo.Name, cluster.Current)
			if err == nil {
				_, err = a.Sync(t.Context(), at, func(line string) { told = append(told, line) })
			}
			if err != nil {
				t.Fatal(err)
			}
			if all := strings.Join(told, "\n"); !strings.Contains(all, `from "b"`) {
				t.Errorf("told %q", all)
			}
			w.same(map[string]string{"refs/heads/main": string(base), "refs/heads/other": string(next)})
		})
	}
}

// Before the first byte a peer has the longer, the more often that was too short: it
// may have to look through a large repository.
func TestSlowPeerIsGivenTime(t *testing.T) {
	w := newWorld(t, "a", "c")
	a := w.another("a", Options{Silence: 100 * time.Millisecond})
	base := w.commit()
	a.accept(set("refs/heads/main", "", base))
	w.nodes["c"].sync()
	late := &slowly{peersOf: peersOf{a}, by: time.Second} // three times the first limit
	a.Peers = late
	next := w.commit(base)
	w.nodes["c"].accept(set("refs/heads/main", base, next))
	tries := 0
	for end := time.Now().Add(time.Minute); ; { // a slow machine may need more of them
		tries++
		_, err := a.read(t.Context())
		if err == nil {
			break
		}
		if !strings.Contains(err.Error(), errSilent.Error()) || time.Now().After(end) {
			t.Fatalf("try %d: %v", tries, err)
		}
	}
	if tries < 2 {
		t.Error("it was not slow")
	}
}

// slowly is peers that take some time before they send a pack.
type slowly struct {
	peersOf
	by time.Duration
}

func (s *slowly) Pack(ctx context.Context, from cluster.DeviceName, id cluster.RepoID, wants, haves []cluster.OID) (io.ReadCloser, error) {
	pack, err := s.peersOf.Pack(ctx, from, id, wants, haves)
	if err != nil {
		return nil, err
	}
	r, w := io.Pipe()
	context.AfterFunc(ctx, func() { w.CloseWithError(context.Cause(ctx)) })
	time.AfterFunc(s.by, func() {
		io.Copy(w, pack)
		w.Close()
	})
	return r, nil
}

// A machine that has vanished without a word is not waited for where another has the
// objects, and the next time it is asked after the others.
func TestVanishedPeer(t *testing.T) {
	w := newWorld(t, "a", "c", "b")
	const silence = 10 * time.Second
	a := w.another("a", Options{Silence: silence, HedgeAfter: time.Second})
	base := w.commit()
	a.accept(set("refs/heads/main", "", base))
	w.nodes["b"].sync()
	w.nodes["c"].sync()
	a.Peers = deaf{peersOf{a}, "c", ""}
	for i := range 2 {
		next := w.commit(base)
		w.nodes["c"].accept(set("refs/heads/other"+string(rune('0'+i)), "", next))
		w.nodes["b"].sync() // b has it, too
		start := time.Now()
		at, err := a.Resolve(t.Context(), w.repo.Name, cluster.Current)
		if err == nil {
			_, err = a.Sync(t.Context(), at, nil)
		}
		if took := time.Since(start); err != nil || took > 3*silence {
			t.Errorf("read %d took %v, %v; c may be silent for %v before its first byte", i, took, err, 3*silence)
		}
		var order []cluster.DeviceName
		r := a.replica(w.repo.ID)
		if err := r.lock(t.Context()); err != nil {
			t.Fatal(err)
		}
		order = r.talking(a.Peers.Nearest())
		r.unlock()
		if order[0] != "b" {
			t.Errorf("after read %d they are asked in the order %v", i, order)
		}
	}
}
