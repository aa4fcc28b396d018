package conduit

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"gitcluster/internal/browse"
	"gitcluster/internal/cluster"
)

const (
	branches = "refs/heads/"
	tags     = "refs/tags/"
)

var refMethods = map[string]method{
	"diffusion.branchquery": {
		about: "Lists branches, the newest first.",
		gives: "list<dict>",
		params: reading(map[string]string{
			"closed":   "optional bool",
			"limit":    "optional int",
			"offset":   "optional int",
			"contains": "optional string",
			"patterns": "optional list<string>",
		}),
		run: branchQuery,
	},
	"diffusion.tagsquery": {
		about: "Lists tags, the newest first.",
		gives: "list<dict>",
		params: reading(map[string]string{
			"names":        "optional list<string>",
			"commit":       "optional string",
			"needMessages": "optional bool",
			"offset":       "optional int",
			"limit":        "optional int",
		}),
		run: tagsQuery,
	},
	"diffusion.refsquery": {
		about:  "Lists the branches and tags that point at a commit.",
		gives:  "list<dict>",
		params: reading(map[string]string{"commit": "required string"}),
		run:    refsQuery,
	},
	"diffusion.resolverefs": {
		about: "Resolves names into object ids.",
		gives: "dict<string, list<dict<string, wild>>>",
		params: reading(map[string]string{
			"refs":  "required list<string>",
			"types": "optional list<string>",
		}),
		run: resolveRefs,
	},
}

// A branch is a branch as branchquery gives it.
type branch struct {
	ShortName string      `json:"shortName"`
	Commit    cluster.OID `json:"commitIdentifier"`
	RefType   string      `json:"refType"`
	RawFields rawFields   `json:"rawFields"`
}

// rawFields are named after the fields of `git for-each-ref`.
type rawFields struct {
	ObjectName cluster.OID     `json:"objectname"`
	ObjectType string          `json:"objecttype"`
	RefName    cluster.RefName `json:"refname"`
	Subject    string          `json:"subject"`
	Creator    string          `json:"creator"`
	Author     string          `json:"author"`
	Epoch      *int64          `json:"epoch"`
}

func branchQuery(ctx context.Context, q *call) (any, error) {
	contains, closed := q.text("contains"), q.truth("closed")
	query := browse.RefQuery{Prefixes: []string{branches}, ByDate: true, Limit: q.limit(maxLimit), Offset: q.offset()}
	if patterns := q.list("patterns", maxPage); len(patterns) > 0 {
		query.Prefixes = refPatterns(branches, patterns)
	}
	return q.open(ctx, func(ctx context.Context, r *browse.Repo) (_ any, err error) {
		found := []branch{}
		if closed || len(query.Prefixes) == 0 { // Git does not close branches
			return found, nil
		}
		if contains != "" {
			if query.Contains, err = commitOf(ctx, r, contains); err != nil {
				return nil, err
			}
		}
		refs, more, err := r.Refs(ctx, query)
		if err != nil {
			return nil, err
		}
		q.read.More = more
		for _, ref := range refs {
			raw := rawFields{ObjectName: ref.OID, ObjectType: ref.Type, RefName: ref.Name, Subject: ref.Subject, Author: person(ref.Author), Epoch: epoch(ref.When)}
			if raw.Epoch != nil {
				raw.Creator = fmt.Sprintf("%s %d %s", raw.Author, *raw.Epoch, ref.When.Format("-0700"))
			}
			found = append(found, branch{strings.TrimPrefix(string(ref.Name), branches), ref.Commit, "branch", raw})
		}
		return found, nil
	})
}

// refPatterns makes full names of names below a folder of refs. What cannot be a
// ref's name, and above all what Git would take for a wildcard, names nothing.
func refPatterns(folder string, names []string) (full []string) {
	for _, name := range names {
		if ref, err := cluster.ParseRefName(folder + strings.TrimSuffix(name, "/")); err == nil {
			full = append(full, string(ref))
		}
	}
	return full
}

// A tag is a tag as tagsquery gives it.
type tag struct {
	Author      string      `json:"author"`
	Epoch       *int64      `json:"epoch"`
	Commit      cluster.OID `json:"commitIdentifier"`
	Name        string      `json:"name"`
	Description string      `json:"description"`
	Type        string      `json:"type"`
	Message     *string     `json:"message,omitempty"`
}

