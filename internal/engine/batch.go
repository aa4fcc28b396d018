package engine

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/journal"
	"gitcluster/internal/repository"
)

// A batch is the pushes that one entry will hold. Admitting a push applies it to
// the table at once, so that the next is judged against it; undo takes all of
// that back.
type batch struct {
	table    *repository.RefTable
	members  []*pending
	results  [][]cluster.RefResult // of each member
	updates  []cluster.RefUpdate   // of all members, in their order
	prepared []cluster.RefUpdate   // those that Git locks before the journal is asked
	deferred []cluster.RefUpdate   // those it cannot lock until a deletion is written
	records  []journal.Push
	counted  []journal.Counted // the nodes that hold the objects of all members
	need     int               // how many of them the member needs that needs most
	head     cluster.RefName
	oldHead  cluster.RefName
}

// admit judges the waiting pushes, in order, against what the replica shows.
// The first joins the batch whatever becomes of it; another joins only if
// everything in it is accepted and nothing in it depends on the batch, because a
// refusal must not rest on an entry that may yet fail. The rest wait for the next batch.
func (e *Engine) admit(r *replica, waiting []*pending) (*batch, []*pending) {
	r.used = time.Now()
	r.table.Try()
	b := &batch{table: r.table, oldHead: r.table.Head()}
	touched := map[cluster.RefName]bool{}
	var rest []*pending
	for i, p := range waiting {
		if p.Head != "" && r.table.Get(p.Head) == "" && r.table.CountBelow("refs/heads") > 0 {
			p.end(nil, fmt.Errorf("there is no branch %q: %w", p.Head, cluster.ErrNotFound))
			continue
		}
		if i > 0 && (len(rest) > 0 || !joinable(p, b, touched)) {
			rest = append(rest, p)
			continue
		}
		results, accepted := judge(r.table, p)
		if i > 0 && len(accepted) < len(p.Updates) {
			b.revert(accepted)
			rest = append(rest, p)
			continue
		}
		if i == 0 {
			b.counted = p.copies.counted()
		} else {
			b.counted = common(b.counted, p.copies.counted())
		}
		b.need = max(b.need, p.need)
		b.members = append(b.members, p)
		b.results = append(b.results, results)
		if len(accepted) > 0 || p.Head != "" {
			b.records = append(b.records, journal.Push{ID: p.ID, Actor: p.Actor.String(), Refs: len(accepted)})
		}
		b.updates = append(b.updates, accepted...)
		for _, u := range accepted {
			touched[u.Ref] = true
		}
	}
	b.chooseHead()
	b.prepared, b.deferred = splitClashing(b.updates)
	return b, rest
}

// joinable reports whether p may share an entry with what is in the batch: no
// ref in common, enough nodes that hold the objects of both, and no deletion on either side, so that no name of one can clash
// with a name of the other.
func joinable(p *pending, b *batch, touched map[cluster.RefName]bool) bool {
	for _, u := range p.Updates {
		if touched[u.Ref] || u.New.IsZero() {
			return false
		}
	}
	for _, u := range b.updates {
		if u.New.IsZero() {
			return false
		}
	}
	if len(common(b.counted, p.copies.counted())) < max(b.need, p.need) {
		return false
	}
	return p.Head == "" && !slices.ContainsFunc(b.members, func(m *pending) bool { return m.Head != "" })
}

// judge checks a push against the table and applies what it accepts to it. A
// bad update fails alone, or with all others of an atomic push.
func judge(table *repository.RefTable, p *pending) ([]cluster.RefResult, []cluster.RefUpdate) {
	refused := map[int]string{}
	if size(p.Updates) > maxEntry {
		return refuseAll(p.Updates, "too many refs in one push; push fewer at a time"), nil
	}
	for i, u := range p.Updates {
		if why := p.faults[u.Ref]; why != "" {
			refused[i] = why
		}
	}
	accepted := tryUpdates(table, p.Updates, refused)
	if p.Atomic && len(refused) > 0 {
		undo(table, accepted)
		accepted = nil
	}
	return results(p.Push, refused), accepted
}

// maxEntry bounds the bytes of one push's updates in the journal, about 150,000
// refs with usual names. The journal's servers hold every entry in memory for a
// moment, and so does every replica that replays it.
const maxEntry = 32 << 20

