package conduit

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"path"
	"slices"
	"strings"

	"gitcluster/internal/browse"
	"gitcluster/internal/cluster"
)

var commitMethods = map[string]method{
	"diffusion.historyquery": {
		about: "Lists the history of a commit, or of a path in it, the newest first.",
		gives: "dict",
		params: reading(map[string]string{
			"commit":            "optional string",
			"against":           "optional string",
			"path":              "optional string",
			"offset":            "optional int",
			"limit":             "optional int (default = 100)",
			"needDirectChanges": "optional bool",
			"needChildChanges":  "optional bool",
		}),
		run: historyQuery,
	},
	"diffusion.lastmodifiedquery": {
		about:  "Gives the commits that last changed paths.",
		gives:  "map<string, string>",
		params: reading(map[string]string{"paths": "required map<string, string>"}),
		run:    lastModifiedQuery,
	},
	"diffusion.commitparentsquery": {
		about:  "Lists a commit's parents.",
		gives:  "list<string>",
		params: reading(map[string]string{"commit": "required string"}),
		run:    commitParentsQuery,
	},
	"diffusion.existsquery": {
		about:  "Tells whether there is such an object.",
		gives:  "bool",
		params: reading(map[string]string{"commit": "required string"}),
		run:    existsQuery,
	},
	"diffusion.mergedcommitsquery": {
		about: "Lists the commits that a merge brought in, the newest first.",
		gives: "list<dict>",
		params: reading(map[string]string{
			"commit": "required string",
			"limit":  "optional int",
		}),
		run: mergedCommitsQuery,
	},
}

// A pathChange is a commit in a list. What a repository alone does not tell
// (audits, PHIDs, what happened to the path) is null.
type pathChange struct {
	Path             string      `json:"path"`
	CommitIdentifier cluster.OID `json:"commitIdentifier"`
	Commit           commitDict  `json:"commit"`
	CommitData       commitData  `json:"commitData"`
	FileType         *int        `json:"fileType"`
	ChangeType       *int        `json:"changeType"`
	TargetPath       *string     `json:"targetPath"`
	TargetCommit     *string     `json:"targetCommitIdentifier"`
	AwayPaths        []string    `json:"awayPaths"`
}

type commitDict struct {
	RepositoryID     *int64      `json:"repositoryID"`
	PHID             *string     `json:"phid"`
	CommitIdentifier cluster.OID `json:"commitIdentifier"`
	Epoch            *int64      `json:"epoch"` // the committer's time
	AuthorPHID       *string     `json:"authorPHID"`
	AuditStatus      *int        `json:"auditStatus"`
	Summary          string      `json:"summary"` // at most 80 characters
	ImportStatus     *int        `json:"importStatus"`
}

type commitData struct {
	CommitID      *int64 `json:"commitID"`
	AuthorName    string `json:"authorName"`
	CommitMessage string `json:"commitMessage"`
	CommitDetails string `json:"commitDetails"` // JSON in a text, as Phabricator has it
}

type commitDetails struct {
	AuthorName     string `json:"authorName"`
	AuthorEmail    string `json:"authorEmail"`
	AuthorEpoch    *int64 `json:"authorEpoch"`
	Committer      string `json:"committer"`
	CommitterName  string `json:"committerName"`
	CommitterEmail string `json:"committerEmail"`
}

// changes makes a list of commits.
func changes(path string, commits []browse.Commit) []pathChange {
	all := []pathChange{}
	for _, c := range commits {
		details, _ := json.Marshal(commitDetails{ // texts and a number: it cannot fail
			c.Author.Name, c.Author.Email, epoch(c.Author.When), person(c.Committer), c.Committer.Name, c.Committer.Email})
		summary := []rune(c.Subject)
		all = append(all, pathChange{
			Path:             path,
			CommitIdentifier: c.OID,
			Commit:           commitDict{CommitIdentifier: c.OID, Epoch: epoch(c.Committer.When), Summary: string(summary[:min(80, len(summary))])},
			CommitData:       commitData{AuthorName: person(c.Author), CommitMessage: c.Message, CommitDetails: string(details)},
			AwayPaths:        []string{},
		})
	}
	return all
}

