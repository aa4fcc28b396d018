package web

import (
	"context"
	"errors"
	"net/http"
	"path"
	"strings"
	"time"

	"gitcluster/internal/browse"
	"gitcluster/internal/cluster"
	"gitcluster/internal/engine"
	"gitcluster/internal/service"
)

// A visit is one request for a page of a repository that has been synchronized.
type visit struct {
	*asked
	view engine.View
	git  *browse.Repo
	link links

	// What the address names, where it names a revision.
	rev  string // as it was written, or the default branch
	at   browse.Object
	path string
}

// A header is what every page of a repository shows.
type header struct {
	Folder  string // of the repository's name, with its slash
	Base    string // the rest of it
	Public  bool
	Tab     string
	Rev     string // for the tabs; "" for the default branch
	Link    links
	Version cluster.Version
	Stale   bool
	Waited  time.Duration
	Fresh   string // where to see the same, synchronized
}

// repository answers with a page of a repository.
func (a *asked) repository(ctx context.Context, address string) error {
	repo, action, rest, err := split(address)
	if err != nil {
		return err
	}
	if action == "" && (strings.HasSuffix(address, "/") || strings.HasSuffix(repo, ".git")) {
		// As an address for Git has it. Only a good name is led on, so this leads nowhere else.
		name, err := cluster.ParseRepoName(strings.TrimSuffix(repo, ".git"))
		if err != nil {
			return err
		}
		a.redirect(http.StatusMovedPermanently, links{repo: name}.Home())
		return nil
	}
	name, err := cluster.ParseRepoName(repo)
	if err != nil {
		return err
	}
	if action == "raw" {
		return a.raw(name, rest)
	}
	show, ok := map[string]func(*visit, context.Context, string) (*page, error){
		"":         (*visit).home,
		"tree":     (*visit).tree,
		"file":     (*visit).file,
		"blame":    (*visit).blame,
		"history":  (*visit).history,
		"commit":   (*visit).commit,
		"compare":  (*visit).compare,
		"branches": (*visit).branches,
		"tags":     (*visit).tags,
		"search":   (*visit).search,
		"log":      (*visit).log,
	}[action]
	if !ok {
		return cluster.ErrNotFound
	}
	var body []byte
	var status int
	err = a.visit(ctx, name, "page", func(ctx context.Context, v *visit) error {
		p, err := show(v, ctx, rest)
		if err != nil || p == nil {
			return err
		}
		status = p.status
		v.dress(p)
		body, err = a.render(p)
		return err
	})
	// It is written when the replica is free for others: a visitor may be slow.
	if err == nil && body != nil {
		a.write(status, body)
	}
	return err
}

// visit synchronizes a repository and has do look at it.
func (a *asked) visit(ctx context.Context, name cluster.RepoName, what string, do func(context.Context, *visit) error) error {
	q := &service.Request{Identity: a.id, Repo: name, Front: "web", Remote: a.remote}
	if a.r.FormValue("stale") == "1" {
		q.Freshness = cluster.StaleOK
	}
	return a.Repositories.Read(ctx, q, what, func(ctx context.Context, view engine.View) error {
		return do(ctx, &visit{asked: a, view: view, git: a.Browser.Open(view.Dir, view.Repo.Format),
			link: links{view.Repo.Name, q.Freshness == cluster.StaleOK}})
	})
}

// dress gives a page what all pages of a repository show.
func (v *visit) dress(p *page) {
	name := string(v.view.Repo.Name)
	folder, base := path.Split(name)
	h := &header{Folder: folder, Base: base, Public: v.view.Repo.Public, Tab: p.tab(), Rev: v.rev, Link: v.link,
		Version: v.view.Applied.Version, Stale: v.view.Stale, Waited: v.view.Waited.Round(time.Millisecond)}
	if v.view.Stale {
		q := v.r.URL.Query()
		q.Del("stale")
		h.Fresh = escapePath(v.r.URL.Path)
		if len(q) > 0 {
			h.Fresh += "?" + q.Encode()
		}
	}
	p.Repo = h
	if p.Title == "" {
		p.Title = name
	} else {
		p.Title += " · " + name
	}
}

// tab is the tab that a page belongs to.
func (p *page) tab() string {
	switch p.template {
	case "tree", "file", "blame", "empty":
		return "files"
	case "commit":
		return "history"
	}
	return p.template
}

func (a *asked) redirect(status int, to string) {
	a.w.Header().Set("Location", to)
	a.w.WriteHeader(status)
}

// locate finds what "REV/PATH" names.
func (v *visit) locate(ctx context.Context, revAndPath string) (err error) {
	if revAndPath == "" {
		return v.locateHead(ctx)
	}
	v.at, v.rev, v.path, err = v.git.ResolvePath(ctx, revAndPath)
	return err
}

// locateHead finds the default branch, which in an empty repository has no commit.
func (v *visit) locateHead(ctx context.Context) error {
	head, commit, err := v.git.Head(ctx)
	if err != nil {
		return err
	}
	v.rev = strings.TrimPrefix(string(head), "refs/heads/")
	v.at = browse.Object{OID: commit, Commit: commit, Type: browse.TypeCommit, Ref: head}
	return nil
}

// root is the object whose tree is shown: a commit, or a tagged tree.
func (v *visit) root() cluster.OID {
	if v.at.Commit != "" {
		return v.at.Commit
	}
	return v.at.OID
}

// A crumb is one step of a path.
type crumb struct{ Name, Path string }

func crumbs(path string) (all []crumb) {
	if path == "" {
		return nil
	}
	for i := 0; i <= len(path); i++ {
		if i == len(path) || path[i] == '/' {
			start := strings.LastIndexByte(path[:i], '/') + 1
			all = append(all, crumb{path[start:i], path[:i]})
		}
	}
	return all
}

func short(oid cluster.OID) string { return string(oid[:min(10, len(oid))]) }

func notFound(err error) bool { return errors.Is(err, cluster.ErrNotFound) }
