package admin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"gitcluster/internal/cluster"
	"gitcluster/internal/engine"
)

// RepoVerify asks for every replica of a repository to be compared with the
// journal.
type RepoVerify struct {
	Name string `json:"name"`
	Deep bool   `json:"deep,omitempty"` // also walk from every ref, which may take long
}

// Verdicts are what was found, by node.
type Verdicts struct {
	Name     cluster.RepoName `json:"name"`
	Version  cluster.Version  `json:"version"` // the newest
	Verdicts []engine.Verdict `json:"verdicts"`
}

// RepoRepair has a repository's replicas follow the journal, whatever their disks
// show.
type RepoRepair struct {
	Name   string             `json:"name"`
	Device cluster.DeviceName `json:"device,omitempty"` // one node's; "" for all that are not what the journal says
}

// Repaired is what became of one replica.
type Repaired struct {
	Device cluster.DeviceName `json:"device"`
	Strays []engine.Stray     `json:"strays,omitempty"`
	Error  string             `json:"error,omitempty"`
}

// RepoLoss asks what would be lost if a repository were read as it is.
type RepoLoss struct {
	Name string `json:"name"`
}

// LossFound is the best answer, and who gave none.
type LossFound struct {
	engine.Loss
	Missing []Missing `json:"missing,omitempty"`
}

// Missing is a node that did not say what it has.
type Missing struct {
	Device cluster.DeviceName `json:"device"`
	Up     bool               `json:"up,omitempty"` // it answers, or did: what it has may be had
	Error  string             `json:"error"`
}

// Range names the versions that would be given up, as "42-43" or "43".
func (l LossFound) Range() string {
	if l.Survives+1 >= l.Head {
		return fmt.Sprint(l.Head)
	}
	return fmt.Sprintf("%d-%d", l.Survives+1, l.Head)
}

// Refused is why nothing may be given up now, or nil: a node that is up may have it all.
func (l LossFound) Refused() error {
	for _, m := range l.Missing {
		if m.Up {
			return cluster.WithHint(fmt.Errorf("%s is up and does not say what it has: %s", m.Device, m.Error),
				"it may have what would be given up: mend it first, with `git cluster repair` if its replica is fenced; or stop it if it is to count for nothing")
		}
	}
	return nil
}

// LossAccept gives up what an engine.Loss told of.
type LossAccept struct {
	Name string      `json:"name"`
	Loss engine.Loss `json:"loss"`
}

// LossAccepted is what became of it.
type LossAccepted struct {
	Device cluster.DeviceName `json:"device"`
	Bundle string             `json:"bundle,omitempty"` // a file on that node, if anything survives
}

// replicaAsk is what a node asks of another's replica.
type replicaAsk struct {
	Repo  cluster.RepoID `json:"repo"`
	Deep  bool           `json:"deep,omitempty"` // thoroughly, whatever is asked for
	Loss  engine.Loss    `json:"loss,omitzero"`
	Actor string         `json:"actor,omitempty"`
}

type replicaLoss struct {
	Nothing bool        `json:"nothing,omitempty"` // nothing is lost
	Loss    engine.Loss `json:"loss,omitzero"`
}

// node runs a method that only nodes call.
func (s *Server) node(ctx context.Context, q request) (any, error) {
	switch q.Method {
	case "node.pushes":
		// This node must have heard of the drain, or further pushes would follow.
		if _, err := s.Rules.Refresh(ctx); err != nil {
			return nil, err
		}
		return s.Service.Pushes(), nil
	case "node.positions":
		return with(q, s.shown)
	case "replica.verify":
		return with(q, func(p replicaAsk) (any, error) { return s.Engine.Verify(ctx, p.Repo, p.Deep), nil })
	case "replica.maintain":
		return with(q, func(p replicaAsk) (any, error) { return s.Engine.Maintain(ctx, p.Repo, p.Deep), nil })
	case "replica.repair":
		return with(q, func(p replicaAsk) (any, error) { return s.Engine.Repair(ctx, p.Repo) })
	case "replica.loss":
		return with(q, func(p replicaAsk) (any, error) {
			loss, err := s.Engine.Loss(ctx, p.Repo)
			if errors.Is(err, engine.ErrNothingLost) {
				return replicaLoss{Nothing: true}, nil
			}
			return replicaLoss{Loss: loss}, err
		})
	case "replica.accept-loss":
		return with(q, func(p replicaAsk) (any, error) {
			return s.Engine.AcceptLoss(ctx, p.Repo, p.Loss, p.Actor, s.Lost)
		})
	}
	return nil, fmt.Errorf("unknown method %q: this node is version %s", q.Method, s.Version)
}

func (s *Server) repoVerify(ctx context.Context, id cluster.Identity, p RepoVerify) (any, error) {
	at, err := s.resolve(ctx, id, p.Name, cluster.RoleAdmin)
	if err != nil {
		return nil, err
	}
	return Verdicts{Name: at.Repo.Name, Version: at.Head.Version, Verdicts: s.verdicts(ctx, at.Repo.ID, p.Deep)}, nil
}

