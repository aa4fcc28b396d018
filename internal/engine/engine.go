// Package engine makes a replica follow the journal, and a push part of it.
//
// Entry points: [Engine.Resolve] and [Engine.Sync] before every read;
// [Engine.Commit] for every push; [Engine.Run] keeps all replicas up to date in
// the background; [Engine.WritePack] serves another node's catch-up.
//
// It promises:
//   - after Resolve and Sync, the replica shows every push that was acknowledged
//     before Resolve was called, unless the caller asked for stale data;
//   - a push for which Commit returns "accepted" is in the journal and synced to
//     this node's disk; one that it refuses is not in the journal and never will
//     be; an error of Commit itself means that nobody knows yet, and the
//     client must not be told either;
//   - a crash at any point leaves a replica that the next start repairs by
//     replaying the journal, with nobody's help;
//   - its own work for a push or a catch-up grows with the refs and objects that
//     changed, not with those there are.
package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/journal"
	"gitcluster/internal/peer"
	"gitcluster/internal/repository"
	"gitcluster/internal/share"
)

// Peers reaches the other nodes.
type Peers interface {
	// Pack streams a thin pack, from the device's replica, of what wants reach
	// and haves do not. The stream's end without an error means a whole pack.
	Pack(ctx context.Context, from cluster.DeviceName, id cluster.RepoID, wants, haves []cluster.OID) (io.ReadCloser, error)
	// Nearest lists the other enabled nodes, nearest first.
	Nearest() []cluster.DeviceName
	// Refs returns the refs that the device's replica shows, and at which
	// position.
	Refs(ctx context.Context, from cluster.DeviceName, id cluster.RepoID) (cluster.Position, *repository.RefTable, error)
	// Commit has another node commit a push of which it holds the objects. An
	// error is [peer.ErrNotTried] or [peer.ErrUnclear].
	Commit(ctx context.Context, on cluster.DeviceName, c peer.Commit) ([]cluster.RefResult, error)
	// Taker opens a conversation with a node that is to take a copy. The caller
	// must close it.
	Taker(ctx context.Context, on cluster.DeviceName) (peer.TakerCloser, error)
}

// A Step is a point of a commit, for tests that stop the engine there.
type Step string

// The steps of a commit, in their order.
const (
	StepPrepared Step = "prepared" // refs are locked; the journal knows nothing yet
	StepAppended Step = "appended" // the push is real; refs still show the old values
	StepWritten  Step = "written"  // refs show the new values; applied does not
	StepApplied  Step = "applied"
)

// StepDiscarding is no step of a commit: housekeeping is about to look what it may
// remove.
const StepDiscarding Step = "discarding"

// Options are what an engine works with.
type Options struct {
	Device      cluster.DeviceName
	Incarnation string
	Journal     *journal.Journal
	Store       *repository.Store
	Peers       Peers
	Log         *slog.Logger
	// Drained reports whether this node is to take no new writes; nil: never.
	Drained func() bool
	// Bound is how long a read waits for the journal; 0 means five seconds.
	Bound time.Duration
	// CopyBound is how long a small push waits for its copies before it is refused;
	// 0 means ten seconds. One that may do with fewer waits a third of it.
	CopyBound time.Duration
	// CopyPace is how many bytes a second a peer must at least be able to take, check
	// and sync: a large push waits longer by what its size comes to. 0 means 4 MiB.
	CopyPace int64
	// Silence is how long a peer from which objects are fetched may send nothing; 0
	// means twenty seconds. Before its first byte it has three times as long, and
	// longer when that was too short.
	Silence time.Duration
	// HedgeAfter is how long such a peer may take before its first byte until the next is
	// asked beside it, and how long a copy that is on its way is waited for; 0 means three
	// seconds. It is no longer than Silence.
	HedgeAfter time.Duration
	// RefsPatience is how long a peer that resynchronizes waits for this node's refs; 0
	// means ten seconds.
	RefsPatience time.Duration
	// Keep is how many entries of a repository the journal keeps; 0 means ten
	// thousand.
	Keep int
	// Housekeeping is the time between two looks at all replicas; 0 means ten
	// minutes.
	Housekeeping time.Duration
	// VerifyPause is the least time between two replicas that are compared with the
	// journal in the background, VerifyRound the time in which all are, if there are not
	// too many; 0 means ten seconds and a day.
	VerifyPause, VerifyRound time.Duration
	// Unreached is how long objects are kept that no ref reaches; 0 means two
	// weeks.
	Unreached time.Duration
	// At, if set, is called at each step of a commit.
	At func(Step)
}

// An Engine is one node's engine. Its methods are safe for concurrent use.
type Engine struct {
	Options
	ctx  context.Context // ends with the node; what must not stop halfway runs under it
	stop context.CancelCauseFunc
	work sync.WaitGroup

	upkeep chan struct{} // held by who looks after a replica

	committing atomic.Int64 // pushes that may yet become part of the journal

	mu       sync.Mutex
	replicas map[cluster.RepoID]*replica
	names    map[cluster.RepoName]cluster.Repo // as last heard of, for stale reads only
	nameOf   map[cluster.RepoID]cluster.RepoName
	lookups  map[cluster.RepoName]*lookup
	reports  map[cluster.RepoID]bool // replicas whose report is due
	closed   bool
}

