package browse

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/gitcmd"
)

// The types of objects.
const (
	TypeCommit = "commit"
	TypeTree   = "tree"
	TypeBlob   = "blob"
	TypeTag    = "tag"
)

// A Ref is a branch, a tag or another ref, with what it points at.
type Ref struct {
	Name    cluster.RefName
	OID     cluster.OID // what the ref holds
	Type    string      // of OID; TypeTag for an annotated tag
	Commit  cluster.OID // OID, or what the tag leads to; "" if that is no commit
	When    time.Time   // the tag's date, else the commit's committer date; zero if neither
	Author  Signature   // of the commit that the ref holds
	Tagger  Signature   // of the annotated tag that the ref holds
	Subject string      // of the tag or commit, at most 1 KiB
	Message string      // of an annotated tag, whole, at most 64 KiB; only if it was asked for
}

// A RefQuery asks for refs. Those of one replica alone (refs/strays/) are never listed.
type RefQuery struct {
	// Prefixes are full names or folders of refs, such as "refs/heads/"; none
	// means branches and tags. At most 100. What cannot be a ref's name matches nothing.
	Prefixes []string
	// Contains keeps refs whose commit has this one in its history.
	Contains cluster.OID
	// PointsAt keeps refs that hold this object, or a tag of it.
	PointsAt cluster.OID
	// Messages asks for the messages of annotated tags.
	Messages bool
	// ByDate lists the newest first; otherwise by name.
	ByDate bool
	Offset int
	Limit  int // at most 1000; 0 means 100
}

// Refs lists refs; more says that there are others behind the last.
func (r *Repo) Refs(ctx context.Context, q RefQuery) (refs []Ref, more bool, err error) {
	ctx, done := r.bound(ctx)
	defer done()
	offset, limit, err := window(q.Offset, q.Limit)
	if err != nil {
		return nil, false, err
	}
	list := gitcmd.RefList{Format: refFormat, Contains: q.Contains, PointsAt: q.PointsAt, ByDate: q.ByDate}
	if list.Patterns, err = refPatterns(q.Prefixes); err != nil || len(list.Patterns) == 0 {
		return nil, false, err
	}
	for _, oid := range []cluster.OID{q.Contains, q.PointsAt} {
		if oid == "" {
			continue
		}
		if err := r.checkOIDs(oid); err != nil {
			return nil, false, err
		}
	}
	err = r.stream(ctx, gitcmd.BrowseRefs(r.dir, list), nil, func(rd *bufio.Reader) error {
		for {
			line, _, err := text(rd, '\n', 16<<10)
			if err != nil {
				return ended(err)
			}
			ref, ok := parseRef(line)
			switch {
			case !ok:
				return fmt.Errorf("unexpected line %.200q from git for-each-ref", line)
			case ref.Name.IsHidden():
			case offset > 0:
				offset--
			case len(refs) == limit:
				more = true
				return errEnough
			default:
				refs = append(refs, ref)
			}
		}
	})
	if err != nil {
		if q.Contains != "" {
			err = r.explain(ctx, err, TypeCommit, q.Contains)
		}
		return nil, false, err
	}
	return refs, more, r.complete(ctx, refs, q.Messages)
}

func refPatterns(prefixes []string) (patterns []string, err error) {
	if len(prefixes) == 0 {
		return []string{"refs/heads/", "refs/tags/"}, nil
	}
	if len(prefixes) > 100 {
		return nil, fmt.Errorf("%w: more than 100 prefixes", ErrBadQuery)
	}
	for _, p := range prefixes {
		// Git would take "*" in it for a wildcard, and "refs" for every ref.
		_, err := cluster.ParseRefName("refs/x/" + strings.TrimSuffix(strings.TrimPrefix(p, "refs/"), "/"))
		if p == "refs/" || err == nil && strings.HasPrefix(p, "refs/") {
			patterns = append(patterns, p)
		}
	}
	return patterns, nil
}

// What may be long comes last.
const refFormat = "%(objectname)%00%(objecttype)%00%(refname)%00%(*objectname)%00%(*objecttype)%00" +
	"%(creatordate:raw)%00%(taggerdate:raw)%00%(taggeremail:trim)%00%(taggername)%00%(contents:subject)"

func parseRef(line string) (ref Ref, ok bool) {
	f := strings.Split(line, "\x00")
	if len(f) < 6 {
		return ref, false
	}
	for len(f) < 10 {
		f = append(f, "")
	}
	ref = Ref{
		OID: cluster.OID(f[0]), Type: f[1], Name: cluster.RefName(f[2]),
		When: date(f[5]), Subject: subject(valid(f[9])),
	}
	switch ref.Type {
	case TypeCommit:
		ref.Commit = ref.OID
	case TypeTag:
		ref.Tagger = Signature{Name: valid(f[8]), Email: valid(f[7]), When: date(f[6])}
		if f[4] == TypeCommit { // else it may be a tag of a tag, which complete follows
			ref.Commit = cluster.OID(f[3])
		}
	}
	return ref, true
}

// complete fills in what for-each-ref does not tell: texts of commits in UTF-8, and where a tag of
// a tag leads.
func (r *Repo) complete(ctx context.Context, refs []Ref, messages bool) error {
	var oids []cluster.OID
	for _, ref := range refs {
		if ref.Type == TypeCommit {
			oids = append(oids, ref.OID)
		}
	}
	commits, err := r.commits(ctx, oids)
	if err != nil {
		return err
	}
	objects := r.objects(ctx)
	defer objects.close()
	n := 0
	for i := range refs {
		ref := &refs[i]
		switch {
		case ref.Type == TypeCommit:
			ref.Author, ref.Subject = commits[n].Author, commits[n].Subject
			n++
		case ref.Type == TypeTag && ref.Commit == "":
			if ref.Commit, err = objects.peel(ref.OID, TypeTag); err != nil {
				return err
			}
		}
		if ref.Type == TypeTag && messages {
			tag, err := objects.read(ref.OID, int64(messageLimit(len(refs))))
			if err != nil {
				return err
			}
			_, message, _ := strings.Cut(string(tag.data), "\n\n")
			ref.Message = valid(message)
		}
	}
	return nil
}

// peel returns the commit that a commit or a tag leads to; "" if it leads to
// something else.
func (o *objects) peel(oid cluster.OID, kind string) (cluster.OID, error) {
	for range 20 { // tags of tags of tags…
		switch kind {
		case TypeCommit:
			return oid, nil
		case TypeTag:
		default:
			return "", nil
		}
		tag, err := o.read(oid, 1024)
		if err != nil {
			return "", err
		}
		header := string(tag.data)
		oid, kind = cluster.OID(field(header, "object")), field(header, "type")
		if err := o.repo.checkOIDs(oid); err != nil {
			return "", fmt.Errorf("a malformed tag: %w", err)
		}
	}
	return "", nil
}

// field returns the value of the first line of a commit's or tag's header that starts with key.
func field(header, key string) string {
	for line := range strings.Lines(header) {
		if line == "\n" {
			break
		}
		if value, ok := strings.CutPrefix(line, key+" "); ok {
			return strings.TrimSuffix(value, "\n")
		}
	}
	return ""
}

// ended is how a reader of a whole stream takes its end.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
