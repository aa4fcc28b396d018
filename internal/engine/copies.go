package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/gitexec"
	"gitcluster/internal/journal"
	"gitcluster/internal/peer"
	"gitcluster/internal/repository"
	"gitcluster/internal/spool"
)

// Copies are taken before a push becomes real: other nodes store its objects,
// find them complete and sync them to disk. They are unreachable there and harm
// nobody until the journal names them.
//
// No lock is held meanwhile. Two nodes that each held their apply lock while they
// waited for the other would wait for ever, and a slow peer would hold up the
// readers of this node.

const (
	// copyLinger is how long a copy goes on for which its push no longer waits:
	// the peer will need the objects anyway.
	copyLinger = 30 * time.Second
	// copyRetry is how soon a peer that failed is asked again.
	copyRetry = 250 * time.Millisecond
	// copySpare is how long a push waits before it asks one more peer.
	copySpare = time.Second
	// copyMemory is how much of a pack is kept in memory for those who take it.
	copyMemory = 4 << 20
)

// spread has other nodes take copies of a push until as many hold its objects as
// it needs, this node counted. If they do not come to be that many, a push that
// may do with fewer goes on with those there are; for another that is an error.
func (e *Engine) spread(ctx context.Context, r *replica, p *pending) error {
	peers := e.Peers.Nearest()
	s := &spreading{
		engine: e, incoming: p.Incoming, peers: peers,
		taken:   []journal.Counted{{Device: e.Device, Incarnation: e.Incarnation}},
		failed:  map[cluster.DeviceName]error{},
		packs:   map[string]*spool.Spool{},
		changed: make(chan struct{}, 1),
	}
	p.copies = s
	p.need = p.Copies
	if p.need == 0 {
		p.need = (len(peers)+1)/2 + 1 // a majority of the nodes
	}
	s.offer = peer.Offer{Repo: r.id, Wants: newValues(p.Updates)}
	if len(s.offer.Wants) == 0 {
		p.need = 1 // there is nothing to copy
	}
	if p.need <= 1 {
		return nil
	}
	for _, u := range p.Updates {
		s.offer.Refs = append(s.offer.Refs, u.Ref)
	}
	if p.need > len(peers)+1 && !p.Degraded {
		return s.tooFew(p.need)
	}
	background, stop := context.WithCancel(e.ctx)
	s.stop = stop
	defer s.noMore()
	s.ask(background, min(len(peers), p.need)) // one to spare
	bound := e.CopyBound
	if p.Degraded {
		bound /= 3
	}
	start := time.Now()
	limit := time.NewTimer(bound)
	defer limit.Stop()
	spare := time.NewTicker(copySpare)
	defer spare.Stop()
	for {
		have, tried := s.state()
		switch {
		case s.isBroken():
			return ErrIncomplete
		case have >= p.need:
			return nil
		case p.Degraded && tried:
			return s.makeDo(p) // all were asked, and for now none does more
		}
		select {
		case <-s.changed:
		case <-spare.C:
			s.ask(background, 1)
		case <-limit.C:
			if left := bound + s.patience() - time.Since(start); left > 0 {
				limit.Reset(left)
				continue
			}
			if p.Degraded {
				return s.makeDo(p)
			}
			return s.tooFew(p.need)
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-e.ctx.Done():
			return context.Cause(e.ctx)
		}
	}
}

// A spreading is the copies of one push.
type spreading struct {
	engine   *Engine
	offer    peer.Offer
	incoming *repository.Incoming // what is not the repository's yet; may be nil
	peers    []cluster.DeviceName // nearest first

	mu      sync.Mutex
	asked   int // peers[:asked] have been asked
	taken   []journal.Counted
	failed  map[cluster.DeviceName]error // why those do not hold a copy that have failed last
	packs   map[string]*spool.Spool      // by what the taker had
	whole   bool                         // a pack was made that shows that the history is complete
	broken  bool                         // or none could be made of it
	longest time.Duration                // what patience said last
	over    bool                         // the push no longer waits
	running int                          // conversations that go on
	stop    context.CancelFunc           // called when it is over and none runs
	linger  *time.Timer                  // stops those that go on for too long
	changed chan struct{}                // has a value after each change
}

// ask has n more peers take a copy.
func (s *spreading) ask(ctx context.Context, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ; n > 0 && s.asked < len(s.peers) && !s.over; n-- {
		if s.engine.begin() != nil {
			return
		}
		peer := s.peers[s.asked]
		s.asked++
		s.running++
		go func() {
			defer s.engine.work.Done()
			s.copyTo(ctx, peer)
			s.mu.Lock()
			defer s.mu.Unlock()
			s.running--
			s.release()
		}()
	}
}

// copyTo has one peer take a copy, again until it succeeds or the push no longer
// waits.
func (s *spreading) copyTo(ctx context.Context, peer cluster.DeviceName) {
	for first := true; ; first = false {
		incarnation, err := s.attempt(ctx, peer)
		s.mu.Lock()
		if err == nil {
			delete(s.failed, peer)
			s.taken = append(s.taken, journal.Counted{Device: peer, Incarnation: incarnation})
		} else {
			s.failed[peer] = err
		}
		s.mu.Unlock()
		s.wake()
		if err == nil || s.isOver() {
			return
		}
		if first {
			s.engine.Log.Warn("a peer takes no copy", "repo", s.offer.Repo, "peer", peer, "error", err)
			s.ask(ctx, 1)
		}
		t := time.NewTimer(copyRetry)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
		if s.isOver() || ctx.Err() != nil {
			return
		}
	}
}