// New returns an engine. The caller must Close it.
func New(o Options) *Engine {
	if o.Bound == 0 {
		o.Bound = 5 * time.Second
	}
	if o.CopyBound == 0 {
		o.CopyBound = 10 * time.Second
	}
	if o.CopyPace == 0 {
		o.CopyPace = 4 << 20
	}
	if o.Silence == 0 {
		o.Silence = 20 * time.Second
	}
	if o.HedgeAfter == 0 {
		o.HedgeAfter = hedgeAfter
	}
	if o.RefsPatience == 0 {
		o.RefsPatience = 10 * time.Second
	}
	if o.Keep == 0 {
		o.Keep = 10_000
	}
	if o.Housekeeping == 0 {
		o.Housekeeping = upkeepSlot
	}
	if o.VerifyPause == 0 {
		o.VerifyPause = verifyPause
	}
	if o.VerifyRound == 0 {
		o.VerifyRound = verifyRound
	}
	if o.Unreached == 0 {
		o.Unreached = 14 * 24 * time.Hour
	}
	if o.Drained == nil {
		o.Drained = func() bool { return false }
	}
	if o.At == nil {
		o.At = func(Step) {}
	}
	ctx, stop := context.WithCancelCause(context.Background())
	return &Engine{Options: o, ctx: ctx, stop: stop, upkeep: make(chan struct{}, 1),
		replicas: map[cluster.RepoID]*replica{},
		names:    map[cluster.RepoName]cluster.Repo{},
		nameOf:   map[cluster.RepoID]cluster.RepoName{},
		lookups:  map[cluster.RepoName]*lookup{},
		reports:  map[cluster.RepoID]bool{},
	}
}

// Close lets running commits finish for as long as ctx allows, then ends
// everything. A commit whose outcome is still unknown then is left to the next
// start, and its client gets no answer.
func (e *Engine) Close(ctx context.Context) {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	done := make(chan struct{})
	go func() { e.work.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
	}
	e.stop(cluster.ErrStopping)
	<-done
	e.Store.Close()
}

// begin registers work that Close waits for.
func (e *Engine) begin() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return cluster.ErrStopping
	}
	e.work.Add(1)
	return nil
}

// withNode ends a context with the node, too, for work that Close waits for.
func (e *Engine) withNode(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(e.ctx, func() { cancel(context.Cause(e.ctx)) })
	return ctx, func() { stop(); cancel(nil) }
}

// Resolved is a repository as the journal described it at one moment.
type Resolved struct {
	Repo cluster.Repo
	Head journal.Head
	// Stale is set when the journal was not asked: Head is then unknown.
	Stale bool
}

// Resolve finds a repository and, unless stale data will do, reads its head from
// the journal, linearizably. Concurrent callers share reads, but never one that
// was issued before they came. If the journal does not answer in time the error is
// [cluster.ErrUnavailable].
func (e *Engine) Resolve(ctx context.Context, name cluster.RepoName, f cluster.Freshness) (Resolved, error) {
	if f == cluster.StaleOK {
		e.mu.Lock()
		repo, ok := e.names[name]
		e.mu.Unlock()
		if ok {
			return Resolved{Repo: repo, Stale: true}, nil
		}
	}
	l := e.lookup(name)
	defer e.release(name, l)
	// Whoever waits for a read that another's comes before waits no longer than
	// the bound in all.
	wait, cancel := context.WithTimeoutCause(ctx, e.Bound, fmt.Errorf("%w: %w", cluster.ErrUnavailable, errNoAnswer))
	defer cancel()
	got, err := l.Do(wait, func() (Resolved, error) {
		ctx, cancel := context.WithTimeoutCause(e.ctx, e.Bound, errNoAnswer)
		defer cancel()
		repo, head, err := e.Journal.Lookup(ctx, name)
		return Resolved{Repo: repo, Head: head}, err
	})
	if err != nil {
		if errors.Is(err, cluster.ErrUnavailable) {
			err = cluster.WithHint(fmt.Errorf("the journal did not confirm within %v that %q is current: %w", e.Bound, name, err),
				"a majority of the voting nodes must be up; `git cluster status` on a node names them; to read what this node has: git -c cluster.staleOk=true …")
		}
		return Resolved{}, err
	}
	return got, nil
}

var errNoAnswer = errors.New("no answer in time")

// A View is a replica that may be read.
type View struct {
	Repo    cluster.Repo
	Dir     string // the bare repository
	Applied cluster.Position
	Waited  time.Duration // how long the replica had to be brought up to date
	Stale   bool          // it was not compared with the journal
	// Generation is for [Push.Generation], if what the view shows leads to a push.
	Generation uint64
	// State names what refs and HEAD show, in one life of the node; 0: they may be
	// changing. [Engine.State] tells whether they still show it.
	State uint64
}