func historyQuery(ctx context.Context, q *call) (any, error) {
	name, against, rev := q.path("path"), q.text("against"), q.text("commit")
	query := browse.HistoryQuery{Limit: q.limit(100), Offset: q.offset()}
	if name != "" {
		query.Paths = []string{name}
	}
	return q.open(ctx, func(ctx context.Context, r *browse.Repo) (_ any, err error) {
		if against != "" {
			not, err := commitOf(ctx, r, against)
			if err != nil {
				return nil, err
			}
			query.Not = []cluster.OID{not}
		}
		parents := map[cluster.OID][]cluster.OID{}
		from, err := q.commit(ctx, r)
		if f := (*fault)(nil); errors.As(err, &f) && rev == "" && q.text("branch") == "" {
			return map[string]any{"pathChanges": changes(name, nil), "parents": parents}, nil // there is no default branch yet
		}
		if err != nil {
			return nil, err
		}
		query.From = []cluster.OID{from}
		commits, more, err := r.History(ctx, query)
		if err != nil && !(errors.Is(err, browse.ErrTooLong) && len(commits) > 0) {
			return nil, err
		}
		q.read.More = more || err != nil
		for _, c := range commits {
			parents[c.OID] = list0(c.Parents)
		}
		return map[string]any{"pathChanges": changes(name, commits), "parents": parents}, nil
	})
}

// list0 is a list that is never null in JSON.
func list0(all []cluster.OID) []cluster.OID {
	if all == nil {
		return []cluster.OID{}
	}
	return all
}

// A place is a directory of a commit.
type place struct {
	commit cluster.OID
	dir    string
}

// lastModifiedQuery leaves out a path that is not there, and one for which the time
// did not suffice; the answer then says that there is more.
func lastModifiedQuery(ctx context.Context, q *call) (any, error) {
	asked := map[string]string{} // path → revision
	for name, value := range q.mapping("paths") {
		rev, ok := q.plain(value)
		if !ok || len(name) > maxText {
			q.wrong("paths", "want a map from paths to commits")
		}
		asked[name] = rev
	}
	if len(asked) == 0 {
		q.wrong("paths", "it is missing")
	} else if len(asked) > maxPage {
		q.wrong("paths", "there are more than %d", maxPage)
	}
	return q.open(ctx, func(ctx context.Context, r *browse.Repo) (_ any, err error) {
		commits := map[string]cluster.OID{} // by revision
		entries := map[place][]string{}     // paths as asked for
		for name, rev := range asked {
			if _, ok := commits[rev]; !ok {
				if commits[rev], err = commitOf(ctx, r, rev); err != nil {
					return nil, err
				}
			}
			at := place{commits[rev], strings.Trim(path.Dir("/"+strings.Trim(name, "/")), "/")}
			entries[at] = append(entries[at], name)
		}
		found := map[string]cluster.OID{}
		for at, names := range entries {
			if err := q.lastModified(ctx, r, at, names, found); err != nil {
				return nil, err
			}
		}
		return found, nil
	})
}

func (q *call) lastModified(ctx context.Context, r *browse.Repo, at place, names []string, found map[string]cluster.OID) error {
	byBase := map[string]string{} // the names as asked for
	for _, name := range names {
		base := path.Base("/" + strings.Trim(name, "/"))
		if base == "/" { // the top itself: every commit changes it
			found[name] = at.commit
			continue
		}
		_, err := r.Lookup(ctx, at.commit, path.Join(at.dir, base))
		if errors.Is(err, cluster.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		byBase[base] = name
	}
	if len(byBase) == 0 {
		return nil
	}
	last, complete, err := r.LastModified(ctx, at.commit, at.dir, slices.Sorted(maps.Keys(byBase)))
	if err != nil {
		return err
	}
	q.read.More = q.read.More || !complete
	for base, c := range last {
		found[byBase[base]] = c.OID
	}
	return nil
}

func commitParentsQuery(ctx context.Context, q *call) (any, error) {
	q.required("commit")
	return q.open(ctx, func(ctx context.Context, r *browse.Repo) (_ any, err error) {
		oid, err := q.commit(ctx, r)
		if err != nil {
			return nil, err
		}
		c, err := r.Commit(ctx, oid)
		return list0(c.Parents), err
	})
}

func existsQuery(ctx context.Context, q *call) (any, error) {
	rev := q.required("commit")
	return q.open(ctx, func(ctx context.Context, r *browse.Repo) (_ any, err error) {
		_, err = r.Resolve(ctx, rev)
		if errors.Is(err, cluster.ErrNotFound) || errors.Is(err, browse.ErrBadQuery) {
			return false, nil
		}
		return true, err
	})
}

func mergedCommitsQuery(ctx context.Context, q *call) (any, error) {
	q.required("commit")
	limit := q.limit(maxLimit)
	return q.open(ctx, func(ctx context.Context, r *browse.Repo) (_ any, err error) {
		merge, err := q.commit(ctx, r)
		if err != nil {
			return nil, err
		}
		commits, more, err := r.MergedCommits(ctx, merge, limit)
		if err != nil {
			return nil, err
		}
		q.read.More = more
		return changes("", commits), nil
	})
}
