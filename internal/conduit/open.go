package conduit

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"strings"

	"gitcluster/internal/browse"
	"gitcluster/internal/cluster"
	"gitcluster/internal/engine"
	"gitcluster/internal/service"
)

// reading are the parameters of all methods that read one repository, and more.
func reading(more map[string]string) map[string]string {
	all := map[string]string{
		"repository": "required string",
		"callsign":   "optional string (deprecated)",
		"branch":     "optional string",
		"staleOK":    "optional bool",
	}
	maps.Copy(all, more)
	return all
}

// open brings the repository up to date and has do answer from it. All parameters
// must have been read by then: one that is wrong costs no synchronization.
func (q *call) open(ctx context.Context, do func(ctx context.Context, r *browse.Repo) (any, error)) (any, error) {
	asked := q.text("repository")
	if asked == "" {
		asked = q.text("callsign")
	}
	if asked == "" {
		q.wrong("repository", "it is missing")
	}
	freshness := cluster.Current
	if q.truth("staleOK") {
		freshness = cluster.StaleOK
	}
	if q.err != nil {
		return nil, q.err
	}
	name, id, err := q.named(ctx, asked, freshness)
	if err != nil {
		return nil, err
	}
	var value any
	request := service.Request{Identity: q.id, Repo: name, Front: q.front, Remote: q.remote, Freshness: freshness, Stdout: &q.out, Tell: q.tell}
	q.logged = true
	err = q.Repositories.Read(ctx, &request, q.method, func(ctx context.Context, view engine.View) (err error) {
		if id != "" && view.Repo.ID != id {
			return cluster.ErrNotFound // it has left its name to another
		}
		q.read = &Read{At: &At{view.Repo.Name, view.Applied.Epoch, view.Applied.Version}, Node: q.Device, Stale: view.Stale}
		q.clock.Reset(q.maxTime)
		value, err = do(ctx, q.Browser.Open(view.Dir, view.Repo.Format))
		if err != nil && errors.Is(context.Cause(ctx), browse.ErrTooLong) {
			err = browse.ErrTooLong
		}
		if err == nil {
			// Here, so that it counts as what the request sent.
			err = json.NewEncoder(request.Stdout).Encode(Result{Value: value, Read: q.read})
		}
		return err
	})
	if q.read == nil && errors.Is(err, cluster.ErrNotFound) {
		err = unknownRepository(asked)
	}
	return value, err
}

// unknownRepository repeats what the caller wrote and nothing else: a PHID must
// not tell the name of a repository that may not be read.
func unknownRepository(asked string) error {
	return faultf(codeRepository, "repository %q: %w, or you may not read it", clip(asked), cluster.ErrNotFound)
}

// named takes a repository's name or PHID; with a PHID it returns the id as well.
func (q *call) named(ctx context.Context, asked string, f cluster.Freshness) (cluster.RepoName, cluster.RepoID, error) {
	if digits, ok := strings.CutPrefix(asked, repositoryPrefix); ok {
		id, err := cluster.ParseRepoID(digits)
		if err != nil {
			return "", "", unknownRepository(asked)
		}
		name, err := q.Repositories.NameOf(ctx, id, f)
		if errors.Is(err, cluster.ErrNotFound) {
			err = unknownRepository(asked)
		}
		return name, id, err
	}
	name, err := cluster.ParseRepoName(asked)
	if err != nil {
		return "", "", unknownRepository(asked)
	}
	return name, "", nil
}

// commit is where a method begins to read: at the parameter commit, or else at the branch,
// or else at HEAD.
func (q *call) commit(ctx context.Context, r *browse.Repo) (cluster.OID, error) {
	rev := q.text("commit")
	if branch := q.text("branch"); rev == "" && branch != "" {
		rev = "refs/heads/" + branch
	}
	return commitOf(ctx, r, rev)
}

func commitOf(ctx context.Context, r *browse.Repo, rev string) (cluster.OID, error) {
	o, err := r.Resolve(ctx, rev)
	switch {
	case errors.Is(err, cluster.ErrNotFound), errors.Is(err, browse.ErrBadQuery):
		return "", faultf(codeCommit, "commit %q: %w", clip(rev), err)
	case err != nil:
		return "", err
	case o.Commit == "":
		return "", faultf(codeCommit, "%q is a %s, which leads to no commit: %w", clip(rev), o.Type, cluster.ErrNotFound)
	}
	return o.Commit, nil
}
