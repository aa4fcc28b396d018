package engine

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/repository"
)

// A peer may answer and then send nothing, for instance because its disk hangs.
// Whoever waits for it holds the apply lock, so others must get their turn in bounded
// time: the next peer, and behind the lock this node's readers.

// errSilent: a peer has sent nothing for too long.
var errSilent = errors.New("it sends nothing")

// first is how long a peer may take before its first byte. It may have to look
// through a large repository first, so each time that this was too short it is longer.
func (e *Engine) first(r *replica, device cluster.DeviceName) time.Duration {
	return 3 * e.Silence << min(r.silences[device], 3)
}

// talking puts peers that have been silent behind those that have not.
func (r *replica) talking(devices []cluster.DeviceName) []cluster.DeviceName {
	slices.SortStableFunc(devices, func(a, b cluster.DeviceName) int { return cmp.Compare(r.silences[a], r.silences[b]) })
	return devices
}

func (r *replica) noteSilence(device cluster.DeviceName, silent bool) {
	if r.silences == nil {
		r.silences = map[cluster.DeviceName]int{}
	}
	if silent {
		r.silences[device]++
	} else {
		delete(r.silences, device)
	}
}

// A question is one peer asked for a pack.
type question struct {
	device cluster.DeviceName
	asked  time.Time
	stop   context.CancelCauseFunc
	left   chan struct{} // closed when nobody waits for the answer
	pack   io.ReadCloser // nil: it could not be asked
	from   *bufio.Reader // reads pack
	in     *listener
	err    error // what came in place of the first byte
}

// ask asks a peer for a pack and waits until that begins, or until limit. Then the
// question, which has its answer, is sent to answers; if nobody waits for that any more
// it is ended.
func (e *Engine) ask(ctx context.Context, id cluster.RepoID, device cluster.DeviceName, limit time.Duration, wants, haves []cluster.OID, answers chan<- *question) *question {
	ctx, stop := context.WithCancelCause(ctx)
	q := &question{device: device, asked: time.Now(), stop: stop, left: make(chan struct{})}
	q.in = &listener{stop: stop, limit: limit, later: e.Silence}
	q.in.timer = time.AfterFunc(limit, q.in.late)
	// Whoever holds apply is part of the engine's work, so this is counted in time.
	e.work.Go(func() {
		q.pack, q.err = e.Peers.Pack(ctx, device, id, wants, haves)
		if q.err == nil {
			q.in.from = q.pack
			q.from = bufio.NewReader(q.in)
			_, q.err = q.from.Peek(1)
		}
		q.in.timer.Stop()
		select {
		case answers <- q:
		case <-q.left:
			q.end()
		}
	})
	return q
}

// end gives the peer up.
func (q *question) end() {
	q.stop(context.Canceled)
	if q.pack != nil {
		q.pack.Close()
	}
}

// hedgeAfter is what HedgeAfter is by default: that a machine has vanished without a word
// would show much later.
const hedgeAfter = 3 * time.Second

// errOutpaced: another peer began to answer first.
var errOutpaced = errors.New("another node was faster")

// fetch gets a pack from one of the peers, which are asked in their order, and stores
// it. Whichever begins to answer first is read from; if it fails the others have their
// turn. Otherwise the failures are those of all, and answering are the peers that did
// answer. The caller holds apply.
func (e *Engine) fetch(ctx context.Context, r *replica, repo *repository.Repository, devices []cluster.DeviceName, wants, haves []cluster.OID, asking func(cluster.DeviceName)) (answering []cluster.DeviceName, failures []error, ok bool) {
	answers := make(chan *question)
	var open []*question // those of which the answer is waited for
	left := slices.Clone(devices)
	next := func() {
		if len(left) > 0 {
			asking(left[0])
			open = append(open, e.ask(ctx, r.id, left[0], e.first(r, left[0]), wants, haves, answers))
			left = left[1:]
		}
	}
	// leave gives up those that were outpaced. They may be asked again.
	leave := func() {
		for _, q := range open {
			close(q.left)
			q.stop(errOutpaced)
			if time.Since(q.asked) >= e.hedge() {
				r.noteSilence(q.device, true)
			}
			left = append(left, q.device)
		}
		open = nil
	}
	defer leave()
	next()
	for len(open) > 0 {
		hedge := time.NewTimer(e.hedge())
		var q *question
		select {
		case q = <-answers:
			hedge.Stop()
		case <-hedge.C:
			if len(open) < 2 { // to look through a large repository is work for each of them
				next()
			}
			continue
		}
		open = slices.DeleteFunc(open, func(o *question) bool { return o == q })
		err := q.err
		if err == nil {
			leave()
			err = repo.ReadPack(ctx, q.from, wants, haves)
		}
		silent, began := q.in.silent(), q.pack != nil
		q.end()
		switch {
		case err == nil:
			r.noteSilence(q.device, false)
			return nil, nil, true
		case ctx.Err() != nil:
			return nil, nil, false
		case silent != nil:
			r.noteSilence(q.device, true)
			err = silent
		case began:
			answering = append(answering, q.device)
		}
		failures = append(failures, fmt.Errorf("%s: %v", q.device, err)) // what a peer is not found for is not this repository
		next()
	}
	return answering, failures, false
}

func (e *Engine) hedge() time.Duration { return min(e.HedgeAfter, e.Silence) }

// A listener reads from a peer, and gives up when that is silent for too long. Only
// the time that is spent waiting for it counts.
type listener struct {
	from  io.Reader
	timer *time.Timer
	limit time.Duration // for the next byte
	later time.Duration // for those after it
	stop  context.CancelCauseFunc
	gave  atomic.Pointer[error] // why it gave up
}

func (l *listener) Read(p []byte) (int, error) {
	l.timer.Reset(l.limit)
	n, err := l.from.Read(p)
	l.timer.Stop()
	if n > 0 {
		l.limit = l.later
	}
	return n, err
}

func (l *listener) late() {
	err := fmt.Errorf("%w for %v", errSilent, l.limit)
	l.gave.CompareAndSwap(nil, &err)
	l.stop(err)
}

// silent is why it gave up, or nil.
func (l *listener) silent() error {
	if err := l.gave.Load(); err != nil {
		return *err
	}
	return nil
}

// peerRefs is what a peer's replica shows.
func (e *Engine) peerRefs(ctx context.Context, r *replica, device cluster.DeviceName) (cluster.Position, *repository.RefTable, error) {
	limit := e.first(r, device)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%w for %v", errSilent, limit))
	defer cancel()
	at, table, err := e.Peers.Refs(ctx, device, r.id)
	if errors.Is(context.Cause(ctx), errSilent) {
		r.noteSilence(device, true)
	}
	return at, table, err
}
