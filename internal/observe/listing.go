package observe

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"gitcluster/internal/cluster"
)

// What a remote may list. More is taken for a remote that wants to fill the
// node's memory.
const (
	maxRefs     = 1_000_000
	maxListing  = 256 << 20 // bytes
	maxRefsLine = 64 << 10
)

// A listing reads what `git ls-remote --symref` prints, as it comes.
type listing struct {
	format   cluster.ObjectFormat
	patterns []cluster.RefPattern

	refs    map[cluster.RefName]cluster.OID // those that the patterns cover and a mirror can hold
	head    cluster.RefName                 // where HEAD points, if it says so
	skipped []string                        // refs that are covered, and why they cannot be mirrored
	lines   int
	bytes   int
	rest    []byte // the start of a line
	err     error
}

func newListing(format cluster.ObjectFormat, patterns []cluster.RefPattern) *listing {
	return &listing{format: format, patterns: patterns, refs: map[cluster.RefName]cluster.OID{}}
}

// Write fails for good when the listing cannot be used.
func (l *listing) Write(p []byte) (int, error) {
	if l.bytes += len(p); l.err == nil && l.bytes > maxListing {
		l.err = fmt.Errorf("the remote lists more than %d MiB of refs", maxListing>>20)
	}
	for rest := p; l.err == nil; {
		line, after, ended := bytes.Cut(rest, []byte("\n"))
		l.rest = append(l.rest, line...)
		if len(l.rest) > maxRefsLine {
			l.err = fmt.Errorf("the remote lists a ref of more than %d bytes", maxRefsLine)
			break
		}
		if !ended {
			break
		}
		l.err = l.line(string(l.rest))
		l.rest, rest = l.rest[:0], after
	}
	if l.err != nil {
		return 0, l.err
	}
	return len(p), nil
}

func (l *listing) line(line string) error {
	value, name, ok := strings.Cut(line, "\t")
	if l.lines++; l.lines > maxRefs {
		return fmt.Errorf("the remote lists more than %d refs", maxRefs)
	}
	if !ok {
		return fmt.Errorf("the remote's list of refs has the line %q", clip(line))
	}
	if target, ok := strings.CutPrefix(value, "ref: "); ok {
		if name == cluster.Head {
			l.head = cluster.RefName(target)
		}
		return nil // a symbolic ref is mirrored as its value
	}
	covered := slices.ContainsFunc(l.patterns, func(p cluster.RefPattern) bool { return p.Covers(cluster.RefName(name)) })
	if !covered || strings.HasSuffix(name, "^{}") { // "^{}" marks what a tag points to
		return nil
	}
	oid, err := cluster.ParseOID(value)
	if err != nil {
		return err
	}
	if len(oid) != len(l.format.Zero()) {
		return cluster.WithHint(fmt.Errorf("the remote's object ids have %d digits, and those of %s have %d", len(oid), l.format, len(l.format.Zero())),
			"make the repository anew with the other --object-format")
	}
	ref, err := cluster.ParseRefName(name)
	if err != nil {
		l.skip(name, err.Error())
		return nil
	}
	l.refs[ref] = oid
	return nil
}

// settle drops refs that cannot be there together: some that differ only in
// case, which not every replica could hold, and those of a remote that
// lists both "a" and "a/b", which Git does not.
func (l *listing) settle() {
	lower := map[string]cluster.RefName{}
	for _, ref := range sorted(l.refs) {
		low := strings.ToLower(string(ref))
		if other, ok := lower[low]; ok {
			l.skip(string(ref), fmt.Sprintf("differs only in case from %q", other))
			delete(l.refs, ref)
			continue
		}
		lower[low] = ref
	}
	for _, ref := range sorted(l.refs) {
		for i, c := range ref {
			if _, ok := l.refs[ref[:i]]; c == '/' && ok {
				l.skip(string(ref), fmt.Sprintf("is below the ref %q", ref[:i]))
				delete(l.refs, ref)
				break
			}
		}
	}
}

func (l *listing) skip(ref, why string) {
	l.skipped = append(l.skipped, fmt.Sprintf("%q: %s", clip(ref), why))
}

func sorted(refs map[cluster.RefName]cluster.OID) []cluster.RefName {
	names := make([]cluster.RefName, 0, len(refs))
	for ref := range refs {
		names = append(names, ref)
	}
	slices.Sort(names)
	return names
}

// clip keeps a stranger's text from filling a terminal or a log.
func clip(s string) string {
	if len(s) > 80 {
		return strings.ToValidUTF8(s[:77], "") + "…"
	}
	return s
}