// Sync makes the local replica show at least the head that was resolved, and
// waits for it. tell, if not nil, gets lines for the person who waits.
func (e *Engine) Sync(ctx context.Context, at Resolved, tell func(string)) (View, error) {
	start := time.Now()
	r := e.replica(at.Repo.ID)
	if at.Stale {
		return e.staleView(at.Repo, r)
	}
	for again := false; ; again = true {
		if err := e.reach(ctx, r, at.Head, tell); err != nil {
			return View{}, err
		}
		if again || e.Store.Has(r.id) {
			break
		}
		// Somebody has removed it, or its disk is gone, since it was brought here.
		r.disbelieve()
	}
	applied, state := r.showsNow()
	return View{Repo: at.Repo, Dir: e.Store.Path(at.Repo.ID), Applied: applied, Waited: time.Since(start), Generation: r.currentGeneration(), State: state}, nil
}

// State names what the refs and the HEAD of the local replica show. As long as it is the
// same, and not 0, nobody has begun to change them.
func (e *Engine) State(id cluster.RepoID) uint64 {
	e.mu.Lock()
	r := e.replicas[id]
	e.mu.Unlock()
	if r == nil {
		return 0
	}
	return r.state.Load()
}

// staleView is the replica as it is. One that never completed a
// synchronization is refused: an empty answer is not a stale one.
func (e *Engine) staleView(repo cluster.Repo, r *replica) (View, error) {
	if why, err := e.doubted(r); err != nil || why != "" {
		return View{}, fmt.Errorf("the replica of %q on %q is not to be trusted yet (%s): %w", repo.Name, e.Device, why, errors.Join(err, cluster.ErrUnavailable))
	}
	local, err := e.Store.Open(repo.ID)
	if err != nil {
		return View{}, err
	}
	applied, err := local.Applied()
	if err != nil {
		return View{}, err
	}
	if applied == (cluster.Position{}) {
		return View{}, fmt.Errorf("the replica of %q on %q has not completed its first synchronization: %w", repo.Name, e.Device, cluster.ErrUnavailable)
	}
	if err := r.fence(); err != nil {
		return View{}, err
	}
	return View{Repo: repo, Dir: local.Dir, Applied: applied, Stale: true}, nil
}

// WritePack writes a thin pack for another node. It does not synchronize first,
// so that two nodes never wait for each other; the receiver checks that what it
// gets is complete.
func (e *Engine) WritePack(ctx context.Context, id cluster.RepoID, wants, haves []cluster.OID, w io.Writer) error {
	repo, err := e.Store.Open(id)
	if err != nil {
		return err
	}
	return repo.WritePack(ctx, wants, haves, e.shownBy(id), w)
}

// Create makes a new repository in the journal and on this node.
func (e *Engine) Create(ctx context.Context, repo cluster.Repo) (Resolved, error) {
	head, err := e.Journal.CreateRepo(ctx, repo)
	if err != nil {
		return Resolved{}, err
	}
	return Resolved{Repo: repo, Head: head}, nil
}

// Applied returns the position that the local replica is known to show, and
// why it is fenced, if it is.
func (e *Engine) Applied(id cluster.RepoID) (cluster.Position, error) {
	e.mu.Lock()
	r := e.replicas[id]
	e.mu.Unlock()
	if r != nil && r.isLoaded() {
		return r.position(), r.fence()
	}
	local, err := e.Store.Open(id)
	if err != nil {
		return cluster.Position{}, err
	}
	return local.Applied()
}

// Shows is Applied for somebody who wants to rely on this disk: a replica that is
// fenced, or not to be trusted before it was compared with the journal, shows nothing.
func (e *Engine) Shows(id cluster.RepoID) (cluster.Position, error) {
	r := e.replica(id)
	if why, err := e.doubted(r); err != nil || why != "" {
		return cluster.Position{}, fmt.Errorf("%s: %w", why, errors.Join(err, cluster.ErrUnavailable))
	}
	if why := r.hasBeenPutBack(); why != "" {
		return cluster.Position{}, fmt.Errorf("%s: %w", why, cluster.ErrUnavailable)
	}
	return e.Applied(id)
}

func (e *Engine) replica(id cluster.RepoID) *replica {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.replicas[id]
	if r == nil {
		r = &replica{id: id, apply: make(chan struct{}, 1)}
		r.state.Store(states.Add(1))
		e.replicas[id] = r
	}
	return r
}

// A lookup is the read of one name's head that concurrent callers share.
type lookup struct {
	share.Call[Resolved]
	users int // guarded by Engine.mu
}

func (e *Engine) lookup(name cluster.RepoName) *lookup {
	e.mu.Lock()
	defer e.mu.Unlock()
	l := e.lookups[name]
	if l == nil {
		l = &lookup{}
		e.lookups[name] = l
	}
	l.users++
	return l
}

func (e *Engine) release(name cluster.RepoName, l *lookup) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(e.lookups, name)
	}
}
