package web

import (
	"net/url"
	"strings"

	"gitcluster/internal/cluster"
)

// Addresses outside of repositories. No part of a repository's name starts with
// "-", so "/-/" divides an address in one way only.
const (
	clusterPath  = "/-/cluster"
	eventsPath   = "/-/cluster/events"
	signInPath   = "/-/signin"
	signOutPath  = "/-/signout"
	staticPrefix = "/-/static/"
)

// split divides the path of a repository's page into the repository, what to
// show and of what.
func split(path string) (repo, action, rest string, err error) {
	// No file of a tree and no ref has such parts; what has them wants to climb.
	for part := range strings.SplitSeq(strings.TrimPrefix(strings.TrimSuffix(path, "/"), "/"), "/") {
		if part == "" || part == "." || part == ".." {
			return "", "", "", cluster.ErrNotFound
		}
	}
	if strings.ContainsRune(path, 0) {
		return "", "", "", cluster.ErrNotFound
	}
	repo, page, found := strings.Cut(strings.TrimPrefix(path, "/"), "/-/")
	if !found {
		return repo, "", "", nil
	}
	if action, rest, _ = strings.Cut(page, "/"); action == "" {
		return "", "", "", cluster.ErrNotFound
	}
	return repo, action, strings.TrimSuffix(rest, "/"), nil
}

// links makes the addresses of one repository's pages.
type links struct {
	repo  cluster.RepoName
	stale bool // the visitor has asked for pages that may be stale
}

func (l links) page(action, rest string, pairs ...string) string {
	address := "/" + escapePath(string(l.repo))
	if action != "" {
		address += "/-/" + action
	}
	if rest != "" {
		address += "/" + escapePath(rest)
	}
	if l.stale {
		pairs = append(pairs, "stale", "1")
	}
	return address + query(pairs...)
}

// query makes "?name=value&…" of names and values; those without a value are left
// out.
func query(pairs ...string) string {
	q := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	if len(q) == 0 {
		return ""
	}
	return "?" + q.Encode()
}

func (l links) Home() string                    { return l.page("", "") }
func (l links) Tree(rev, path string) string    { return l.page("tree", below(rev, path)) }
func (l links) File(rev, path string) string    { return l.page("file", below(rev, path)) }
func (l links) Raw(rev, path string) string     { return l.page("raw", below(rev, path)) }
func (l links) Blame(rev, path string) string   { return l.page("blame", below(rev, path)) }
func (l links) History(rev, path string) string { return l.page("history", below(rev, path)) }
func (l links) Commit(oid cluster.OID) string   { return l.page("commit", string(oid)) }
func (l links) Compare(old, new string) string  { return l.page("compare", old+"..."+new) }
func (l links) Search(rev string) string        { return l.page("search", "", "rev", rev) }
func (l links) Page(action string) string       { return l.page(action, "") }
func (l links) Change(oid cluster.OID, path string) string {
	return l.page("commit", string(oid), "file", path)
}

// Base is the last part of the repository's name.
func (l links) Base() string { return string(l.repo[strings.LastIndexByte(string(l.repo), '/')+1:]) }

func below(rev, path string) string {
	if path == "" {
		return rev
	}
	return rev + "/" + path
}

// escapePath escapes all but the slashes of a path.
func escapePath(path string) string {
	parts := strings.Split(path, "/")
	for i, part := range parts {
		parts[i] = url.PathEscape(part)
	}
	return strings.Join(parts, "/")
}

// local returns an address of this site to go to, or the first page. What a stranger
// put into a link must not lead to another site: "//host", "/\host" and
// "https:host" all would.
func local(to string) string {
	u, err := url.Parse(to)
	if err != nil || u.Scheme != "" || u.Host != "" || u.Opaque != "" || u.User != nil ||
		!strings.HasPrefix(to, "/") || strings.HasPrefix(to, "//") || strings.ContainsFunc(to, unsafeInAddress) {
		return "/"
	}
	return to
}

func unsafeInAddress(r rune) bool { return r == '\\' || r <= ' ' || r >= 0x7f }
