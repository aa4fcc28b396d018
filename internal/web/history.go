package web

import (
	"context"
	"strconv"
	"time"

	"gitcluster/internal/browse"
	"gitcluster/internal/cluster"
)

// historyPage lists commits.
type historyPage struct {
	Spot         spot
	Days         []day
	Newer, Older string // addresses of the pages beside
	Query        string // part of the message that was asked for
	Author       string
	Filtered     bool
	Cut          bool // the search was given up before its end
	Form         string
}

// A day is the commits of one date, as their committers had it.
type day struct {
	Date    time.Time
	Commits []browse.Commit
}

const historyRows = 50

func (v *visit) history(ctx context.Context, rest string) (*page, error) {
	if err := v.locate(ctx, rest); err != nil {
		return nil, err
	}
	if v.at.Commit == "" {
		return nil, cluster.ErrNotFound
	}
	b := historyPage{Query: clip(v.r.FormValue("q")), Author: clip(v.r.FormValue("author")), Form: v.link.History(v.rev, v.path)}
	b.Filtered = b.Query != "" || b.Author != ""
	var err error
	if b.Spot, err = v.spot(ctx, v.link.History); err != nil {
		return nil, err
	}
	skip, _ := strconv.Atoi(v.r.FormValue("skip"))
	skip = max(0, skip)
	q := browse.HistoryQuery{From: []cluster.OID{v.at.Commit}, Offset: skip, Limit: historyRows, Author: b.Author, Grep: b.Query}
	if v.path != "" {
		q.Paths = []string{v.path}
	}
	commits, more, err := v.git.History(ctx, q)
	if b.Cut, err = cutShort(err); err != nil {
		return nil, err
	}
	b.Days = byDay(commits)
	at := func(skip int) string {
		text := ""
		if skip > 0 {
			text = strconv.Itoa(skip)
		}
		return v.link.page("history", below(v.rev, v.path), "skip", text, "q", b.Query, "author", b.Author)
	}
	if skip > 0 {
		b.Newer = at(max(0, skip-historyRows))
	}
	if more {
		b.Older = at(skip + historyRows)
	}
	return &page{template: "history", Title: "History of " + v.title(), Body: b}, nil
}

func byDay(commits []browse.Commit) (days []day) {
	for _, c := range commits {
		date := c.Committer.When
		if n := len(days); n == 0 || days[n-1].Date.Format(time.DateOnly) != date.Format(time.DateOnly) {
			days = append(days, day{Date: date})
		}
		last := &days[len(days)-1]
		last.Commits = append(last.Commits, c)
	}
	return days
}

// commitPage shows one commit and what it changed.
type commitPage struct {
	Commit browse.Commit
	Body   string // the message without its subject
	Diff   diffView
	Only   string // the one file that is shown
	All    string // the address that shows all
	Link   links
}

func (v *visit) commit(ctx context.Context, rest string) (*page, error) {
	if err := v.locate(ctx, rest); err != nil {
		return nil, err
	}
	if v.path != "" || v.at.Commit == "" {
		return nil, cluster.ErrNotFound
	}
	v.rev = string(v.at.Commit)
	c, err := v.git.Commit(ctx, v.at.Commit)
	if err != nil {
		return nil, err
	}
	b := commitPage{Commit: c, Body: messageBody(c), Only: v.r.FormValue("file"), All: v.link.Commit(c.OID), Link: v.link}
	q := browse.DiffQuery{New: c.OID}
	if b.Diff, err = v.diff(ctx, q, b.Only, func(path string) string { return v.link.Change(c.OID, path) }); err != nil {
		return nil, err
	}
	return &page{template: "commit", Title: c.Subject + " (" + short(c.OID) + ")", Body: b}, nil
}

// comparePage shows what one revision has that another lacks.
type comparePage struct {
	Old, New string
	Choice   choice
	Asked    bool
	Wrong    string // the revision that is not there
	Commits  []browse.Commit
	More     bool
	Ahead    int
	Behind   int
	NoBase   bool // the two share no history
	Diff     diffView
	Only     string
	All      string
	Swap     string
	Link     links
}

const comparedCommits = 100

func (v *visit) compare(ctx context.Context, rest string) (*page, error) {
	if err := v.locateHead(ctx); err != nil {
		return nil, err
	}
	b := comparePage{Old: v.rev, Link: v.link}
	s, err := v.spot(ctx, func(rev, _ string) string { return rev })
	if err != nil {
		return nil, err
	}
	b.Choice, v.rev = s.Choice, ""
	if rest == "" {
		if old, new := v.r.FormValue("old"), v.r.FormValue("new"); old != "" && new != "" { // from the form
			rest = old + "..." + new
		}
	}
	if rest == "" {
		return &page{template: "compare", Title: "Compare", Body: b}, nil
	}
	b.Asked = true
	var old, new browse.Object
	if b.Old, b.New, err = v.bothEnds(ctx, rest, &old, &new); err != nil {
		if !notFound(err) {
			return nil, err
		}
		b.Wrong = "One of these is no branch, tag or commit of this repository."
		return &page{template: "compare", status: 404, Title: "Compare", Body: b}, nil
	}
	b.Swap = v.link.Compare(b.New, b.Old)
	b.All = v.link.Compare(b.Old, b.New)
	b.Only = v.r.FormValue("file")
	if b.Commits, b.More, err = v.git.History(ctx, browse.HistoryQuery{From: []cluster.OID{new.Commit}, Not: []cluster.OID{old.Commit}, Limit: comparedCommits}); err != nil {
		return nil, err
	}
	if b.Ahead, b.Behind, err = v.git.Count(ctx, new.Commit, old.Commit); err != nil {
		return nil, err
	}
	base, err := v.git.MergeBase(ctx, old.Commit, new.Commit)
	if notFound(err) {
		b.NoBase, base = true, old.Commit
	} else if err != nil {
		return nil, err
	}
	b.Diff, err = v.diff(ctx, browse.DiffQuery{Old: base, New: new.Commit}, b.Only, func(path string) string {
		return v.link.page("compare", b.Old+"..."+b.New, "file", path)
	})
	return &page{template: "compare", Title: b.Old + "..." + b.New, Body: b}, err
}
