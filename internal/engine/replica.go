package engine

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/journal"
	"gitcluster/internal/repository"
)

// A replica is this node's copy of one repository.
type replica struct {
	id cluster.RepoID

	// apply is the one lock under which refs, the table and the applied
	// position change; commits and catch-ups take turns on it. It is a channel so that
	// who waits can leave.
	apply chan struct{}
	// state names what refs and HEAD show; 0 while somebody holds apply, who may be
	// changing them.
	state atomic.Uint64
	repo  *repository.Repository // guarded by apply
	table *repository.RefTable   // guarded by apply; nil: to be read from disk
	shown journal.Head           // guarded by apply; the head whose refs the table holds
	used  time.Time              // guarded by apply; when the table was last needed
	// silences is how often in a row a peer has sent nothing in time; guarded by apply
	silences map[cluster.DeviceName]int
	known    atomic.Pointer[repository.RefTable] // the table last found to be the journal's, for those who do not hold apply
	reading  atomic.Bool                         // somebody reads the refs for it

	keep       sync.Mutex // held while objects are removed; never taken before apply
	pledged    []*pledge  // what must stay; guarded by keep
	untold     time.Time  // until when there is more than could be kept; guarded by keep
	generation uint64     // how often objects were removed since the node's start; guarded by keep

	pledgedValues int                       // in all of pledged; guarded by keep
	whole         map[cluster.OID]time.Time // what was found complete, and until when it is pledged; guarded by keep
	coming        []*coming                 // copies that are being taken; guarded by keep
	offered       map[cluster.OID]time.Time // what must stay for packs that are on their way, and until when; guarded by keep

	mu        sync.Mutex
	doubt     *string      // why the disk is not to be trusted, or ""; nil: not looked up yet
	head      journal.Head // the newest head this node has heard of
	noted     time.Time    // when it has
	since     time.Time    // when the journal was first seen put back: heads asked for before are of what it was
	applied   cluster.Position
	appliedAt time.Time // when applied became known: the journal had it by then
	putBack   string    // why the journal must have been put back to an earlier state since; ""
	loaded    bool      // applied and the disk were compared with the journal
	fenced    error     // why nothing may be read or written here
	flight    *flight
	queue     []*pending // pushes that wait for their turn
	following bool       // a background task brings it to the head

	upkeepAfter time.Time // when housekeeping may try again
}

func (r *replica) lock(ctx context.Context) error {
	select {
	case r.apply <- struct{}{}:
		r.locked()
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// locked has everybody know that apply is held now.
func (r *replica) locked() { r.state.Store(0) }

// unlock lets go of apply. Whether anything was changed under it does not matter: to
// count each time is cheaper than to miss one change.
func (r *replica) unlock() {
	r.state.Store(states.Add(1))
	<-r.apply
}

// states has no name of a state come up twice in a node's life, even of a repository
// that is deleted and comes again.
var states atomic.Uint64

// showsNow is shows with the name of what refs and HEAD show at this moment, for who was
// told that the replica serves.
func (r *replica) showsNow() (cluster.Position, uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fenced != nil || !r.loaded || r.putBack != "" {
		return r.applied, 0
	}
	return r.applied, r.state.Load()
}

func (r *replica) position() cluster.Position {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.applied
}

// shows reports whether the replica is known to show everything up to p.
func (r *replica) shows(p cluster.Position) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.loaded && r.putBack == "" && r.applied.Reached(p)
}

// disbelieve has the disk be compared with the journal before it is used again.
func (r *replica) disbelieve() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.loaded = false
}

func (r *replica) isLoaded() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.loaded
}

func (r *replica) fence() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.fenced
}

// noteHead remembers the newest head heard of. A journal that was asked after it had
// what this replica shows, and has it no more, was put back to an earlier state, by
// somebody who restored a backup of it: then its word counts and not this disk's.
func (r *replica) noteHead(h journal.Head) journal.Head {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !h.Asked.IsZero() && h.Asked.Before(r.since):
	case r.loaded && h.Asked.After(r.appliedAt) && h.Epoch == r.applied.Epoch && !h.Reached(r.applied):
		r.putBack = fmt.Sprintf("it shows version %d, and the journal, which had that, ends at %d", r.applied.Version, h.Version)
		if h.Version == r.applied.Version {
			r.putBack = fmt.Sprintf("the version %d that it shows is another in the journal now", h.Version)
		}
		r.head, r.noted, r.since = h, time.Now(), h.Asked
	case h.Epoch > r.head.Epoch, h.Epoch == r.head.Epoch && h.Version >= r.head.Version:
		r.head, r.noted = h, time.Now()
	}
	return r.head
}

// replaceHead is noteHead for a head that was asked for and counts whatever was heard
// of before.
func (r *replica) replaceHead(h journal.Head) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.head.Epoch != h.Epoch || r.head.Version <= h.Version || r.noted.Before(h.Asked) {
		if r.head.Epoch == h.Epoch && r.head.Version > h.Version {
			r.since = h.Asked
		}
		r.head, r.noted = h, time.Now()
	}
}

// setApplied notes what the replica shows, by the journal's word.
func (r *replica) setApplied(p cluster.Position) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.applied, r.appliedAt, r.loaded = p, time.Now(), true
}

func (r *replica) hasBeenPutBack() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.putBack
}

// A flight is one catch-up that any number of readers wait for.
type flight struct {
	done  chan struct{}
	err   error
	since time.Time

	mu        sync.Mutex
	last      string
	listeners map[chan string]bool
}

// tell gives a line to everyone who waits. It never waits for them: it is called
// under the apply lock, and a client that does not read must hold up nobody.
func (f *flight) tell(line string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last = line
	for l := range f.listeners {
		select {
		case <-l: // a line nobody has taken is out of date
		default:
		}
		l <- line // there is room: only this function, under f.mu, fills it
	}
}

// listen returns a channel that holds the newest line not yet taken.
func (f *flight) listen() (lines <-chan string, deaf func()) {
	l := make(chan string, 1)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.listeners == nil {
		f.listeners = map[chan string]bool{}
	}
	f.listeners[l] = true
	if f.last != "" {
		l <- f.last
	}
	return l, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.listeners, l)
	}
}
