package web

import (
	"context"
	"strings"
	"sync"

	"gitcluster/internal/cluster"
	"gitcluster/internal/journal"
	"gitcluster/internal/service"
)

// reposPage lists the repositories that the visitor may read.
type reposPage struct {
	Query string
	Repos []repoRow
	First string // address of the first page, on a later one
	Next  string
}

type repoRow struct {
	Name    cluster.RepoName
	Folder  string
	Base    string
	Public  bool
	Version cluster.Version
	Address string
	Last    *service.PushRecord
}

const (
	repoRows = 50
	// lookedThrough is how many repositories one search looks at.
	lookedThrough = 20_000
)

func (a *asked) repositories(ctx context.Context) (*page, error) {
	b := reposPage{Query: clip(a.r.FormValue("q"))}
	after := cluster.RepoName(a.r.FormValue("after"))
	if after != "" {
		if _, err := cluster.ParseRepoName(string(after)); err != nil {
			return nil, err
		}
		b.First = "/" + query("q", b.Query)
	}
	found, next, err := a.matching(ctx, b.Query, after)
	if err != nil {
		return nil, err
	}
	for _, r := range found {
		row := repoRow{Name: r.Name, Public: r.Public, Version: r.Head.Version, Address: links{repo: r.Name}.Home(), Last: a.lastPush(ctx, r)}
		i := strings.LastIndexByte(string(r.Name), '/') + 1
		row.Folder, row.Base = string(r.Name[:i]), string(r.Name[i:])
		b.Repos = append(b.Repos, row)
	}
	if next != "" {
		b.Next = "/" + query("q", b.Query, "after", string(next))
	}
	return &page{template: "repos", Title: "Repositories", Body: b}, nil
}

// matching lists a page of the repositories whose names have the text in them.
func (a *asked) matching(ctx context.Context, text string, after cluster.RepoName) (found []journal.RepoHead, next cluster.RepoName, err error) {
	text = strings.ToLower(text)
	step := repoRows
	if text != "" {
		step = 1000
	}
	for looked := 0; looked < lookedThrough; {
		some, more, err := a.Repositories.Repos(ctx, a.id, after, step)
		if err != nil {
			return nil, "", err
		}
		looked += len(some)
		for _, r := range some {
			if !strings.Contains(strings.ToLower(string(r.Name)), text) {
				continue
			}
			if len(found) == repoRows {
				return found, found[repoRows-1].Name, nil
			}
			found = append(found, r)
		}
		if more == "" || text == "" {
			return found, more, nil
		}
		after = more
	}
	return found, after, nil
}

// A pushCache remembers the newest push of repositories: what a version is never
// changes.
type pushCache struct {
	mu    sync.Mutex
	known map[pushKey]*service.PushRecord
}

type pushKey struct {
	id       cluster.RepoID
	position cluster.Position
}

// mostPushes bounds the cache; a full one starts again.
const mostPushes = 10_000

// lastPush is the push that led to a repository's head, or nil. The visitor must be one
// who may read the repository.
func (a *asked) lastPush(ctx context.Context, r journal.RepoHead) *service.PushRecord {
	if r.Head.Version == 0 {
		return nil
	}
	key := pushKey{r.ID, r.Head.Position}
	a.pushes.mu.Lock()
	p := a.pushes.known[key]
	a.pushes.mu.Unlock()
	if p != nil {
		return p
	}
	log, _, err := a.Repositories.PushLog(ctx, a.id, r.Name, r.Head.Version+1, 1)
	if err != nil || len(log) == 0 || log[0].Version != r.Head.Version {
		return nil // it has just been deleted or renamed; a list can do without
	}
	a.pushes.mu.Lock()
	defer a.pushes.mu.Unlock()
	if a.pushes.known == nil || len(a.pushes.known) >= mostPushes {
		a.pushes.known = map[pushKey]*service.PushRecord{}
	}
	a.pushes.known[key] = &log[len(log)-1]
	return &log[len(log)-1]
}
