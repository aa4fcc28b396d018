package web

import (
	"context"
	"strconv"
	"strings"

	"gitcluster/internal/browse"
	"gitcluster/internal/cluster"
	"gitcluster/internal/service"
)

// refsPage lists branches or tags.
type refsPage struct {
	Rows         []refRow
	ByName       bool
	Order        string // address of the same in the other order
	Newer, Older string
	Link         links
}

type refRow struct {
	browse.Ref
	Short   string
	Rev     string // what names it in an address
	Default bool
	Who     string
}

const refRows = 100

func (v *visit) branches(ctx context.Context, rest string) (*page, error) {
	return v.refs(ctx, rest, "branches", "refs/heads/")
}

func (v *visit) tags(ctx context.Context, rest string) (*page, error) {
	return v.refs(ctx, rest, "tags", "refs/tags/")
}

func (v *visit) refs(ctx context.Context, rest, what, folder string) (*page, error) {
	if rest != "" {
		return nil, cluster.ErrNotFound
	}
	head, _, err := v.git.Head(ctx)
	if err != nil {
		return nil, err
	}
	skip, _ := strconv.Atoi(v.r.FormValue("skip"))
	b := refsPage{ByName: v.r.FormValue("order") == "name", Link: v.link}
	refs, more, err := v.git.Refs(ctx, browse.RefQuery{Prefixes: []string{folder}, ByDate: !b.ByName, Offset: max(0, skip), Limit: refRows})
	if err != nil {
		return nil, err
	}
	names, err := v.revNames(ctx, refs)
	if err != nil {
		return nil, err
	}
	for _, ref := range refs {
		who := ref.Author.Name
		if ref.Tagger.Name != "" {
			who = ref.Tagger.Name
		}
		b.Rows = append(b.Rows, refRow{ref, strings.TrimPrefix(string(ref.Name), folder), names[ref.Name], ref.Name == head, who})
	}
	order, other := "", "name"
	if b.ByName {
		order, other = "name", ""
	}
	at := func(skip int) string {
		if skip <= 0 {
			return v.link.page(what, "", "order", order)
		}
		return v.link.page(what, "", "order", order, "skip", strconv.Itoa(skip))
	}
	b.Order = v.link.page(what, "", "order", other)
	if skip > 0 {
		b.Newer = at(skip - refRows)
	}
	if more {
		b.Older = at(max(0, skip) + refRows)
	}
	title := strings.ToUpper(what[:1]) + what[1:]
	return &page{template: what, Title: title, Body: b}, nil
}

// logPage lists pushes.
type logPage struct {
	Pushes []service.PushRecord
	First  string
	Older  string
	Link   links
}

const pushRows = 50

func (v *visit) log(ctx context.Context, rest string) (*page, error) {
	if rest != "" {
		return nil, cluster.ErrNotFound
	}
	before, _ := strconv.ParseUint(v.r.FormValue("before"), 10, 63)
	pushes, next, err := v.Repositories.PushLog(ctx, v.id, v.view.Repo.Name, cluster.Version(before), pushRows)
	if err != nil {
		return nil, err
	}
	b := logPage{Pushes: pushes, Link: v.link}
	if before > 0 {
		b.First = v.link.Page("log")
	}
	if next != 0 {
		b.Older = v.link.page("log", "", "before", strconv.FormatUint(uint64(next), 10))
	}
	return &page{template: "log", Title: "Pushes", Body: b}, nil
}
