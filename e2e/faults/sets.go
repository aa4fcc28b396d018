package main

import (
	"fmt"
	"strings"

	"gitcluster/internal/cluster"
)

// A set is many refs that clients only ever push together and to one value, whole or
// not at all, so that a push is large. Everywhere here it counts as one ref, which has
// the name of their folder. Where the refs of a set differ, each counts as itself: as
// one that nobody has pushed.

const (
	someRefs = "refs/sets/some"
	manyRefs = "refs/sets/many"
)

var sets = map[string]int{someRefs: 300, manyRefs: 4000}

// unfold lists the refs of a set; another ref is alone.
func unfold(ref string) []string {
	size, ok := sets[ref]
	if !ok {
		return []string{ref}
	}
	all := make([]string, size)
	for i := range all {
		all[i] = fmt.Sprintf("%s/%04d", ref, i)
	}
	return all
}

// setOf is the set that a ref is in, or "".
func setOf(ref string) string {
	if i := strings.LastIndexByte(ref, '/'); i > 0 && sets[ref[:i]] > 0 {
		return ref[:i]
	}
	return ""
}

// fold puts sets in the place of their refs.
func fold(refs map[string]string) map[string]string {
	values, sizes := map[string]map[string]bool{}, map[string]int{}
	for ref, value := range refs {
		if set := setOf(ref); set != "" {
			if values[set] == nil {
				values[set] = map[string]bool{}
			}
			values[set][value] = true
			sizes[set]++
		}
	}
	folded := map[string]string{}
	for ref, value := range refs {
		if set := setOf(ref); set != "" && sizes[set] == sets[set] && len(values[set]) == 1 {
			ref = set
		}
		folded[ref] = value
	}
	return folded
}

// tornIn lists the sets that a reader saw while Git was just writing their refs, one
// after the other: some had one value and some another. Nobody promises that a push of
// several refs is seen whole from its first moment on.
func tornIn(seen map[string]string) map[string]bool {
	found := map[string]bool{}
	for ref := range seen {
		if set := setOf(ref); set != "" {
			found[set] = true
		}
	}
	return found
}

// unlike returns refs of a set, one of each kind that all readers saw alike: the history of
// one is that of its kind. If no reader saw the set mixed, that is the set itself.
func unlike(set string, reads []map[string]string) []string {
	var mixes []map[string]string
	for _, seen := range reads {
		if tornIn(seen)[set] {
			mixes = append(mixes, seen)
		}
	}
	if len(mixes) == 0 {
		return []string{set}
	}
	var some []string
	kinds := map[string]bool{}
	for _, ref := range unfold(set) {
		kind := ""
		for _, seen := range mixes {
			kind += seen[ref] + " "
		}
		if !kinds[kind] {
			kinds[kind] = true
			some = append(some, ref)
		}
	}
	return some
}

// foldUpdates is fold for the updates of a push.
func foldUpdates(updates []cluster.RefUpdate) (folded []cluster.RefUpdate) {
	old, now := map[string]string{}, map[string]string{}
	for _, u := range updates {
		old[string(u.Ref)], now[string(u.Ref)] = string(u.Old), string(u.New)
	}
	was, is := fold(old), fold(now)
	seen := map[string]bool{}
	for _, u := range updates {
		if set := setOf(string(u.Ref)); set != "" {
			from, whole := was[set]
			to, same := is[set]
			if whole && same {
				if !seen[set] {
					folded = append(folded, cluster.RefUpdate{Ref: cluster.RefName(set), Old: cluster.OID(from), New: cluster.OID(to)})
				}
				seen[set] = true
				continue
			}
		}
		folded = append(folded, u)
	}
	return folded
}
