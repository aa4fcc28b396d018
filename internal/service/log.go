package service

import (
	"context"
	"time"

	"gitcluster/internal/cluster"
)

// A PushRecord is one push as the journal has it.
type PushRecord struct {
	Version cluster.Version      `json:"version"`
	Time    time.Time            `json:"time"`
	Actor   string               `json:"actor"`
	Push    string               `json:"push"`
	Node    cluster.DeviceName   `json:"node"`
	Copies  []cluster.DeviceName `json:"copies"`
	Waited  int64                `json:"waited_ms"`
	Refs    int                  `json:"refs"`              // how many it changed
	Updates []cluster.RefUpdate  `json:"updates,omitempty"` // the first of them; none of a very large push
	Head    cluster.RefName      `json:"head,omitempty"`    // HEAD's new target, if it changed
}

// logUpdates is how many updates of a push the log shows.
const logUpdates = 20

// PushLog returns the pushes of a repository, the newest first: those of at most limit
// versions before the given one, or of the newest if that is 0. next, if not 0, is
// where the following page starts.
func (s *Service) PushLog(ctx context.Context, id cluster.Identity, name cluster.RepoName, before cluster.Version, limit int) (log []PushRecord, next cluster.Version, err error) {
	at, err := s.Resolve(ctx, id, name, cluster.RoleRead)
	if err != nil {
		return nil, 0, err
	}
	entries, err := s.Journal.Newest(ctx, at.Repo.ID, before, limit)
	if err != nil {
		return nil, 0, err
	}
	for _, e := range entries {
		updates := e.Updates
		for i, p := range e.Pushes {
			own := updates[:min(p.Refs, len(updates))]
			updates = updates[len(own):]
			r := PushRecord{Version: e.Version, Time: e.Time, Actor: p.Actor, Push: p.ID, Node: e.Device, Copies: e.Copies,
				Waited: p.Waited, Refs: p.Refs, Updates: own[:min(len(own), logUpdates)]}
			if i == 0 {
				r.Head = e.Head
			}
			log = append(log, r)
		}
	}
	if n := len(entries); n == limit && n > 0 && entries[n-1].Version > max(1, at.Head.Oldest) {
		next = entries[n-1].Version
	}
	return log, next, nil
}
