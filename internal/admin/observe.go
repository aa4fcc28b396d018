package admin

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/journal"
	"gitcluster/internal/observe"
)

// RepoObserve makes a repository a mirror of a remote, or changes what a mirror
// follows.
type RepoObserve struct {
	Name string `json:"name"`
	URI  string `json:"uri"`
	// Credential is the text of a key or of a user and a password; see
	// [observe.NewRemote]. With Device the node shows its own identity instead.
	Credential string        `json:"credential,omitempty"`
	Device     bool          `json:"device,omitempty"`
	Every      time.Duration `json:"every,omitempty"` // 5 minutes unless given
	Refs       []string      `json:"refs,omitempty"`  // patterns; branches and tags unless given
	// Also adds a further remote, to be tried where those before it fail; its other
	// settings stay unless they are given.
	Also   bool   `json:"also,omitempty"`
	Force  bool   `json:"force,omitempty"`  // also where something was pushed: it follows the remote from now on
	Format string `json:"format,omitempty"` // of a repository that is created
}

// Pull brings this node's replica up to date; a mirror is first made to show
// what its remote does.
type Pull struct {
	Name  string `json:"name"`
	Debug bool   `json:"debug,omitempty"` // tell every step
}

// Pulled is what came of a pull.
type Pulled struct {
	Name    cluster.RepoName `json:"name"`
	Mirror  bool             `json:"mirror"`
	Changed int              `json:"changed"` // refs of a mirror
	From    cluster.Version  `json:"from"`    // of the mirror; of another repository, of this node's replica
	To      cluster.Version  `json:"to"`
	Took    time.Duration    `json:"took"`           // nanoseconds
	Note    string           `json:"note,omitempty"` // what of the remote could not be mirrored
}

const (
	defaultEvery = 5 * time.Minute
	minEvery     = time.Second
	maxEvery     = 30 * 24 * time.Hour
	maxRemotes   = 8
	maxPatterns  = 64
)

// repoObserve checks everything before it creates or changes anything. The first
// pull comes after that: where it fails, the settings stay, and it is tried again.
func (s *Server) repoObserve(ctx context.Context, id cluster.Identity, p RepoObserve, tell func(string)) (any, error) {
	name, err := cluster.ParseRepoName(p.Name)
	if err != nil {
		return nil, err
	}
	format, err := cluster.ParseObjectFormat(p.Format)
	if err != nil {
		return nil, err
	}
	remote, credential, err := observe.NewRemote(p.URI, p.Credential, p.Device)
	if err != nil {
		return nil, err
	}
	patterns, err := patterns(p)
	if err != nil {
		return nil, err
	}
	at, err := s.Service.Resolve(ctx, id, name, cluster.RoleAdmin)
	switch {
	case errors.Is(err, cluster.ErrNotFound) && p.Also:
		return nil, err
	case errors.Is(err, cluster.ErrNotFound):
		if at, err = s.Service.Create(ctx, id, cluster.Repo{Name: name, Format: format}); err != nil {
			return nil, err
		}
		tell(fmt.Sprintf("Created the repository %q.", name))
	case err != nil:
		return nil, err
	}
	err = s.Journal.SetObservation(ctx, at.Repo.ID, func(now *cluster.Observation, secrets journal.Secrets) (*cluster.Observation, journal.Secrets, error) {
		switch {
		case p.Also && now == nil:
			return nil, secrets, fmt.Errorf("%q follows nothing yet, so there is nothing to add to", name)
		case p.Also:
			return further(now, secrets, remote, credential, patterns, p.Every)
		case now == nil && at.Head.Version > 0 && !p.Force:
			return nil, secrets, cluster.WithHint(fmt.Errorf("%q is not empty: refs that are not on the remote would be removed, and the others made to match", name), "add --force if that is meant")
		}
		next := &cluster.Observation{Remotes: []cluster.Remote{remote}, Refs: patterns, Every: p.Every}
		if next.Every == 0 {
			next.Every = defaultEvery
		}
		if next.Refs == nil {
			next.Refs = []cluster.RefPattern{"refs/heads/*", "refs/tags/*"}
		}
		// Without the known hosts of before: whoever says it again accepts a new key.
		return next, journal.Secrets{Credentials: []journal.Credential{credential}}, nil
	})
	if err != nil {
		return nil, err
	}
	pulled, err := s.pullMirror(ctx, at.Repo, observe.Progress{Tell: tell})
	if err != nil {
		hint := cluster.Hint(err)
		if hint == "" {
			hint = "it is tried again on its own; `git cluster pull " + string(name) + " --debug` shows every step"
		}
		return nil, cluster.WithHint(fmt.Errorf("%q follows %s from now on, but the first pull failed: %w", name, p.URI, err), hint)
	}
	return pulled, nil
}