func tagsQuery(ctx context.Context, q *call) (any, error) {
	contains, messages, names := q.text("commit"), q.truth("needMessages"), q.list("names", maxPage)
	query := browse.RefQuery{Prefixes: []string{tags}, ByDate: true, Limit: q.limit(maxLimit), Offset: q.offset()}
	if names != nil {
		query.Prefixes = refPatterns(tags, names)
	}
	return q.open(ctx, func(ctx context.Context, r *browse.Repo) (_ any, err error) {
		found := []tag{}
		if len(query.Prefixes) == 0 {
			return found, nil
		}
		if contains != "" {
			if query.Contains, err = commitOf(ctx, r, contains); err != nil {
				return nil, err
			}
		}
		query.Messages = messages
		refs, more, err := r.Refs(ctx, query)
		if err != nil {
			return nil, err
		}
		q.read.More = more
		for _, ref := range refs {
			name := strings.TrimPrefix(string(ref.Name), tags)
			if names != nil && !slices.Contains(names, name) {
				continue
			}
			t := tag{Author: person(ref.Author), Epoch: epoch(ref.When), Commit: ref.Commit, Name: name, Description: ref.Subject, Type: "git/" + ref.Type}
			if ref.Type == browse.TypeTag {
				t.Author = person(ref.Tagger)
				if messages {
					t.Message = &ref.Message
				}
			}
			found = append(found, t)
		}
		return found, nil
	})
}

func refsQuery(ctx context.Context, q *call) (any, error) {
	q.required("commit")
	return q.open(ctx, func(ctx context.Context, r *browse.Repo) (_ any, err error) {
		commit, err := q.commit(ctx, r)
		if err != nil {
			return nil, err
		}
		refs, more, err := r.Refs(ctx, browse.RefQuery{PointsAt: commit, Limit: maxLimit})
		if err != nil {
			return nil, err
		}
		q.read.More = more
		found := []map[string]any{}
		for _, ref := range refs {
			// As `git log --decorate` shows them.
			name, isTag := strings.CutPrefix(string(ref.Name), tags)
			if name = strings.TrimPrefix(name, branches); isTag {
				name = "tag: " + name
			}
			page := url.URL{Path: "/" + string(q.read.Repository) + "/-/tree/" + string(ref.Name)}
			found = append(found, map[string]any{"ref": name, "href": page.EscapedPath()})
		}
		return found, nil
	})
}

// resolveRefs finds what names lead to: branches and tags, all that bear the name,
// or else an object id or another ref. A name that leads nowhere is left out.
func resolveRefs(ctx context.Context, q *call) (any, error) {
	names, types := q.list("refs", maxPage), q.list("types", 3)
	if names == nil {
		q.wrong("refs", "it is missing")
	}
	return q.open(ctx, func(ctx context.Context, r *browse.Repo) (_ any, err error) {
		found := map[string][]map[string]any{}
		for _, name := range names {
			for _, rev := range []string{branches + name, tags + name, name} {
				if rev == name && len(found[name]) > 0 {
					break
				}
				o, err := r.Resolve(ctx, rev)
				if errors.Is(err, cluster.ErrNotFound) || errors.Is(err, browse.ErrBadQuery) {
					continue
				}
				if err != nil {
					return nil, err
				}
				if hit := resolved(o); hit != nil && (len(types) == 0 || slices.Contains(types, hit["type"].(string))) {
					found[name] = append(found[name], hit)
				}
			}
		}
		return found, nil
	})
}

// resolved describes an object that a name led to; nil if it leads to no commit.
func resolved(o browse.Object) map[string]any {
	if o.Commit == "" {
		return nil
	}
	switch {
	case strings.HasPrefix(string(o.Ref), branches):
		return map[string]any{"type": "branch", "identifier": o.Commit}
	case strings.HasPrefix(string(o.Ref), tags), o.Type == browse.TypeTag:
		return map[string]any{"type": "tag", "identifier": o.Commit, "alternate": o.OID}
	}
	return map[string]any{"type": "commit", "identifier": o.Commit}
}

// person is a signature as Git writes it, without the time.
func person(s browse.Signature) string {
	if s.Email == "" {
		return s.Name
	}
	return strings.TrimSpace(s.Name + " <" + s.Email + ">")
}

// epoch is a time in seconds since 1970, or null for none.
func epoch(t time.Time) *int64 {
	if t.IsZero() {
		return nil
	}
	seconds := t.Unix()
	return &seconds
}
