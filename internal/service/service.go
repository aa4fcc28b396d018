// Package service is one authorized request on one repository: who asks, for
// what, and the Git process that answers, on a replica that was brought up to
// date first.
//
// Entry points: [Service.UploadPack], [Service.UploadArchive] and
// [Service.ReceivePack] serve Git's protocols; [Service.Read] is for fronts that
// read a repository themselves; [Service.Sync] is the synchronization alone;
// [Service.Repos] lists what one may read; [Service.ServeHook] is where the hooks of a push in
// progress report.
//
// It promises that no front reaches a repository without passing its
// authorization and the engine's synchronization, and that somebody who may not
// read a repository cannot tell it from one that does not exist.
package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gitcluster/internal/access"
	"gitcluster/internal/cluster"
	"gitcluster/internal/engine"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
	"gitcluster/internal/journal"
	"gitcluster/internal/metrics"
	"gitcluster/internal/packcache"
	"gitcluster/internal/queue"
	"gitcluster/internal/refcache"
)

// A Directory gives the current rules of access.
type Directory interface {
	// Snapshot returns the rules as last heard of.
	Snapshot() *access.Directory
	// Refresh returns the rules after everything that was changed before the call.
	Refresh(ctx context.Context) (*access.Directory, error)
}

// Options are what a service works with.
type Options struct {
	Device    cluster.DeviceName
	Engine    *engine.Engine
	Journal   *journal.Journal
	Directory Directory
	Run       *gitexec.Runner
	Hooks     string           // directory of the hooks that report to ServeHook
	Socket    string           // where they find this node
	Packs     *packcache.Cache // what fetches at the same time share; nil: nothing
	Refs      *refcache.Cache  // what upload-packs have said of refs; nil: nothing is kept
	Turns     *queue.Queue     // bounds the Git processes that serve clients
	Metrics   *metrics.Metrics // may be nil
	Log       *slog.Logger
}

// A Service serves requests. Its methods are safe for concurrent use.
type Service struct {
	Options
	strangers *queue.Queue // those of Turns that all who did not sign in may have
	pushers   *queue.Queue // those that pushes may have
	mu        sync.Mutex
	pushes    map[string]*push  // by token
	fetches   map[string]*fetch // by token
	begun     atomic.Int64      // pushes that may yet become one of these, and these
}

// New returns a service.
func New(o Options) *Service {
	if o.Turns == nil {
		o.Turns = queue.New(64, 10_000)
	}
	places, most := o.Turns.Size()
	return &Service{Options: o, pushes: map[string]*push{}, fetches: map[string]*fetch{},
		strangers: queue.New(max(1, places/2), max(1, most/2)),
		// A push keeps its place while the journal does not answer, and who then wants to read
		// what there is needs no journal.
		pushers: queue.New(max(1, places-places/4), max(1, most-most/4)),
	}
}

// A Request is a request on one repository: a Git protocol exchange, or a read
// that a front makes itself.
type Request struct {
	Identity  cluster.Identity
	Repo      cluster.RepoName
	Front     string         // "ssh", "http", "conduit", "web"
	Remote    netip.AddrPort // the client's address, if it has one
	Protocol  string         // GIT_PROTOCOL as the client set it
	Freshness cluster.Freshness
	Format    cluster.ObjectFormat // of the pusher's repository, for one that the push creates
	Stateless bool                 // one of the requests by which Git speaks over HTTP
	// Await, if not nil, waits for what the client has to send before a Git process
	// is worth its while. It is asked once the client is known to be allowed to read.
	Await  func() error
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	Tell   func(string) // lines for the person who waits; may be nil
}

// UploadArchive serves `git archive --remote`.
func (s *Service) UploadArchive(ctx context.Context, q Request) error {
	return s.read(ctx, q, "upload-archive", gitcmd.UploadArchive)
}

func (s *Service) read(ctx context.Context, q Request, what string, command func(dir string) gitcmd.Command) error {
	return s.Read(ctx, &q, what, func(ctx context.Context, view engine.View) error {
		s.warn(q, view)
		return s.Run.Run(ctx, command(view.Dir), gitexec.IO{Stdin: q.Stdin, Stdout: q.Stdout, Stderr: q.Stderr})
	})
}

// warn tells a reader of a replica that was not compared with the journal.
func (s *Service) warn(q Request, view engine.View) {
	if view.Stale {
		q.tell(fmt.Sprintf("This may be stale: version %d of %q as %q has it, not compared with the journal.", view.Applied.Version, q.Repo, s.Device))
	}
}

