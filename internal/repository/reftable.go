package repository

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"

	"gitcluster/internal/cluster"
)

// A RefTable is all refs of a repository in memory, with what the engine must
// know of them in time that does not grow with their number: a ref's value,
// whether a name would clash with another, and the digest. One goroutine may
// change it and use all its methods; beside that one, others may call Get, Head,
// Values, Decided and Clone.
type RefTable struct {
	mu      sync.RWMutex // held to change what those read
	refs    map[cluster.RefName]cluster.OID
	folders map[string]int               // how many refs are below each folder
	folded  map[string][]cluster.RefName // names by their lower-case form; almost always one
	head    cluster.RefName
	digest  cluster.Digest
	names   []cluster.RefName               // of all refs, in order; nil: to be sorted anew
	before  map[cluster.RefName]cluster.OID // values that may yet come back; nil: none may
}

// NewRefTable returns a table without refs or HEAD.
func NewRefTable() *RefTable {
	return &RefTable{
		refs:    map[cluster.RefName]cluster.OID{},
		folders: map[string]int{},
		folded:  map[string][]cluster.RefName{},
	}
}

// Clone returns a copy that is its caller's alone.
func (t *RefTable) Clone() *RefTable {
	c := NewRefTable()
	for ref, value := range t.Values {
		c.set(ref, value)
	}
	c.SetHead(t.Head())
	return c
}

// Get returns a ref's value, or "" if there is none.
func (t *RefTable) Get(ref cluster.RefName) cluster.OID {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.refs[ref]
}

// Len returns the number of refs.
func (t *RefTable) Len() int { return len(t.refs) }

// CountBelow returns the number of refs below a folder such as "refs/heads".
func (t *RefTable) CountBelow(folder string) int { return t.folders[folder] }

// Head returns HEAD's target.
func (t *RefTable) Head() cluster.RefName {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.head
}

// Digest returns the digest of all refs and HEAD.
func (t *RefTable) Digest() cluster.Digest { return t.digest }

// Values calls yield with the value of every ref, in no order, until it
// returns false. yield must not change the table.
func (t *RefTable) Values(yield func(cluster.RefName, cluster.OID) bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	maps.All(t.refs)(yield)
}

// Decided returns all refs in the order of their names, without what was set since
// [RefTable.Try]: nobody may take for a fact what may yet be undone.
func (t *RefTable) Decided() iter.Seq2[cluster.RefName, cluster.OID] {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.names == nil {
		t.names = slices.Sorted(maps.Keys(t.refs))
	}
	names := t.names // is never changed, only made anew
	var gone []cluster.RefName
	for ref, value := range t.before {
		if _, there := t.refs[ref]; !there && value != "" {
			gone = append(gone, ref)
		}
	}
	if len(gone) > 0 {
		names = slices.Sorted(slices.Values(slices.Concat(names, gone)))
	}
	values := make([]cluster.OID, len(names))
	for i, ref := range names {
		value, undecided := t.before[ref]
		if !undecided {
			value = t.refs[ref]
		}
		values[i] = value
	}
	return func(yield func(cluster.RefName, cluster.OID) bool) {
		for i, ref := range names {
			if values[i] != "" && !yield(ref, values[i]) {
				return
			}
		}
	}
}

// Try has what is set from now on be undecided, until Decide.
func (t *RefTable) Try() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.before == nil {
		t.before = map[cluster.RefName]cluster.OID{}
	}
}

// Decide makes the values that the table has facts.
func (t *RefTable) Decide() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.before = nil
}

// Set gives ref the value, or removes it if the value is zero.
func (t *RefTable) Set(ref cluster.RefName, value cluster.OID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.before != nil {
		if _, noted := t.before[ref]; !noted {
			t.before[ref] = t.refs[ref]
		}
	}
	if value.IsZero() {
		t.remove(ref)
		return
	}
	t.set(ref, value)
}

// SetHead changes HEAD's target.
func (t *RefTable) SetHead(head cluster.RefName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.digest.MoveHead(t.head, head)
	t.head = head
}

// Clash says which existing ref makes the name impossible: a folder of the
// name that is a ref, a ref below the name, or a ref that differs only in
// case, which a replica on a case-insensitive file system could not hold.
func (t *RefTable) Clash(ref cluster.RefName) (other cluster.RefName, why string) {
	if _, exists := t.refs[ref]; exists {
		return "", ""
	}
	for i := len(ref) - 1; i > 0; i-- {
		if ref[i] == '/' {
			if _, ok := t.refs[ref[:i]]; ok {
				return ref[:i], fmt.Sprintf("'%s' exists", ref[:i])
			}
		}
	}
	if t.folders[string(ref)] > 0 {
		return ref, fmt.Sprintf("there are refs below '%s'", ref)
	}
	if same := t.folded[strings.ToLower(string(ref))]; len(same) > 0 {
		return same[0], fmt.Sprintf("differs only in case from '%s'", same[0])
	}
	return "", ""
}

func (t *RefTable) set(ref cluster.RefName, value cluster.OID) {
	if old, ok := t.refs[ref]; ok {
		t.digest.Remove(string(ref), string(old))
	} else {
		for i, c := range ref {
			if c == '/' {
				t.folders[string(ref[:i])]++
			}
		}
		low := strings.ToLower(string(ref))
		t.folded[low] = append(t.folded[low], ref)
		t.names = nil
	}
	t.refs[ref] = value
	t.digest.Add(string(ref), string(value))
}

func (t *RefTable) remove(ref cluster.RefName) {
	old, ok := t.refs[ref]
	if !ok {
		return
	}
	t.digest.Remove(string(ref), string(old))
	delete(t.refs, ref)
	t.names = nil
	for i, c := range ref {
		if c == '/' {
			if t.folders[string(ref[:i])]--; t.folders[string(ref[:i])] == 0 {
				delete(t.folders, string(ref[:i]))
			}
		}
	}
	low := strings.ToLower(string(ref))
	if same := t.folded[low]; len(same) == 1 {
		delete(t.folded, low)
	} else {
		t.folded[low] = slices.DeleteFunc(slices.Clone(same), func(name cluster.RefName) bool { return name == ref })
	}
}