func size(updates []cluster.RefUpdate) (bytes int) {
	for _, u := range updates {
		bytes += len(u.Ref) + len(u.Old) + len(u.New) + len(`{"ref":"","old":"","new":""},`)
	}
	return bytes
}

// tryUpdates applies to the table what it can of updates, deletions first, and
// notes in refused what it cannot.
func tryUpdates(table *repository.RefTable, updates []cluster.RefUpdate, refused map[int]string) (accepted []cluster.RefUpdate) {
	// Git matches the answers by name, so of a ref that occurs twice no update
	// can be accepted: the refusal of one would be told for the other.
	times := map[cluster.RefName]int{}
	for _, u := range updates {
		times[u.Ref]++
	}
	for _, deleting := range []bool{true, false} {
		for i, u := range updates {
			if u.New.IsZero() != deleting || refused[i] != "" {
				continue
			}
			if why := check(table, u, times[u.Ref] > 1); why != "" {
				refused[i] = why
				continue
			}
			if table.Get(u.Ref) == u.New || u.New.IsZero() && table.Get(u.Ref) == "" {
				continue // nothing changes: accepted without an entry
			}
			table.Set(u.Ref, u.New)
			accepted = append(accepted, u)
		}
	}
	return accepted
}

// check gives the reason why the table does not allow the update, in the words
// that Git's own receive-pack or client uses for it, or "".
func check(table *repository.RefTable, u cluster.RefUpdate, repeated bool) string {
	now := table.Get(u.Ref)
	switch _, err := cluster.ParseRefName(string(u.Ref)); {
	case err != nil:
		return "funny refname"
	case u.Ref.IsHidden():
		return "deny updating a hidden ref"
	case repeated:
		return "multiple updates for one ref"
	case u.New.IsZero() && u.Ref == table.Head() && now != "":
		return "deletion of the current branch prohibited"
	case u.New.IsZero() && now == "" && u.Old.IsZero():
		return "" // Git lets a client delete what neither side has
	case u.Old.IsZero() && now != "" && now != u.New:
		return "reference already exists"
	case !u.Old.IsZero() && now == "":
		return "stale info"
	case now != "" && now != u.Old && u.New.IsZero():
		return "stale info"
	case now != "" && now != u.Old && now != u.New:
		return "fetch first"
	}
	if !u.New.IsZero() {
		if _, why := table.Clash(u.Ref); why != "" {
			return why + "; cannot create '" + string(u.Ref) + "'"
		}
	}
	return ""
}

func results(p Push, refused map[int]string) []cluster.RefResult {
	all := make([]cluster.RefResult, len(p.Updates))
	for i, u := range p.Updates {
		all[i] = cluster.RefResult{Ref: u.Ref, Refused: refused[i]}
		if p.Atomic && len(refused) > 0 && refused[i] == "" {
			all[i].Refused = "atomic push failure"
		}
	}
	return all
}

// rehearsals bounds how often Git is asked for the bad refs of one batch.
const rehearsals = 64

// findFaults asks Git which updates it refuses by themselves, and why: it knows
// what an object is and whether it exists. That is asked for all at once; what
// else there may be is found by halving the list, which is bounded, because all others
// wait meanwhile.
func (e *Engine) findFaults(r *replica, b *batch) (map[cluster.RefName]string, error) {
	why, err := r.repo.CheckValues(e.ctx, b.updates)
	if err != nil || len(why) > 0 {
		return why, err
	}
	left := rehearsals
	var search func(part []cluster.RefUpdate) error
	search = func(part []cluster.RefUpdate) error {
		if left--; left < 0 {
			return errors.New("git refuses too many of the refs; push fewer at a time")
		}
		err := e.rehearse(r, part)
		switch {
		case err == nil:
			return nil
		case len(part) == 1:
			why[part[0].Ref] = err.Error()
			return nil
		}
		half := len(part) / 2
		return errors.Join(search(part[:half]), search(part[half:]))
	}
	return why, search(b.prepared)
}

// note remembers in the pushes what Git refuses of them, and reports whether
// there is anything.
func (b *batch) note(faults map[cluster.RefName]string) bool {
	for _, p := range b.members {
		for _, u := range p.Updates {
			if why := faults[u.Ref]; why != "" {
				if p.faults == nil {
					p.faults = map[cluster.RefName]string{}
				}
				p.faults[u.Ref] = gitReason(why)
			}
		}
	}
	return len(faults) > 0
}

