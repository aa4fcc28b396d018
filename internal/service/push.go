package service

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/engine"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
	"gitcluster/internal/journal"
	"gitcluster/internal/localsocket"
	"gitcluster/internal/procreceive"
	"gitcluster/internal/repository"
)

// A push is one in progress, between its first word and its last.
type push struct {
	service *Service
	id      string
	actor   cluster.Identity
	repo    cluster.Repo
	dir     string
	since   uint64                  // the replica's generation before Git looked at the objects
	cancel  context.CancelCauseFunc // ends receive-pack, and with it the connection
	report  *report                 // what receive-pack says, if Git's own serves it
	// incoming is what came, and is not the repository's yet; nil if there is nothing.
	incoming *repository.Incoming

	mu       sync.Mutex
	asked    int                        // how many commands there are
	policy   map[cluster.RefName]string // what pre-receive decided to refuse
	decided  bool
	accepted int
}

// ReceivePack serves a push. A repository that does not exist is created for
// somebody who may; if nothing comes of the push it is removed again.
func (s *Service) ReceivePack(ctx context.Context, q Request) error {
	t := s.begin(&q, "receive-pack")
	p, err := s.receive(ctx, q, t)
	if p != nil {
		t.refs = p.count()
	}
	t.end(err)
	return err
}

func (s *Service) receive(ctx context.Context, q Request, t *tally) (*push, error) {
	patient := q.remind()
	defer patient()
	// Counted before it is asked whether it may be: who has heard of the drain and
	// then counts no push will see none come.
	s.begun.Add(1)
	defer s.begun.Add(-1)
	if err := s.takesPushes(); err != nil {
		return nil, err
	}
	at, err := s.resolve(ctx, q.Identity, q.Repo, cluster.RoleWrite, cluster.Current)
	created := false
	if errors.Is(err, cluster.ErrNotFound) && s.mayCreate(ctx, q.Identity, q.Repo) {
		at, err = s.Create(ctx, q.Identity, cluster.Repo{Name: q.Repo, Format: q.Format})
		if errors.Is(err, cluster.ErrExists) {
			// Somebody else was first, or the name itself is impossible.
			if other, resolveErr := s.resolve(ctx, q.Identity, q.Repo, cluster.RoleWrite, cluster.Current); resolveErr == nil {
				at, err = other, nil
			}
		} else if err == nil {
			created = true
			q.tell(fmt.Sprintf("Created the repository %q.", q.Repo))
		}
	}
	if err == nil {
		err = pushable(&at.Repo)
	}
	if err != nil {
		return nil, err
	}
	view, err := s.Engine.Sync(ctx, at, q.Tell)
	if err != nil {
		return nil, err
	}
	t.waited = view.Waited
	leave, err := s.turn(ctx, q, true)
	if err != nil {
		return nil, err
	}
	defer leave()
	patient()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p := &push{service: s, id: journal.NewID(), actor: q.Identity, repo: at.Repo, dir: view.Dir, since: view.Generation, cancel: cancel}
	err = p.converse(ctx, q)
	if created {
		// If nothing came of it, it goes again. The condition on the head keeps
		// what was pushed, by this client or another.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if _, err := s.Journal.DeleteIfEmpty(ctx, at.Repo, at.Head); err != nil {
			s.Log.Warn("remove the repository of a failed first push", "repo", q.Repo, "error", err)
		}
	}
	return p, err
}

// pushable refuses a push to a mirror before anything is uploaded: the next pull
// would undo it.
func pushable(repo *cluster.Repo) error {
	if repo.Observe == nil {
		return nil
	}
	return cluster.WithHint(fmt.Errorf("%q follows %s and takes no pushes: %w", repo.Name, repo.Observe.Remotes[0].URI, cluster.ErrDenied),
		"push there; `git cluster pull "+string(repo.Name)+"` then brings it here at once")
}

func (p *push) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// ServeHook answers a hook of a push in progress. A hook with a token that no
// push has is refused: it was started by hand, or outlived its push.
func (s *Service) ServeHook(ctx context.Context, q localsocket.HookRequest, stdin io.Reader, stdout, stderr io.Writer) int {
	if q.Hook == localsocket.PackObjects {
		return s.servePack(ctx, q, stdin, stdout, stderr)
	}
	p := byToken(s, s.pushes, q.Push)
	if p == nil {
		fmt.Fprintln(stderr, "# this hook belongs to no push in progress")
		return 1
	}
	var err error
	switch q.Hook {
	case "pre-receive":
		err = p.preReceive(ctx, q, stdin)
	case "proc-receive":
		err = p.procReceive(ctx, stdin, stdout, stderr)
	default:
		err = fmt.Errorf("unknown hook %q", q.Hook)
	}
	if err != nil {
		s.Log.Warn("hook failed", "hook", q.Hook, "repo", p.repo.Name, "error", err)
		fmt.Fprintf(stderr, "# %v\n", err)
		return 1
	}
	return 0
}

// procReceive decides a push, and makes sure that receive-pack hears of it: if it may
// not have, the client gets no answer.
func (p *push) procReceive(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) error {
	release := p.report.hold()
	defer release()
	err := procreceive.Serve(stdin, stdout, func(r procreceive.Request) ([]cluster.RefResult, error) {
		defer reassure(stderr)()
		return p.decide(ctx, r, func(line string) { fmt.Fprintf(stderr, "# %s\n", line) })
	})
	if err == nil {
		// Git ends the hook's input when it has read the whole report.
		_, err = io.Copy(io.Discard, stdin)
	}
	if err != nil && p.count() > 0 {
		err = fmt.Errorf("%w: %w", errUnheard, err)
		p.cancel(err)
	}
	return err
}