// Read brings the replica up to date and has do read it, when its turn has come.
// what names the reading in the log. Fronts that read a repository without one of
// Git's protocols call it; of the request it needs who asks, for which repository,
// and how fresh. The directory in the view is for reading alone, and only until do
// returns.
func (s *Service) Read(ctx context.Context, q *Request, what string, do func(context.Context, engine.View) error) error {
	return s.reading(ctx, q, what, func(ctx context.Context, view engine.View, turn turn) error {
		leave, err := turn()
		if err != nil {
			return err
		}
		defer leave()
		return do(ctx, view)
	})
}

// A turn waits for a place among the Git processes, which is the caller's until leave is
// called.
type turn func() (leave func(), err error)

// reading is Read for a reader that takes its turn by itself, if it comes to need a Git
// process.
func (s *Service) reading(ctx context.Context, q *Request, what string, do func(context.Context, engine.View, turn) error) error {
	t := s.begin(q, what)
	patient := q.remind()
	defer patient()
	view, err := s.view(ctx, *q)
	t.waited, t.version = view.Waited, view.Applied.Version
	if err == nil && q.Await != nil {
		err = q.Await()
	}
	patient()
	if err == nil {
		err = do(ctx, view, func() (leave func(), err error) {
			defer q.remind()()
			return s.turn(ctx, *q, false)
		})
	}
	t.end(err)
	return err
}

// turn waits until this node may start one more Git process for the client.
func (s *Service) turn(ctx context.Context, q Request, push bool) (leave func(), err error) {
	lines := []*queue.Queue{s.Turns}
	if push {
		lines = append(lines, s.pushers)
	}
	if q.Identity == (cluster.Identity{}) {
		lines = append(lines, s.strangers)
	}
	holder, told := Holder(q.Identity, q.Remote), func(ahead int) {
		q.tell(fmt.Sprintf("This node is busy; %d requests are waiting before this one…", ahead))
	}
	var places []func()
	leave = func() {
		for _, place := range places {
			place()
		}
	}
	for _, line := range slices.Backward(lines) { // the places of all are the last to be taken
		place, err := line.Enter(ctx, holder, told)
		if err != nil {
			leave()
			if errors.Is(err, queue.ErrFull) {
				err = cluster.WithHint(err, "try again in a while")
			}
			return nil, err
		}
		places = append(places, place)
	}
	return leave, nil
}

// Holder is in whose name places and memory are counted: an identity's, or of strangers
// that of the network that one of them controls.
func Holder(id cluster.Identity, remote netip.AddrPort) string {
	if id == (cluster.Identity{}) {
		return access.Source(remote.Addr()).String()
	}
	return id.String()
}

func (q *Request) tell(line string) {
	if q.Tell != nil {
		q.Tell(line)
	}
}

func (s *Service) view(ctx context.Context, q Request) (engine.View, error) {
	at, err := s.resolve(ctx, q.Identity, q.Repo, cluster.RoleRead, q.Freshness)
	if err != nil {
		return engine.View{}, err
	}
	return s.Engine.Sync(ctx, at, q.Tell)
}

// Synced is what a client learns from a synchronization on its own.
type Synced struct {
	Position cluster.Position
	Waited   time.Duration
}

// Sync brings the replica up to date for a reader, or for somebody who is about
// to push. A repository that does not exist is no error for one who may create it.
func (s *Service) Sync(ctx context.Context, id cluster.Identity, name cluster.RepoName, write bool, tell func(string)) (Synced, error) {
	role := cluster.RoleRead
	if write {
		role = cluster.RoleWrite
		if err := s.takesPushes(); err != nil {
			return Synced{}, err
		}
	}
	at, err := s.resolve(ctx, id, name, role, cluster.Current)
	if errors.Is(err, cluster.ErrNotFound) && write && s.mayCreate(ctx, id, name) {
		return Synced{}, s.Journal.NameClash(ctx, name)
	}
	if err == nil && write {
		err = pushable(&at.Repo)
	}
	if err != nil {
		return Synced{}, err
	}
	view, err := s.Engine.Sync(ctx, at, tell)
	return Synced{Position: view.Applied, Waited: view.Waited}, err
}

// Current tells a reader the replica's position if that is the head, and waits for
// nothing but the journal. [cluster.ErrBehind]: it is not.
func (s *Service) Current(ctx context.Context, id cluster.Identity, name cluster.RepoName) (Synced, error) {
	at, err := s.resolve(ctx, id, name, cluster.RoleRead, cluster.Current)
	if err != nil {
		return Synced{}, err
	}
	applied, err := s.Engine.Applied(at.Repo.ID)
	if err == nil && !applied.Reached(at.Head.Position) {
		err = fmt.Errorf("%w: it shows version %d of %d", cluster.ErrBehind, applied.Version, at.Head.Version)
	}
	return Synced{Position: applied}, err
}

