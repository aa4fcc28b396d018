package web

import (
	"context"
	"errors"
	"strings"
	"sync"

	"gitcluster/internal/browse"
	"gitcluster/internal/cluster"
)

// A spot is where in a repository a page is: what its head line shows.
type spot struct {
	Rev    string // for addresses
	Name   string // for people
	Kind   string // branch, tag, ref or commit
	Path   string
	Crumbs []crumb
	Commit cluster.OID
	Choice choice
	Link   links
}

// A choice lists some revisions to look at instead.
type choice struct {
	Branches, Tags         []revLink
	MoreBranches, MoreTags bool
}

type revLink struct {
	Name, Address string
	Here          bool
}

// choices is how many branches and tags are offered without going to their pages.
const choices = 20

// spot says where the page is; address makes that of the same page for another
// revision.
func (v *visit) spot(ctx context.Context, address func(rev, path string) string) (spot, error) {
	s := spot{Rev: v.rev, Name: strings.TrimPrefix(strings.TrimPrefix(string(v.at.Ref), "refs/heads/"), "refs/tags/"), Kind: "commit", Path: v.path, Crumbs: crumbs(v.path), Commit: v.at.Commit, Link: v.link}
	switch {
	case v.at.Ref.IsBranch():
		s.Kind = "branch"
	case strings.HasPrefix(string(v.at.Ref), "refs/tags/"):
		s.Kind = "tag"
	case v.at.Ref != "":
		s.Kind = "ref"
	default:
		s.Name = short(v.at.OID)
	}
	lists, err := v.newestRefs(ctx)
	if err != nil {
		return s, err
	}
	link := func(refs []browse.Ref, folder string) (all []revLink) {
		for _, ref := range refs {
			all = append(all, revLink{strings.TrimPrefix(string(ref.Name), folder), address(lists.names[ref.Name], v.path), ref.Name == v.at.Ref})
		}
		return all
	}
	s.Choice = choice{Branches: link(lists.branches, "refs/heads/"), Tags: link(lists.tags, "refs/tags/"), MoreBranches: lists.moreBranches, MoreTags: lists.moreTags}
	return s, nil
}

// newest is the newest branches and tags of a repository at one position, and
// what names each in an address.
type newest struct {
	branches, tags         []browse.Ref
	moreBranches, moreTags bool
	names                  map[cluster.RefName]string
}

// A refCache remembers them: to find the newest of many refs, Git reads them all,
// and every page offers them.
type refCache struct {
	mu    sync.Mutex
	known map[pushKey]*newest
}

// mostNewest bounds the cache; a full one starts again.
const mostNewest = 500

func (v *visit) newestRefs(ctx context.Context) (*newest, error) {
	key := pushKey{v.view.Repo.ID, v.view.Applied}
	v.refLists.mu.Lock()
	found := v.refLists.known[key]
	v.refLists.mu.Unlock()
	if found != nil {
		return found, nil
	}
	found = &newest{}
	var err error
	q := browse.RefQuery{ByDate: true, Limit: choices, Prefixes: []string{"refs/heads/"}}
	if found.branches, found.moreBranches, err = v.git.Refs(ctx, q); err == nil {
		q.Prefixes = []string{"refs/tags/"}
		found.tags, found.moreTags, err = v.git.Refs(ctx, q)
	}
	if errors.Is(err, browse.ErrTooLong) && ctx.Err() == nil {
		return &newest{moreBranches: true, moreTags: true}, nil // the page does without
	}
	if err == nil {
		found.names, err = v.revNames(ctx, append(found.branches[:len(found.branches):len(found.branches)], found.tags...))
	}
	if err != nil {
		return nil, err
	}
	v.refLists.mu.Lock()
	defer v.refLists.mu.Unlock()
	if v.refLists.known == nil || len(v.refLists.known) >= mostNewest {
		v.refLists.known = map[pushKey]*newest{}
	}
	v.refLists.known[key] = found
	return found, nil
}

// revNames gives each branch or tag a name that means it and nothing else in an address: the short one,
// or "heads/…" and "tags/…" where a branch and a tag share theirs, or it looks like something else.
func (v *visit) revNames(ctx context.Context, refs []browse.Ref) (map[cluster.RefName]string, error) {
	names := make(map[cluster.RefName]string, len(refs))
	var twins []string
	for _, ref := range refs {
		kind, name, _ := strings.Cut(strings.TrimPrefix(string(ref.Name), "refs/"), "/")
		other := "refs/tags/"
		if kind == "tags" {
			other = "refs/heads/"
		}
		twins = append(twins, other+name)
		names[ref.Name] = name
		first, _, _ := strings.Cut(name, "/")
		_, isID := cluster.ParseOID(name)
		if isID == nil || name == cluster.Head || first == "refs" || first == "heads" || first == "tags" {
			names[ref.Name] = kind + "/" + name
		}
	}
	if len(twins) == 0 {
		return names, nil
	}
	there, _, err := v.git.Refs(ctx, browse.RefQuery{Prefixes: twins, Limit: 1000})
	if err != nil {
		return nil, err
	}
	for _, twin := range there {
		kind, name, _ := strings.Cut(strings.TrimPrefix(string(twin.Name), "refs/"), "/")
		for _, other := range []string{"heads", "tags"} {
			ref := cluster.RefName("refs/" + other + "/" + name)
			if _, ok := names[ref]; ok && other != kind {
				names[ref] = other + "/" + name
			}
		}
	}
	return names, nil
}
