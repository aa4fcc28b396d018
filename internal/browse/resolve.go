package browse

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/storage/filesystem/dotgit"

	"gitcluster/internal/cluster"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
)

// Head returns the default branch and its commit, which is "" as long as the branch
// does not exist: in an empty repository, say.
func (r *Repo) Head(ctx context.Context) (cluster.RefName, cluster.OID, error) {
	ctx, done := r.bound(ctx)
	defer done()
	head, err := dotgit.New(osfs.New(r.dir)).Ref(plumbing.HEAD)
	if err != nil {
		return "", "", fmt.Errorf("read HEAD: %w", err)
	}
	name, err := cluster.ParseRefName(string(head.Target()))
	if err != nil {
		return "", "", fmt.Errorf("read HEAD: %w", err)
	}
	oid, err := r.ref(ctx, name)
	if errors.Is(err, cluster.ErrNotFound) {
		err = nil
	}
	return name, oid, err
}

// An Object is what a revision names.
type Object struct {
	OID    cluster.OID
	Type   string
	Ref    cluster.RefName // the ref that was meant; "" for an object id
	Commit cluster.OID     // OID, or what the tag leads to; "" if that is no commit
}

// Resolve finds what a stranger's revision names: "" or "HEAD" is the default branch; a
// whole object id; a full ref name; then, as in gitrevisions(7), the same below refs/,
// refs/tags/ and refs/heads/, so a tag hides a branch of its name ("heads/NAME" names the branch); then
// the first digits, at least 4, of an object id: of only one, or of only one commit. One "^" or "~N" (N at
// most 1000, along first parents) may follow; the result's Ref is then "". Nothing else of Git's
// grammar is understood.
func (r *Repo) Resolve(ctx context.Context, rev string) (Object, error) {
	ctx, done := r.bound(ctx)
	defer done()
	objects := r.objects(ctx)
	defer objects.close()
	return r.resolve(objects, rev)
}

// ResolvePath splits "REV/PATH", as an address of a page has it, where a ref's name
// may itself have slashes: the longest REV that names a ref wins, or else the first part if
// Resolve takes it. rev is that part as it was written, path the rest without slashes
// around it. Whether the path is there is not checked.
func (r *Repo) ResolvePath(ctx context.Context, revAndPath string) (o Object, rev, path string, err error) {
	ctx, done := r.bound(ctx)
	defer done()
	objects := r.objects(ctx)
	defer objects.close()
	parts := strings.SplitN(strings.Trim(revAndPath, "/"), "/", maxRevParts+1)
	var revs []string
	for n := min(len(parts), maxRevParts); n > 1; n-- {
		revs = append(revs, strings.Join(parts[:n], "/"))
	}
	// All at once: one process, however many parts the path has.
	name, oid, err := r.findRef(objects, revs...)
	if err == nil && name != "" {
		for _, rev = range revs {
			if isShort(rev, name) {
				break
			}
		}
		o, err = r.describe(objects, oid, name)
	} else if err == nil {
		rev = parts[0]
		o, err = r.resolve(objects, rev)
	}
	return o, rev, strings.Trim(strings.TrimPrefix(strings.Trim(revAndPath, "/"), rev), "/"), err
}

// maxRevParts is how many parts the name of a ref in an address may have.
const maxRevParts = 12

var (
	backwards = regexp.MustCompile(`\A(.*?)(?:\^|~([0-9]{0,4}))\z`)
	hexDigits = regexp.MustCompile(`\A[0-9a-fA-F]{4,64}\z`)
)

func (r *Repo) resolve(objects *objects, rev string) (Object, error) {
	if m := backwards.FindStringSubmatch(rev); m != nil {
		n := 1
		if m[2] != "" {
			n, _ = strconv.Atoi(m[2])
		}
		if n > 1000 {
			return Object{}, fmt.Errorf("%w: more than 1000 steps back from %q", ErrBadQuery, m[1])
		}
		from, err := r.resolve(objects, m[1])
		if err == nil && from.Commit == "" {
			err = noRev(rev)
		}
		if err != nil {
			return Object{}, err
		}
		return r.ancestor(objects.ctx, from.Commit, n, rev)
	}
	if rev == "" || rev == cluster.Head || rev == "@" {
		name, oid, err := r.Head(objects.ctx)
		if err == nil && oid == "" {
			err = cluster.WithHint(fmt.Errorf("branch %s: %w", name, cluster.ErrNotFound), "the default branch has no commits yet")
		}
		if err != nil {
			return Object{}, err
		}
		return r.describe(objects, oid, name)
	}
	isHex := hexDigits.MatchString(rev)
	if isHex && len(rev) == r.digits() {
		return r.describe(objects, cluster.OID(strings.ToLower(rev)), "")
	}
	name, oid, err := r.findRef(objects, rev)
	switch {
	case err != nil:
		return Object{}, err
	case name != "":
		return r.describe(objects, oid, name)
	case isHex && len(rev) < r.digits():
		return r.abbreviated(objects, strings.ToLower(rev))
	}
	return Object{}, noRev(rev)
}

