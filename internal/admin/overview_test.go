package admin

import (
	"errors"
	"testing"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/journal"
)

// TestOverviewTellsWhatOneMayKnow compares what a stranger, a user and an administrator
// are told of the same cluster.
func TestOverviewTellsWhatOneMayKnow(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"a/one", "a/two", "b/open", "b/secret"} {
		w.must(root, "repo.create", RepoCreate{Name: name, Public: name == "b/open"}, nil)
	}
	w.must(root, "grant", GrantChange{Subject: "alice", Pattern: "a/*", Role: "read"}, nil)
	two, head, err := w.Journal.Lookup(t.Context(), "a/two")
	if err != nil {
		t.Fatal(err)
	}
	for device, version := range map[cluster.DeviceName]cluster.Version{"node1": 0, "node2": 3} {
		r := journal.Replica{Repo: two.ID, Device: device}
		r.Epoch, r.Version = head.Epoch, version
		if device == "node2" {
			r.Fenced = "edited"
		}
		if err := w.Journal.ReportReplica(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if w.Rules.(*rules).old, err = w.Rules.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Overview(t.Context(), nobody, "", 10); !errors.Is(err, cluster.ErrDenied) {
		t.Errorf("a stranger: %v", err)
	}
	names := func(all []RepoOverview) (text string) {
		for _, r := range all {
			text += string(r.Name) + " "
		}
		return text
	}
	for who, want := range map[cluster.Identity]string{alice: "a/one a/two b/open ", bob: "b/open ", root: "a/one a/two b/open b/secret "} {
		o, err := w.Overview(t.Context(), who, "", 10)
		if err != nil || names(o.Repos) != want || o.Readable != len(o.Repos) || o.Next != "" {
			t.Errorf("%s is told of %q (%d), %v", who, names(o.Repos), o.Readable, err)
		}
		if len(o.Nodes) != 1 || (o.Nodes[0].Journal != "") != (who == root) || o.Admin != (who == root) {
			t.Errorf("%s is told of the nodes %+v", who, o.Nodes)
		}
		if sees := who != bob; (o.Fenced == 1) != sees || (names(o.Attention) == "a/two ") != sees {
			t.Errorf("%s is told that %d are fenced: %q", who, o.Fenced, names(o.Attention))
		}
	}
	first, err := w.Overview(t.Context(), root, "", 2)
	if err != nil || names(first.Repos) != "a/one a/two " || first.Next != "a/two" {
		t.Errorf("the first page is %q, then %q, %v", names(first.Repos), first.Next, err)
	}
	last, err := w.Overview(t.Context(), root, first.Next, 2)
	if err != nil || names(last.Repos) != "b/open b/secret " || last.Next != "" || last.Readable != 4 {
		t.Errorf("the last page is %q, then %q, %v", names(last.Repos), last.Next, err)
	}
}

// TestOverviewIsShared asks twenty times at once, and again when the answer is old.
func TestOverviewIsShared(t *testing.T) {
	w := newWorld(t)
	times, start := make(chan time.Time, 20), time.Now()
	for range 20 {
		go func() {
			o, err := w.Overview(t.Context(), root, "", 1)
			if err != nil {
				t.Error(err)
			}
			times <- o.Time
		}()
	}
	answers := map[time.Time]bool{}
	var first time.Time // the newest
	for range 20 {
		at := <-times
		if answers[at] = true; at.After(first) {
			first = at
		}
	}
	if took := time.Since(start); len(answers) > 1+int(took/time.Second) {
		t.Errorf("twenty askers have %d answers within %v", len(answers), took)
	}
	w.surveys.mu.Lock()
	w.surveys.last.at = w.surveys.last.at.Add(-time.Hour)
	w.surveys.mu.Unlock()
	again, err := w.Overview(t.Context(), root, "", 1)
	if err != nil || !again.Time.After(first) {
		t.Errorf("an hour later the answer is of %v, the first was of %v: %v", again.Time, first, err)
	}
}
