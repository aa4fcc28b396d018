package cluster

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// An OID is an object id in lower-case hexadecimal: 40 digits for SHA-1, 64 for
// SHA-256.
type OID string

// ParseOID checks that s is an object id of either hash.
func ParseOID(s string) (OID, error) {
	if len(s) != 40 && len(s) != 64 || !isHex(s) {
		return "", fmt.Errorf("bad object id %q", clip(s))
	}
	return OID(s), nil
}

// IsZero reports whether o is absent: empty, or all zeros as Git writes it.
func (o OID) IsZero() bool {
	return strings.Trim(string(o), "0") == ""
}

// An ObjectFormat is a repository's hash function, as `git init
// --object-format` takes it.
type ObjectFormat string

// The object formats Git knows.
const (
	SHA1   ObjectFormat = "sha1"
	SHA256 ObjectFormat = "sha256"
)

// ParseObjectFormat checks an object format; empty means SHA-1.
func ParseObjectFormat(s string) (ObjectFormat, error) {
	switch f := ObjectFormat(s); f {
	case "":
		return SHA1, nil
	case SHA1, SHA256:
		return f, nil
	}
	return "", fmt.Errorf("unknown object format %q: use sha1 or sha256", clip(s))
}

// Zero returns the all-zero object id of the format.
func (f ObjectFormat) Zero() OID {
	if f == SHA256 {
		return OID(strings.Repeat("0", 64))
	}
	return OID(strings.Repeat("0", 40))
}

// A RefName is a full ref name such as "refs/heads/main".
type RefName string

// Head is the name of the symbolic ref that names a repository's default branch.
const Head = "HEAD"

// StraysPrefix holds the tips kept aside when a replica is repaired. Such refs
// belong to one replica: they are not in the journal, not in a digest, and
// hidden from every client.
const StraysPrefix = "refs/strays/"

// maxRefPart bounds a part of a ref name: Git makes it a file's name with ".lock"
// behind it, and a replica whose file system refused that could not follow the
// journal.
const maxRefPart = 240

// maxRefParts bounds the depth of a ref name: every part but the last is a
// directory that every replica makes and syncs.
const maxRefParts = 20

// ParseRefName checks a full ref name by the rules of git-check-ref-format(1)
// and requires at least three parts ("refs/heads/x"), as receive-pack does.
// Unlike Git it requires UTF-8: the journal is JSON, which can hold no other
// name, and a file system that normalizes names would change one.
func ParseRefName(s string) (RefName, error) {
	bad := func(why string) (RefName, error) {
		return "", fmt.Errorf("bad ref name %q: %s", clip(s), why)
	}
	switch {
	case !strings.HasPrefix(s, "refs/"):
		return bad(`it does not start with "refs/"`)
	case strings.Count(s, "/") < 2:
		return bad("it has fewer than three parts")
	case !utf8.ValidString(s):
		return bad("it is not UTF-8")
	case strings.Count(s, "/") >= maxRefParts:
		return bad(fmt.Sprintf("it has more than %d parts", maxRefParts))
	case len(s) > 1024:
		return bad("it is longer than 1024 bytes")
	case strings.Contains(s, ".."), strings.Contains(s, "@{"):
		return bad(`it contains ".." or "@{"`)
	case strings.HasSuffix(s, "."):
		return bad("it ends with a dot")
	}
	for part := range strings.SplitSeq(s, "/") {
		if part == "" || part[0] == '.' || strings.HasSuffix(part, ".lock") {
			return bad(fmt.Sprintf("the part %q is not allowed", part))
		}
		if len(part) > maxRefPart {
			return bad(fmt.Sprintf("a part is longer than %d bytes", maxRefPart))
		}
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c == 0x7f || strings.IndexByte(`~^:?*[\`, c) >= 0 {
			return bad(fmt.Sprintf("it has the character %q", c))
		}
	}
	return RefName(s), nil
}

// IsBranch reports whether r is below refs/heads/.
func (r RefName) IsBranch() bool { return strings.HasPrefix(string(r), "refs/heads/") }

// IsHidden reports whether r belongs to the replica alone and so may be
// neither pushed nor fetched.
func (r RefName) IsHidden() bool { return strings.HasPrefix(string(r), StraysPrefix) }

// A RefUpdate moves one ref from Old to New. A zero Old creates the ref, a zero
// New deletes it.
type RefUpdate struct {
	Ref RefName `json:"ref"`
	Old OID     `json:"old"`
	New OID     `json:"new"`
}

// A RefResult is the outcome of one command of a push: accepted when Refused
// is empty, else refused with that reason in Git's own wording.
type RefResult struct {
	Ref     RefName
	Refused string
}