func (b *batch) refs() []cluster.RefName {
	refs := make([]cluster.RefName, len(b.updates))
	for i, u := range b.updates {
		refs[i] = u.Ref
	}
	return refs
}

// rehearse lets Git check updates and lock their refs, and then drops the locks.
func (e *Engine) rehearse(r *replica, updates []cluster.RefUpdate) error {
	if len(updates) == 0 {
		return nil
	}
	tx, err := r.repo.Begin(e.ctx, len(updates))
	if err != nil {
		return err
	}
	defer tx.Abort()
	return tx.Prepare(updates)
}

// gitReason makes one line for a push's report of what Git said.
func gitReason(said string) string {
	text, _, _ := strings.Cut(said, "\n")
	for _, prefix := range []string{"prepare refs: ", "fatal: ", "prepare: "} {
		text = strings.TrimPrefix(text, prefix)
	}
	if i := strings.Index(text, "': "); strings.HasPrefix(text, "cannot update ref '") && i > 0 {
		text = text[i+3:]
	}
	return "failed to update ref: " + text
}

// chooseHead points HEAD of an empty repository at a branch of its first push:
// main or master if they are there, else the first by name.
func (b *batch) chooseHead() {
	for _, p := range b.members {
		if p.Head != "" {
			b.head = p.Head
		}
	}
	if b.head == "" && b.table.Get(b.oldHead) == "" {
		var created []cluster.RefName
		for _, u := range b.updates {
			if u.Ref.IsBranch() && !u.New.IsZero() {
				created = append(created, u.Ref)
			}
		}
		if len(created) == 0 || b.table.CountBelow("refs/heads") > len(created) {
			return
		}
		slices.Sort(created)
		b.head = created[0]
		for _, usual := range []cluster.RefName{"refs/heads/master", "refs/heads/main"} {
			if slices.Contains(created, usual) {
				b.head = usual
			}
		}
	}
	if b.head == b.oldHead {
		b.head = ""
	}
	if b.head != "" {
		b.table.SetHead(b.head)
	}
}

// noteWaits writes down how long each push of the entry has waited so far.
func (b *batch) noteWaits() {
	for i := range b.records {
		for _, p := range b.members {
			if p.ID == b.records[i].ID {
				b.records[i].Waited = time.Since(p.came).Milliseconds()
			}
		}
	}
}

func (b *batch) empty() bool { return len(b.updates) == 0 && b.head == "" }

func (b *batch) pushes() []*pending { return b.members }

// undo takes the batch out of the table again.
func (b *batch) undo() {
	b.table.SetHead(b.oldHead)
	undo(b.table, b.updates)
	b.table.Decide()
}

// redo applies it once more.
func (b *batch) redo() {
	b.table.Try()
	for _, u := range b.updates {
		b.table.Set(u.Ref, u.New)
	}
	if b.head != "" {
		b.table.SetHead(b.head)
	}
}

func (b *batch) revert(accepted []cluster.RefUpdate) { undo(b.table, accepted) }

func undo(table *repository.RefTable, updates []cluster.RefUpdate) {
	for _, u := range slices.Backward(updates) {
		table.Set(u.Ref, u.Old)
	}
}

func (b *batch) acknowledge() {
	for i, p := range b.members {
		p.end(b.results[i], nil)
	}
}

// splitClashing separates the creations that Git could not lock while the refs
// that the same entry deletes are there: "a/b" after "a", or "a" after "a/b".
func splitClashing(updates []cluster.RefUpdate) (prepared, deferred []cluster.RefUpdate) {
	gone, folders := map[string]bool{}, map[string]bool{}
	for _, u := range updates {
		if u.New.IsZero() {
			gone[string(u.Ref)] = true
			for dir := path.Dir(string(u.Ref)); dir != "."; dir = path.Dir(dir) {
				folders[dir] = true
			}
		}
	}
	clashes := func(ref string) bool {
		if folders[ref] {
			return true
		}
		for dir := path.Dir(ref); dir != "."; dir = path.Dir(dir) {
			if gone[dir] {
				return true
			}
		}
		return false
	}
	for _, u := range updates {
		if len(gone) > 0 && !u.New.IsZero() && clashes(string(u.Ref)) {
			deferred = append(deferred, u)
		} else {
			prepared = append(prepared, u)
		}
	}
	return prepared, deferred
}