func noRev(rev string) error {
	if len(rev) > 200 {
		rev = rev[:200] + "…"
	}
	return fmt.Errorf("revision %q: %w", rev, cluster.ErrNotFound)
}

// shortFor lists the refs that a short name may mean, the one that is tried first first.
func shortFor(rev string) []cluster.RefName {
	var names []cluster.RefName
	for _, prefix := range []string{"", "refs/", "refs/tags/", "refs/heads/"} {
		if name, err := cluster.ParseRefName(prefix + rev); err == nil && !name.IsHidden() {
			names = append(names, name)
		}
	}
	return names
}

func isShort(rev string, name cluster.RefName) bool {
	for _, n := range shortFor(rev) {
		if n == name {
			return true
		}
	}
	return false
}

// findRef returns the first ref that exists of those that the short names mean, or "".
func (r *Repo) findRef(objects *objects, revs ...string) (cluster.RefName, cluster.OID, error) {
	var names []cluster.RefName
	for _, rev := range revs {
		names = append(names, shortFor(rev)...)
	}
	if len(revs) == 1 && strings.HasPrefix(revs[0], "refs/") && len(names) > 0 {
		// Programs name refs in full.
		if oid, err := r.ref(objects.ctx, names[0]); err == nil || !errors.Is(err, cluster.ErrNotFound) {
			return names[0], oid, err
		}
		names = names[1:]
	}
	if len(names) > 2 {
		// Git's own rules guess: without refs/heads/x it would take
		// refs/tags/refs/heads/x for it. So this only says where to look.
		questions := make([]cluster.OID, len(names))
		for i, name := range names {
			questions[i] = cluster.OID(name)
		}
		found, err := objects.stat(questions)
		if err != nil {
			return "", "", err
		}
		n := 0
		for i, o := range found {
			if o.kind != "" {
				names[n] = names[i]
				n++
			}
		}
		names = names[:n]
	}
	for _, name := range names {
		oid, err := r.ref(objects.ctx, name)
		if err == nil {
			return name, oid, nil
		}
		if !errors.Is(err, cluster.ErrNotFound) {
			return "", "", err
		}
	}
	return "", "", nil
}

// ref returns what the ref of exactly that name holds.
func (r *Repo) ref(ctx context.Context, name cluster.RefName) (cluster.OID, error) {
	out, err := r.browser.run.Output(ctx, gitcmd.ShowRef(r.dir, name), nil)
	var exit *gitexec.ExitError
	if errors.As(err, &exit) && strings.Contains(exit.Stderr, "not a valid ref") {
		return "", fmt.Errorf("ref %q: %w", name, cluster.ErrNotFound)
	}
	if err != nil {
		return "", err
	}
	oid, _, _ := strings.Cut(string(out), " ")
	return cluster.OID(oid), r.checkOIDs(cluster.OID(oid))
}

func (r *Repo) describe(objects *objects, oid cluster.OID, name cluster.RefName) (Object, error) {
	found, err := objects.read(oid, 0)
	if err != nil {
		return Object{}, err
	}
	commit, err := objects.peel(oid, found.kind)
	return Object{OID: oid, Type: found.kind, Ref: name, Commit: commit}, err
}

// abbreviated finds the one object, or the one commit, whose id starts with the digits.
func (r *Repo) abbreviated(objects *objects, digits string) (Object, error) {
	const most = 64
	var oids []cluster.OID
	err := r.stream(objects.ctx, gitcmd.Abbreviated(r.dir, digits), nil, func(rd *bufio.Reader) error {
		for {
			line, _, err := text(rd, '\n', 100)
			if err != nil {
				return ended(err)
			}
			if oids = append(oids, cluster.OID(line)); len(oids) > most {
				return errEnough
			}
		}
	})
	if err == nil && len(oids) == 0 {
		err = noRev(digits)
	}
	if err != nil {
		return Object{}, err
	}
	if len(oids) == 1 {
		return r.describe(objects, oids[0], "")
	}
	ambiguous := cluster.WithHint(noRev(digits), "several objects start with these digits; give more of them")
	if len(oids) > most {
		return Object{}, ambiguous
	}
	found, err := objects.stat(oids)
	if err != nil {
		return Object{}, err
	}
	var only cluster.OID
	for i, o := range found {
		if o.kind == TypeCommit {
			if only != "" {
				return Object{}, ambiguous
			}
			only = oids[i]
		}
	}
	if only == "" {
		return Object{}, ambiguous
	}
	return Object{OID: only, Type: TypeCommit, Commit: only}, nil
}

func (r *Repo) ancestor(ctx context.Context, commit cluster.OID, n int, rev string) (Object, error) {
	out, err := r.browser.run.Output(ctx, gitcmd.Ancestor(r.dir, commit, n), nil)
	if gitexec.Status(err) == 1 {
		return Object{}, noRev(rev)
	}
	if err != nil {
		return Object{}, err
	}
	oid := cluster.OID(strings.TrimSpace(string(out)))
	return Object{OID: oid, Type: TypeCommit, Commit: oid}, r.checkOIDs(oid)
}