func (s *spreading) attempt(ctx context.Context, peer cluster.DeviceName) (incarnation string, err error) {
	taker, err := s.engine.Peers.Taker(ctx, peer)
	if err != nil {
		return "", err
	}
	defer taker.Close()
	haves, err := taker.Known(ctx, s.offer)
	if err != nil {
		return "", err
	}
	pack, err := s.pack(ctx, haves)
	if err != nil {
		return "", err
	}
	defer pack.Close()
	return taker.Take(ctx, s.offer, haves, pack)
}

// pack returns the pack for a peer that has haves. Peers that have the same share
// one.
func (s *spreading) pack(ctx context.Context, haves []cluster.OID) (io.ReadCloser, error) {
	slices.Sort(haves)
	var b strings.Builder
	for _, oid := range haves {
		b.WriteString(string(oid))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.packs[b.String()]; p != nil {
		if r := p.Open(); r != nil {
			return r, nil
		}
	}
	p := spool.New(s.engine.Store.Temp(), copyMemory)
	s.packs[b.String()] = p
	r := p.Open()
	s.engine.work.Go(func() { p.End(s.writePack(ctx, haves, p)) })
	return r, nil
}

func (s *spreading) writePack(ctx context.Context, haves []cluster.OID, w io.Writer) error {
	if s.incoming == nil {
		return s.engine.WritePack(ctx, s.offer.Repo, s.offer.Wants, haves, w)
	}
	known, doubtful := s.engine.sortHaves(s.offer.Repo, haves)
	present, err := s.incoming.Present(ctx, doubtful)
	if err != nil {
		return err
	}
	err = s.incoming.WritePack(ctx, s.offer.Wants, append(known, present...), w)
	s.mu.Lock()
	defer s.mu.Unlock()
	if exit := (*gitexec.ExitError)(nil); errors.As(err, &exit) && exit.Status > 0 && ctx.Err() == nil {
		s.broken = true
		s.wake()
	} else if err == nil && len(present) == 0 {
		s.whole = true
	}
	return err
}

// walked reports whether a pack was made that shows that the history of what is offered
// is complete here.
func (s *spreading) walked() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.whole
}

func (s *spreading) isBroken() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.broken
}

// wake has whoever waits look again.
func (s *spreading) wake() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// patience is how much longer a push may wait for its copies than a small one:
// the time it took to make the largest pack, so far, and that in which a peer must
// have taken it. One that fails again and again does not add to it.
func (s *spreading) patience() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.packs {
		size, took := p.Progress()
		s.longest = max(s.longest, took+time.Duration(size)*(time.Second/time.Duration(s.engine.CopyPace)))
	}
	return s.longest
}

// noMore says that the push no longer waits for further copies.
func (s *spreading) noMore() {
	linger := copyLinger + s.patience()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	s.linger = time.AfterFunc(linger, s.stop)
	s.release()
}

func (s *spreading) isOver() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over
}

// release lets go of the context when nothing needs it. The caller holds mu.
func (s *spreading) release() {
	if s.over && s.running == 0 {
		s.linger.Stop()
		s.stop()
	}
}

// state returns how many nodes hold the objects, and whether every other one was
// asked and has failed.
func (s *spreading) state() (have int, tried bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.taken), len(s.failed)+len(s.taken)-1 == len(s.peers)
}

// counted returns the nodes that hold the objects by now.
func (s *spreading) counted() []journal.Counted {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.taken)
}

// makeDo has a push that may do with fewer copies go on with those there are.
func (s *spreading) makeDo(p *pending) error {
	have, _ := s.state()
	if p.Tell != nil {
		p.Tell(fmt.Sprintf("Warning: %v. This push is accepted all the same, as the repository's settings say.", s.tooFew(p.need)))
	}
	p.need = have
	return nil
}

func (s *spreading) tooFew(need int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if need > len(s.peers)+1 {
		return fmt.Errorf("%w: %d are needed, and the cluster has %d nodes", ErrTooFewCopies, need, len(s.peers)+1)
	}
	var why []string
	for _, peer := range s.peers {
		switch err := s.failed[peer]; {
		case err != nil:
			why = append(why, fmt.Sprintf("%s: %v", peer, err))
		case !slices.ContainsFunc(s.taken, func(c journal.Counted) bool { return c.Device == peer }):
			why = append(why, fmt.Sprintf("%s: not in time", peer))
		}
	}
	return fmt.Errorf("%w: %d of %d (%s)", ErrTooFewCopies, len(s.taken), need, strings.Join(why, "; "))
}

// common returns those of a that b has, too.
func common(a, b []journal.Counted) []journal.Counted {
	return slices.DeleteFunc(slices.Clone(a), func(c journal.Counted) bool { return !slices.Contains(b, c) })
}