// further adds a remote to those that are followed.
func further(now *cluster.Observation, secrets journal.Secrets, remote cluster.Remote, credential journal.Credential, patterns []cluster.RefPattern, every time.Duration) (*cluster.Observation, journal.Secrets, error) {
	if len(now.Remotes) >= maxRemotes {
		return nil, secrets, fmt.Errorf("it has %d remotes, which is the most", maxRemotes)
	}
	next := &cluster.Observation{Refs: now.Refs, Every: now.Every}
	next.Remotes = append(append(next.Remotes, now.Remotes...), remote)
	credentials := make([]journal.Credential, len(now.Remotes), len(next.Remotes))
	copy(credentials, secrets.Credentials)
	secrets.Credentials = append(credentials, credential)
	if patterns != nil {
		next.Refs = patterns
	}
	if every != 0 {
		next.Every = every
	}
	return next, secrets, nil
}

// patterns checks what a request says of the refs and of how often; nil stands
// for the default.
func patterns(p RepoObserve) (all []cluster.RefPattern, err error) {
	if p.Every != 0 && (p.Every < minEvery || p.Every > maxEvery) {
		return nil, fmt.Errorf("a mirror can be pulled every %v to every %v, not every %v", minEvery, maxEvery, p.Every)
	}
	if len(p.Refs) > maxPatterns {
		return nil, fmt.Errorf("%d patterns are more than %d", len(p.Refs), maxPatterns)
	}
	for _, text := range p.Refs {
		pattern, err := cluster.ParseRefPattern(text)
		if err != nil {
			return nil, err
		}
		all = append(all, pattern)
	}
	return all, nil
}

func (s *Server) repoUnobserve(ctx context.Context, id cluster.Identity, p RepoName) error {
	at, err := s.resolve(ctx, id, p.Name, cluster.RoleAdmin)
	if err != nil {
		return err
	}
	return s.Journal.SetObservation(ctx, at.Repo.ID, func(now *cluster.Observation, secrets journal.Secrets) (*cluster.Observation, journal.Secrets, error) {
		if now == nil {
			return nil, secrets, fmt.Errorf("%q follows nothing: %w", p.Name, cluster.ErrNotFound)
		}
		return nil, journal.Secrets{}, nil
	})
}

// pull is for whoever may read a repository, and for a mirror for whoever could
// push to it were it none: it makes a node work for them.
func (s *Server) pull(ctx context.Context, id cluster.Identity, p Pull, tell func(string)) (any, error) {
	at, err := s.resolve(ctx, id, p.Name, cluster.RoleRead)
	if err != nil {
		return nil, err
	}
	say := observe.Progress{Tell: tell}
	if p.Debug {
		say.Debug = tell
	}
	if at.Repo.Observe != nil {
		if at, err = s.resolve(ctx, id, p.Name, cluster.RoleWrite); err != nil {
			return nil, err
		}
		return s.pullMirror(ctx, at.Repo, say)
	}
	before, _ := s.Engine.Applied(at.Repo.ID) // an error is that of a replica not made yet
	if say.Debug != nil {
		say.Debug(fmt.Sprintf("the journal is at version %d, this node's replica at %d", at.Head.Version, before.Version))
	}
	view, err := s.Engine.Sync(ctx, at, tell)
	return Pulled{Name: at.Repo.Name, From: before.Version, To: view.Applied.Version, Took: view.Waited}, err
}

func (s *Server) pullMirror(ctx context.Context, repo cluster.Repo, say observe.Progress) (Pulled, error) {
	r, err := s.Mirrors.Pull(ctx, repo.ID, say)
	return Pulled{Name: repo.Name, Mirror: true, Changed: r.Changed, From: r.From, To: r.To, Took: r.Took, Note: r.Note}, err
}
