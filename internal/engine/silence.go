package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
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
	return 3 * e.Silence << min(r.silences[device], 8)
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

// fetch gets a pack from a peer's replica and stores it. If it cannot, answered is
// whether the peer was there to be asked. The caller holds apply.
func (e *Engine) fetch(ctx context.Context, r *replica, repo *repository.Repository, device cluster.DeviceName, wants, haves []cluster.OID) (answered bool, err error) {
	asking, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	l := &listener{stop: stop, limit: e.first(r, device), later: e.Silence}
	l.timer = time.AfterFunc(l.limit, l.late)
	defer l.timer.Stop()
	pack, err := e.Peers.Pack(asking, device, repo.ID, wants, haves)
	l.timer.Stop()
	if answered = err == nil; answered {
		defer pack.Close()
		l.from = pack
		err = repo.ReadPack(ctx, l, wants, haves)
	}
	if ctx.Err() == nil && errors.Is(context.Cause(asking), errSilent) {
		r.noteSilence(device, true)
		return false, context.Cause(asking)
	}
	if err == nil {
		r.noteSilence(device, false)
	}
	return answered, err
}

// A listener reads from a peer, and gives up when that is silent for too long. Only
// the time that is spent waiting for it counts.
type listener struct {
	from  io.Reader
	timer *time.Timer
	limit time.Duration // for the next byte
	later time.Duration // for those after it
	stop  context.CancelCauseFunc
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

func (l *listener) late() { l.stop(fmt.Errorf("%w for %v", errSilent, l.limit)) }

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