// verdicts asks all nodes, and returns their answers by name.
func (s *Server) verdicts(ctx context.Context, id cluster.RepoID, deep bool) []engine.Verdict {
	var mu sync.Mutex
	var all []engine.Verdict
	s.eachNode(ctx, func(ctx context.Context, device cluster.DeviceName) {
		if !deep {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeoutCause(ctx, nodePatience, errNoAnswer)
			defer cancel()
		}
		v := engine.Verdict{Device: device}
		if err := s.on(ctx, device, "replica.verify", replicaAsk{Repo: id, Deep: deep}, &v); err != nil {
			v.Problem = err.Error()
		}
		mu.Lock()
		defer mu.Unlock()
		all = append(all, v)
	})
	slices.SortFunc(all, func(a, b engine.Verdict) int { return strings.Compare(string(a.Device), string(b.Device)) })
	return all
}

func (s *Server) repoRepair(ctx context.Context, id cluster.Identity, p RepoRepair) (any, error) {
	at, err := s.resolve(ctx, id, p.Name, cluster.RoleAdmin)
	if err != nil {
		return nil, err
	}
	var devices []cluster.DeviceName
	if p.Device != "" {
		d, ok := s.Rules.Snapshot().Device(p.Device)
		if !ok || !d.Node {
			return nil, fmt.Errorf("node %q: %w", p.Device, cluster.ErrNotFound)
		}
		devices = []cluster.DeviceName{p.Device}
	} else {
		for _, v := range s.verdicts(ctx, at.Repo.ID, false) {
			if !v.OK() {
				devices = append(devices, v.Device)
			}
		}
	}
	done := []Repaired{}
	// One after the other: while one is repaired the others serve.
	for _, device := range devices {
		r := Repaired{Device: device}
		if err := s.on(ctx, device, "replica.repair", replicaAsk{Repo: at.Repo.ID}, &r.Strays); err != nil {
			r.Error = err.Error()
		}
		done = append(done, r)
	}
	return done, nil
}

// repoLoss asks every node that can be reached what it could show. The best
// answer counts.
func (s *Server) repoLoss(ctx context.Context, id cluster.Identity, p RepoLoss) (any, error) {
	at, err := s.resolve(ctx, id, p.Name, cluster.RoleAdmin)
	if err != nil {
		return nil, err
	}
	return s.loss(ctx, at)
}

func (s *Server) loss(ctx context.Context, at engine.Resolved) (LossFound, error) {
	var mu sync.Mutex
	var best *engine.Loss
	var whole cluster.DeviceName
	var missing []Missing
	s.eachNode(ctx, func(ctx context.Context, device cluster.DeviceName) {
		var l replicaLoss
		err := s.on(ctx, device, "replica.loss", replicaAsk{Repo: at.Repo.ID}, &l)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err != nil:
			missing = append(missing, Missing{Device: device, Up: !errors.As(err, new(*unreached)), Error: err.Error()})
		case l.Nothing:
			whole = device
		case best == nil || l.Loss.Survives > best.Survives:
			best = &l.Loss
		}
	})
	slices.SortFunc(missing, func(a, b Missing) int { return strings.Compare(string(a.Device), string(b.Device)) })
	switch {
	case whole != "":
		return LossFound{}, fmt.Errorf("nothing is lost: %q has version %d of %q", whole, at.Head.Version, at.Repo.Name)
	case best == nil:
		var failures []error
		for _, m := range missing {
			failures = append(failures, fmt.Errorf("%s: %s", m.Device, m.Error))
		}
		return LossFound{}, fmt.Errorf("no node could say what it has of %q: %w", at.Repo.Name, errors.Join(failures...))
	}
	return LossFound{Loss: *best, Missing: missing}, nil
}

// lossAccept asks all nodes once more: one may have come back meanwhile.
func (s *Server) lossAccept(ctx context.Context, id cluster.Identity, p LossAccept) (any, error) {
	at, err := s.resolve(ctx, id, p.Name, cluster.RoleAdmin)
	if err != nil {
		return nil, err
	}
	now, err := s.loss(ctx, at)
	if err != nil {
		return nil, err
	}
	if now.Head != p.Loss.Head || now.Survives != p.Loss.Survives {
		return nil, fmt.Errorf("meanwhile the newest version is %d and version %d survives; look again", now.Head, now.Survives)
	}
	if err := now.Refused(); err != nil {
		return nil, err
	}
	done := LossAccepted{Device: now.Device}
	err = s.on(ctx, now.Device, "replica.accept-loss", replicaAsk{Repo: at.Repo.ID, Loss: now.Loss, Actor: id.String()}, &done.Bundle)
	return done, err
}
