// Package observe keeps mirrors: repositories whose refs follow those of a
// remote. One node at a time asks the remote, fetches what is new and commits
// it like a push; the others follow the journal as usual.
//
// Entry points: [Observer.Run] pulls what is due; [Observer.Pull] pulls now;
// [NewRemote] checks what an administrator says of a remote.
//
// It promises that a mirror is pulled by one node at a time, whichever of them
// lives; that a pull which ends halfway, in whatever way, leaves each ref of the
// mirror as it was or as the remote had it; that a remote which fails is asked less and
// less often, and why is written down; and that a secret is in no argument, no
// variable, no log and no message, but in a file of its own for as long as Git needs it.
package observe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/engine"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
	"gitcluster/internal/journal"
)

// Options are what an observer works with.
type Options struct {
	Device  cluster.DeviceName
	Journal *journal.Journal
	Engine  *engine.Engine
	Git     *gitexec.Runner
	// Dir is a folder for this observer alone. Everything in it is removed when
	// the observer is made.
	Dir     string
	Network Network
	Log     *slog.Logger
}

// Network is how this node reaches other hosts.
type Network struct {
	Proxy        gitcmd.Proxy
	CAInfo       string // PEM file of the authorities for HTTPS; "" for the system's
	DeviceDir    string // the identity this machine shows to other clusters
	ClientConfig string // the client.toml that names them; "" for the usual places
}

// An Observer pulls mirrors. Its methods are safe for concurrent use.
type Observer struct {
	Options
	silence time.Duration // after which a remote is given up
}

// New returns an observer, after removing what a former life left in its folder.
func New(o Options) (*Observer, error) {
	if err := os.RemoveAll(o.Dir); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, err
	}
	o.Dir = dir
	// Nobody else may so much as list it: it holds credentials.
	return &Observer{Options: o, silence: 10 * time.Minute}, os.Mkdir(dir, 0o700)
}

// Progress takes what somebody who waits for a pull wants to hear. Each function
// gets one line, and may be nil.
type Progress struct {
	Tell  func(line string)
	Debug func(line string) // every step, every command, and what Git says
}

func (p Progress) tell(format string, a ...any) {
	if p.Tell != nil {
		p.Tell(fmt.Sprintf(format, a...))
	}
}

// A Result is what a pull came to.
type Result struct {
	Changed  int             // refs created, moved or deleted, and HEAD
	From, To cluster.Version // of the mirror, before and after
	Took     time.Duration
	Note     string // what of the remote could not be mirrored, on one line

	refused []string // by the engine, with its reasons
}

// Pull brings the mirror to what its remote shows. If a pull is under way, here
// or on another node, it waits for that first.
func (o *Observer) Pull(ctx context.Context, id cluster.RepoID, say Progress) (Result, error) {
	for {
		claim, holder, err := o.Journal.Claim(ctx, id, o.Device)
		if err == nil {
			defer claim.Release()
			return o.pull(ctx, claim, id, say)
		}
		if !errors.Is(err, journal.ErrClaimed) {
			return Result{}, err
		}
		say.tell("%q is pulling it; waiting for that to end…", holder)
		if err := o.Journal.AwaitClaim(ctx, id); err != nil {
			return Result{}, err
		}
	}
}

// pull pulls under the claim and records how it went.
func (o *Observer) pull(ctx context.Context, claim *journal.Claim, id cluster.RepoID, say Progress) (Result, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(claim.Context(), func() { cancel(context.Cause(claim.Context())) })()
	repo, head, secrets, err := claim.Lookup(ctx)
	if err != nil {
		return Result{}, err
	}
	if repo.Observe == nil {
		return Result{}, fmt.Errorf("%q follows no remote: %w", repo.Name, cluster.ErrNotFound)
	}
	before, err := o.Journal.Observed(ctx, id)
	if err != nil {
		return Result{}, err
	}
	start := time.Now()
	p := &pull{Observer: o, claim: claim, repo: repo, head: head, secrets: secrets, say: say, start: start}
	result, err := p.run(ctx)
	result.Took = time.Since(start)
	if cause := context.Cause(ctx); cause != nil {
		return result, cause
	}
	if err != nil && ours(err) {
		return result, err // another node may do better, and at once
	}
	state := journal.Observed{Device: o.Device, Remote: p.asked, Tried: start.UTC(), Succeeded: before[id].Succeeded, Note: result.Note}
	log := o.Log.With("repo", repo.Name, "remote", p.asked, "took", result.Took.Round(time.Millisecond))
	if err != nil {
		state.Failures, state.Error = before[id].Failures+1, p.clean(err.Error())
		log.Warn("pull failed", "failures", state.Failures, "error", state.Error)
	} else {
		state.Succeeded = time.Now().UTC()
		level := slog.LevelInfo
		if result.Changed == 0 {
			level = slog.LevelDebug // most pulls find nothing
		}
		log.Log(ctx, level, "pulled", "changed", result.Changed, "version", result.To)
	}
	state.Next = time.Now().Add(pauseBefore(repo.Observe.Every, state.Failures)).UTC()
	if reportErr := claim.Report(ctx, state); reportErr != nil {
		o.Log.Warn("the outcome of a pull is not recorded", "repo", repo.Name, "error", reportErr)
	}
	return result, err
}

// maxPause is how rarely a remote that keeps failing is asked, unless it is to
// be asked more rarely anyway.
const maxPause = 6 * time.Hour

// pauseBefore is how long to wait for the next pull: twice as long after each
// failure, and never exactly, so that many mirrors of one host do not
// come at once.
func pauseBefore(every time.Duration, failures int) time.Duration {
	pause := every
	for range failures {
		if pause *= 2; pause > maxPause {
			pause = max(maxPause, every)
			break
		}
	}
	return pause - pause/10 + rand.N(pause/5+1)
}