// reassure tells the person who pushes, now and then until the returned function
// is called, that the journal has not answered yet.
func reassure(stderr io.Writer) (stop func()) {
	const after = 5 * time.Second
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(after)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				fmt.Fprintln(stderr, "# Waiting for the journal to confirm this push…")
			case <-quit:
				return
			}
		}
	}()
	return func() { close(quit); <-ended }
}

// Pushes returns how many pushes are in progress on this node. One of which the
// client has gone may still be on its way to the journal.
func (s *Service) Pushes() int { return max(int(s.begun.Load()), s.Engine.Committing()) }

// byToken finds what a token belongs to. Whoever has the token could speak for it, so
// the time this takes must not tell how much of one is right.
func byToken[T any](s *Service, all map[string]*T, token string) (found *T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for t, v := range all {
		if subtle.ConstantTimeCompare([]byte(t), []byte(token)) == 1 {
			found = v
		}
	}
	return found
}

// preReceive counts the commands of a push of which Git has read them, looks at its
// certificate, and decides what policy refuses, while the objects are still in
// quarantine.
func (p *push) preReceive(ctx context.Context, q localsocket.HookRequest, stdin io.Reader) error {
	updates, err := procreceive.ReadCommands(stdin)
	if err != nil {
		return err
	}
	if err := p.checkCertificate(q.Env); err != nil {
		return err
	}
	quarantine := q.Env["GIT_QUARANTINE_PATH"]
	if quarantine != "" && !within(filepath.Join(p.dir, "objects"), quarantine) {
		return fmt.Errorf("the quarantine %q is not in the repository", quarantine)
	}
	p.judge(ctx, updates, quarantine)
	return nil
}

// judge decides what policy refuses of a push.
func (p *push) judge(ctx context.Context, updates []cluster.RefUpdate, quarantine string) {
	policy := map[cluster.RefName]string{}
	for _, u := range updates {
		switch {
		case u.New.IsZero() && p.repo.DenyDeletes:
			policy[u.Ref] = "deletion prohibited"
		case p.repo.DenyNonFF && u.Ref.IsBranch() && !u.New.IsZero() && !u.Old.IsZero():
			err := p.service.Run.Run(ctx, gitcmd.IsAncestor(p.dir, quarantine, u.Old, u.New), gitexec.IO{})
			if err != nil {
				policy[u.Ref] = "non-fast-forward"
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked, p.policy = len(updates), policy
}

// decide makes what Git and policy let through part of the journal.
func (p *push) decide(ctx context.Context, q procreceive.Request, tell func(string)) ([]cluster.RefResult, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.decided {
		return nil, errors.New("a second decision on one push")
	}
	p.decided = true
	refused := map[cluster.RefName]string{}
	for _, u := range q.Updates {
		if why := p.policy[u.Ref]; why != "" {
			refused[u.Ref] = why
		}
	}
	// Git withholds from this hook what it has refused itself; an atomic push
	// of which something is missing here fails whole.
	if q.Atomic && (len(refused) > 0 || len(q.Updates) < p.asked) {
		return answer(q.Updates, refused, "atomic push failure", nil), nil
	}
	var rest []cluster.RefUpdate
	for _, u := range q.Updates {
		if refused[u.Ref] == "" {
			rest = append(rest, u)
		}
	}
	var results []cluster.RefResult
	if len(rest) > 0 {
		var err error
		results, err = p.service.Engine.Commit(ctx, p.repo.ID, engine.Push{
			ID: p.id, Actor: p.actor, Updates: rest, Atomic: q.Atomic,
			Copies: p.repo.Copies, Degraded: p.repo.WhenDegraded == cluster.Warn, Generation: p.since, Admitted: true, Tell: tell,
			Incoming: p.incoming,
		})
		if errors.Is(err, engine.ErrIncomplete) {
			return nil, err
		}
		if errors.Is(err, engine.ErrUnclear) {
			// A failing hook would make Git tell the client "ng", which may be a
			// lie. Ending the connection says what is true: nobody knows.
			p.cancel(err)
			return nil, err
		}
		if err != nil {
			return answer(q.Updates, nil, err.Error(), nil), nil
		}
		if slices.ContainsFunc(results, func(r cluster.RefResult) bool { return r.Refused == engine.ErrTooFewCopies.Error() }) {
			tell(fmt.Sprintf("hint: start the other nodes again; or an administrator may accept fewer copies: git cluster repo set %s --when-degraded warn", p.repo.Name))
		}
	}
	for _, r := range results {
		if r.Refused == "" {
			p.accepted++
		}
	}
	return answer(q.Updates, refused, "", results), nil
}

// answer joins the engine's results with what was refused before it was asked,
// in the order of the updates.
func answer(updates []cluster.RefUpdate, refused map[cluster.RefName]string, otherwise string, results []cluster.RefResult) []cluster.RefResult {
	var all []cluster.RefResult
	for _, u := range updates {
		r := cluster.RefResult{Ref: u.Ref, Refused: otherwise}
		if why := refused[u.Ref]; why != "" {
			r.Refused = why
		} else if otherwise == "" {
			r, results = results[0], results[1:]
		}
		all = append(all, r)
	}
	return all
}

// within reports whether path, with symbolic links resolved, is below dir.
func within(dir, path string) bool {
	dir, err1 := filepath.EvalSymlinks(dir)
	path, err2 := filepath.EvalSymlinks(path)
	return err1 == nil && err2 == nil && strings.HasPrefix(path, dir+string(filepath.Separator))
}
