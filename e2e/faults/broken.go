package main

import (
	"time"

	"gitcluster/e2e/faults/failpoint"
)

// An engine that breaks a promise, and a run that is soon to meet it.
type wrong struct {
	patches []patch
	plan    Plan
	takes   time.Duration // how long a run must be to meet it; 0: a quarter of a minute
}

// broken are such engines by name.
var broken = map[string]wrong{
	// A push is acknowledged before the journal has decided. So another one must come
	// first while it is about to be decided.
	"acknowledge-first": {[]patch{
		{"internal/engine/commit.go", "head, err := e.Journal.Append(", "b.acknowledge()\nhead, err := e.Journal.Append("},
		{"internal/engine/commit.go", "p.results, p.err = results, err\n", "select {\ncase <-p.done:\nreturn\ndefault:\n}\np.results, p.err = results, err\n"},
	}, Plan{Only: []string{"step"}, Points: []string{"prepared"}, Actions: []string{failpoint.Stop, failpoint.Wait}, Aim: hot, Reads: 10}, 0},
	// A reader gets the replica as it is. So replicas must take their time.
	"no-sync": {[]patch{
		{"internal/engine/engine.go", "if err := e.reach(ctx, r, at.Head, tell); err != nil {", "if r.noteHead(at.Head); r.isLoaded() && r.fence() == nil {\n} else if err := e.reach(ctx, r, at.Head, tell); err != nil {"},
	}, Plan{Only: []string{"step"}, Points: []string{"fetched"}, Actions: []string{failpoint.Wait}, Aim: hot}, 0},
	// Of several entries that were missed, the first one's value stays. So a replica
	// must miss several of one ref.
	"out-of-order": {[]patch{
		{"internal/engine/catchup.go", "m.last[u.Ref] = u.New\n", "if _, there := m.last[u.Ref]; !there {\nm.last[u.Ref] = u.New\n}\n"},
	}, Plan{Only: []string{"kill"}, Aim: apart, Reads: 5, Longer: 3}, 0},
	// A copy is confirmed that was never stored. So the disks must be looked at before
	// the replica catches up.
	"empty-copy": {[]patch{
		{"internal/engine/take.go", "if err := repo.ReadPack(ctx, pack, o.Wants, haves); err != nil {", "if true {\nio.Copy(io.Discard, pack)\nreturn e.Incarnation, nil\n}\nif err := repo.ReadPack(ctx, pack, o.Wants, haves); err != nil {"},
	}, Plan{Only: []string{"step"}, Points: []string{"missed"}, Actions: []string{failpoint.Stop, failpoint.Wait}, Looks: 100}, 0},
	// Nobody else has the objects of a push.
	"one-copy": {[]patch{
		{"internal/engine/copies.go", "p.need = (len(peers)+1)/2 + 1", "p.need = 1"},
	}, Plan{Only: []string{"pause"}, Looks: 100, Pause: 4 * time.Second}, 0},
	// A lost answer of the journal is taken for a refusal.
	"guess": {[]patch{
		{"internal/journal/append.go", "case !unclear && refused(err):", "case !unclear && err != nil:"},
	}, Plan{Only: []string{"step"}, Points: []string{"answer"}, Actions: []string{failpoint.Lose}, Reads: 10}, 0},
	// Names of files are not synced. So nodes must lose their power, and that at a time
	// when something depends on it.
	"nameless": {[]patch{
		{"internal/repository/sync.go", "func syncPath(path string) error {\n", "func syncPath(path string) error {\nreturn nil\n"},
		{"internal/durable/durable.go", "func SyncDir(dir string) error {\n", "func SyncDir(dir string) error {\nreturn nil\n"},
	}, Plan{Only: []string{"power cut", "power loss", "step"}, Points: []string{"appended", "written", "applied", "taken"}, Actions: []string{powerLoss}, Reads: 20, Pause: 4 * time.Second}, 0},
	// A push waits for every node. So one must be away, and somebody must want to push.
	"all-or-none": {[]patch{
		{"internal/engine/copies.go", "p.need = (len(peers)+1)/2 + 1", "p.need = len(peers) + 1"},
	}, Plan{Only: []string{oneFaulty}, Reads: 50}, 50 * time.Second},
	// What was set aside is removed without a look at who came to need it. So that must
	// be old, be needed again, and just then.
	"careless": {[]patch{
		{"internal/engine/housekeeping.go", "if needed[name] {", "if needed[name] && false {"},
	}, Plan{Only: []string{"step"}, Points: []string{"discarding"}, Actions: []string{failpoint.Wait}, Upkeep: 50, Unreached: 100 * time.Millisecond, Leftovers: 80}, 0},
}
