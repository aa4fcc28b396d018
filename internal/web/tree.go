package web

import (
	"context"
	"fmt"
	"path"
	"strings"

	"gitcluster/internal/browse"
)

// treePage shows a directory.
type treePage struct {
	Spot     spot
	Home     bool
	Parent   string // address of the directory above
	Last     browse.Commit
	Entries  []treeEntry
	Cut      bool // there are more
	Readme   *document
	Clone    []cloneURL
	Complete bool // every entry has its last change
}

type treeEntry struct {
	browse.Entry
	Address string
	Last    browse.Commit // zero where it is not known
}

// mostEntries bounds a page's rows; a directory of more is cut.
const mostEntries = 2000

func (v *visit) home(ctx context.Context, _ string) (*page, error) {
	if err := v.locateHead(ctx); err != nil {
		return nil, err
	}
	if v.at.Commit == "" {
		refs, _, err := v.git.Refs(ctx, browse.RefQuery{Limit: 1})
		if err != nil {
			return nil, err
		}
		return &page{template: "empty", Body: emptyPage{v.rev, len(refs) > 0, v.cloneURLs(), v.link}}, nil
	}
	return v.directory(ctx, true)
}

// emptyPage shows a repository whose default branch does not exist.
type emptyPage struct {
	Branch string
	Others bool // there are other refs
	Clone  []cloneURL
	Link   links
}

func (v *visit) tree(ctx context.Context, rest string) (*page, error) {
	if err := v.locate(ctx, rest); err != nil {
		return nil, err
	}
	return v.directory(ctx, false)
}

func (v *visit) directory(ctx context.Context, home bool) (*page, error) {
	tree, err := v.git.Tree(ctx, v.root(), v.path)
	if err != nil {
		return nil, err
	}
	b := treePage{Home: home, Cut: tree.Truncated || len(tree.Entries) > mostEntries, Clone: v.cloneURLs(), Complete: true}
	if b.Spot, err = v.spot(ctx, v.link.Tree); err != nil {
		return nil, err
	}
	if v.path != "" {
		parent := path.Dir(v.path)
		if parent == "." {
			parent = ""
		}
		b.Parent = v.link.Tree(v.rev, parent)
	}
	var last map[string]browse.Commit
	if v.at.Commit != "" {
		if b.Last, err = v.git.Commit(ctx, v.at.Commit); err != nil {
			return nil, err
		}
		if last, b.Complete, err = v.git.LastModified(ctx, v.at.Commit, v.path, nil); err != nil {
			return nil, err
		}
	}
	for _, e := range tree.Entries[:min(len(tree.Entries), mostEntries)] {
		b.Entries = append(b.Entries, treeEntry{e, v.entryAddress(e), last[e.Name]})
	}
	if b.Readme, err = v.readme(ctx, tree.Entries); err != nil {
		return nil, err
	}
	title := ""
	if !home {
		title = v.title()
	}
	return &page{template: "tree", Title: title, Body: b}, nil
}

// title names what is shown for the browser's window.
func (v *visit) title() string {
	if v.path == "" {
		return v.rev
	}
	return fmt.Sprintf("%s at %s", v.path, v.rev)
}

func (v *visit) entryAddress(e browse.Entry) string {
	at := under(v.path, e.Name)
	switch e.Type {
	case browse.TypeTree:
		return v.link.Tree(v.rev, at)
	case browse.TypeBlob:
		return v.link.File(v.rev, at)
	}
	return ""
}

// A cloneURL is an address for `git clone`.
type cloneURL struct{ Label, URL string }

func (v *visit) cloneURLs() []cloneURL {
	name := string(v.view.Repo.Name)
	all := []cloneURL{{"Any node", "cluster::" + name}}
	if v.HTTP != "" {
		all = append(all, cloneURL{"HTTPS", "https://" + v.HTTP + "/" + escapePath(name) + ".git"})
	}
	if v.SSH != "" {
		all = append(all, cloneURL{"SSH", "ssh://git@" + v.SSH + "/" + escapePath(name)})
	}
	return all
}

// readme finds the file that introduces a directory.
func (v *visit) readme(ctx context.Context, entries []browse.Entry) (*document, error) {
	best, rank := "", 0
	for _, e := range entries {
		if e.Type != browse.TypeBlob || e.Mode == browse.ModeSymlink {
			continue
		}
		r := 0
		switch name := strings.ToLower(e.Name); name {
		case "readme.md", "readme.markdown":
			r = 3
		case "readme.txt", "readme":
			r = 2
		default:
			if strings.HasPrefix(name, "readme.") {
				r = 1
			}
		}
		if r > rank {
			best, rank = e.Name, r
		}
	}
	if best == "" {
		return nil, nil
	}
	at := under(v.path, best)
	file, err := v.git.File(ctx, v.root(), at, mostReadme+1)
	if notFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return v.document(ctx, at, file), nil
}

// under is the path of a name in a directory.
func under(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}