// Create makes a repository for somebody who may.
func (s *Service) Create(ctx context.Context, id cluster.Identity, repo cluster.Repo) (engine.Resolved, error) {
	if !s.mayCreate(ctx, id, repo.Name) {
		return engine.Resolved{}, fmt.Errorf("you may not create the repository %q: %w", repo.Name, cluster.ErrDenied)
	}
	repo.ID = cluster.RepoID(journal.NewID())
	if repo.Format == "" {
		repo.Format = cluster.SHA1
	}
	if repo.InitialHead == "" {
		repo.InitialHead = "refs/heads/main"
	}
	repo.Created, repo.CreatedBy, repo.CreatedOnNode = time.Now().UTC(), id.String(), s.Device
	return s.Engine.Create(ctx, repo)
}

// Repos lists the repositories that an identity may read, in the order of their
// names, from after the given name on and at most limit of them. next, if not
// empty, is where the following page starts.
func (s *Service) Repos(ctx context.Context, id cluster.Identity, after cluster.RepoName, limit int) (repos []journal.RepoHead, next cluster.RepoName, err error) {
	rules := s.Directory.Snapshot()
	for r, err := range s.Journal.Repos(ctx, after) {
		if err != nil {
			return nil, "", err
		}
		if rules.Role(id, &r.Repo) < cluster.RoleRead {
			continue
		}
		if len(repos) == limit {
			// The last readable name, never one that the asker may not know of.
			return repos, repos[limit-1].Name, nil
		}
		repos = append(repos, r)
	}
	return repos, "", nil
}

// Resolve finds a repository for somebody who must have the role on it.
func (s *Service) Resolve(ctx context.Context, id cluster.Identity, name cluster.RepoName, role cluster.Role) (engine.Resolved, error) {
	return s.resolve(ctx, id, name, role, cluster.Current)
}

func (s *Service) resolve(ctx context.Context, id cluster.Identity, name cluster.RepoName, need cluster.Role, f cluster.Freshness) (engine.Resolved, error) {
	at, err := s.Engine.Resolve(ctx, name, f)
	gone := errors.Is(err, cluster.ErrNotFound)
	if err != nil && !gone {
		return at, err
	}
	has := s.Directory.Snapshot().Role(id, &at.Repo)
	if has < need && f == cluster.Current && id != (cluster.Identity{}) {
		// The rules heard of may be older than a grant just made. They are asked for
		// where there is nothing, too: the time this takes would tell it from a
		// private repository.
		if rules, err := s.Directory.Refresh(ctx); err == nil {
			has = rules.Role(id, &at.Repo)
		}
	}
	switch {
	case gone || has == cluster.RoleNone:
		return at, notFound(name)
	case has >= need:
		return at, nil
	case id.ReadOnly:
		return at, fmt.Errorf("%s may not %s %q with a token that is for reading: %w", id, need, name, cluster.ErrDenied)
	}
	return at, cluster.WithHint(fmt.Errorf("%s may %s %q but not %s it: %w", id, has, name, need, cluster.ErrDenied),
		fmt.Sprintf("an administrator can allow it: git cluster grant %s %s %s", subject(id), need, name))
}

func (s *Service) mayCreate(ctx context.Context, id cluster.Identity, name cluster.RepoName) bool {
	repo := &cluster.Repo{Name: name}
	if id == (cluster.Identity{}) {
		return false // whatever has been granted
	}
	if s.Directory.Snapshot().Role(id, repo) >= cluster.RoleAdmin {
		return true
	}
	rules, err := s.Directory.Refresh(ctx)
	return err == nil && rules.Role(id, repo) >= cluster.RoleAdmin
}

// takesPushes is an error where an operator has the node drained.
func (s *Service) takesPushes() error {
	if d, ok := s.Directory.Snapshot().Device(s.Device); ok && !d.Writable {
		return cluster.WithHint(fmt.Errorf("%q is being drained: %w", s.Device, cluster.ErrDraining), "push to another node")
	}
	return nil
}

func subject(id cluster.Identity) string {
	if id.User != "" {
		return string(id.User)
	}
	return id.String()
}

// notFound is the same for a repository that is not there and for one that the
// asker may not know of.
func notFound(name cluster.RepoName) error {
	return cluster.WithHint(fmt.Errorf("repository %q: %w, or you may not read it", name, cluster.ErrNotFound),
		"`git cluster repo list` shows those you may read; a push creates one where you have the role admin")
}
