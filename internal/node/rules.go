package node

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gitcluster/internal/access"
	"gitcluster/internal/cluster"
	"gitcluster/internal/journal"
	"gitcluster/internal/share"
)

// rules keeps the directory of the journal as an access snapshot.
type rules struct {
	journal *journal.Journal
	trusted []netip.Prefix
	log     *slog.Logger
	now     atomic.Pointer[access.Directory]
	reads   share.Call[*access.Directory]
	failed  atomic.Int64 // when a read for a stranger last failed, Unix nanoseconds

	self    cluster.DeviceName
	removed chan struct{} // closed when this node is no longer one of the cluster's
	gone    sync.Once
}

// Snapshot returns the rules as last heard of.
func (r *rules) Snapshot() *access.Directory { return r.now.Load() }

// Refresh reads the rules from the journal. Callers share reads, so that a
// stranger who tries many keys causes few.
func (r *rules) Refresh(ctx context.Context) (*access.Directory, error) {
	return r.reads.Do(ctx, func() (*access.Directory, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		d, err := r.journal.Directory(ctx)
		if err != nil {
			return nil, err
		}
		return r.set(d), nil
	})
}

// refreshForStranger is Refresh for somebody whose key is not known. Every agent
// offers some of those before the right one, so without an answer from the
// journal it must not take long, nor every time.
func (r *rules) refreshForStranger(ctx context.Context) (*access.Directory, error) {
	const patience, silence = time.Second, 5 * time.Second
	if time.Since(time.Unix(0, r.failed.Load())) < silence {
		return r.Snapshot(), nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	now, err := r.Refresh(ctx)
	if err != nil {
		r.failed.Store(time.Now().UnixNano())
		return r.Snapshot(), nil
	}
	return now, nil
}

// follow keeps the snapshot current until the context ends.
func (r *rules) follow(ctx context.Context) error {
	return r.journal.WatchDirectory(ctx, func(d journal.Directory) { r.set(d) })
}

func (r *rules) set(d journal.Directory) *access.Directory {
	now := access.NewDirectory(d.Devices, d.Users, d.Grants, r.trusted)
	for _, problem := range now.Problems() {
		r.log.Warn("directory record ignored", "error", problem)
	}
	r.now.Store(now)
	if _, ok := now.Device(r.self); !ok {
		r.gone.Do(func() { close(r.removed) })
	}
	return now
}
