package conduit

import (
	"context"
	"errors"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"gitcluster/internal/cluster"
)

var repositoryMethods = map[string]method{
	"diffusion.repository.search": {
		about: "Lists repositories, in the order of their names.",
		gives: "map<string, wild>",
		params: map[string]string{
			"queryKey":    "optional string",
			"constraints": "optional map<string, wild>",
			"attachments": "optional map<string, bool>",
			"order":       "optional order",
			"before":      "optional string",
			"after":       "optional string",
			"limit":       "optional int (default = 100)",
			"staleOK":     "optional bool",
		},
		run: searchRepositories,
	},
}

// maxPage is the page size of searches in Phabricator, too.
const maxPage = 100

// A search is the parameters of diffusion.repository.search.
type search struct {
	asked []string // names and PHIDs; nil for all repositories
	ids   []string
	none  bool // no repository can satisfy the constraints
	after cluster.RepoName
	limit int
	uris  bool
	stale bool
}

func searchRepositories(ctx context.Context, q *call) (any, error) {
	s, err := q.search()
	if err != nil {
		return nil, err
	}
	q.read = &Read{Node: q.Device, Stale: s.stale}
	var found []cluster.Repo
	switch {
	case s.none:
	case s.stale:
		found = q.recall(s)
	case s.asked != nil:
		found, err = q.lookUp(ctx, s)
	default:
		found, err = q.scan(ctx, s)
	}
	if err != nil {
		return nil, err
	}
	var after any
	if len(found) > s.limit {
		found = found[:s.limit]
		after, q.read.More = found[s.limit-1].Name, true
	}
	data := []any{}
	for _, repo := range found {
		data = append(data, q.describe(repo, s.uris))
	}
	return map[string]any{
		"data":   data,
		"maps":   map[string]any{},
		"query":  map[string]any{"queryKey": q.values["queryKey"]},
		"cursor": map[string]any{"limit": s.limit, "after": after, "before": nil, "order": q.values["order"]},
	}, nil
}

// search reads the parameters.
func (q *call) search() (s search, err error) {
	switch key := q.text("queryKey"); key {
	case "", "all", "active": // all are active
	default:
		return s, faultf(codeQueryKey, "there is no query %q: use \"all\" or \"active\"", clip(key))
	}
	for key, value := range q.mapping("constraints") {
		if err := q.constrain(&s, key, value); err != nil {
			return s, err
		}
	}
	for key := range q.mapping("attachments") {
		if key != "uris" {
			return s, faultf(codeAttachment, "there is no attachment %q, only \"uris\"", clip(key))
		}
		s.uris = true
	}
	order := q.values["order"]
	if text, ok := q.plain(order); ok {
		order = []any{text}
	}
	if by := q.texts("order", order, 1); len(by) == 1 && by[0] != "name" {
		q.wrong("order", "repositories come in the order of their names only: \"name\"")
	}
	if q.text("before") != "" {
		q.wrong("before", "pages follow each other forwards only")
	}
	if after := q.text("after"); after != "" {
		if s.after, err = cluster.ParseRepoName(after); err != nil {
			q.wrong("after", "it is no cursor of an earlier answer")
		}
	}
	s.stale = q.truth("staleOK")
	s.limit = q.number("limit", maxPage, 1<<31-1)
	if q.err == nil && (s.limit < 1 || s.limit > maxPage) {
		return s, faultf(codePageSize, "a page has between 1 and %d repositories, not %d", maxPage, s.limit)
	}
	return s, q.err
}

// constrain adds a constraint: a repository must satisfy each, by any of its values.
func (q *call) constrain(s *search, key string, value any) error {
	name := "constraints." + key
	switch key {
	case "phids", "shortNames", "callsigns", "uris":
		asked := q.texts(name, value, maxPage)
		if len(asked) == 0 {
			return nil
		}
		if s.asked != nil {
			return faultf(codeConstraint, "use only one of phids, shortNames, callsigns and uris")
		}
		if key == "uris" {
			asked = q.namesOf(asked)
		}
		s.asked = asked
	case "ids":
		s.ids = q.texts(name, value, maxPage)
	case "types":
		types := q.texts(name, value, maxPage)
		s.none = s.none || len(types) > 0 && !slices.Contains(types, "git")
	case "status":
		status, _ := q.plain(value)
		s.none = s.none || status == "closed"
	case "hosted":
		hosted, _ := q.plain(value)
		s.none = s.none || hosted == "remote"
	default:
		return faultf(codeConstraint, "there is no constraint %q", clip(key))
	}
	return nil
}

// lookUp finds the repositories that were asked for one by one.
func (q *call) lookUp(ctx context.Context, s search) ([]cluster.Repo, error) {
	byName := map[cluster.RepoName]cluster.Repo{}
	for _, asked := range s.asked {
		name, id, err := q.named(ctx, asked, cluster.Current)
		var f *fault
		if errors.As(err, &f) {
			continue // a search for what is not there finds nothing
		}
		if err != nil {
			return nil, err
		}
		at, err := q.Repositories.Resolve(ctx, q.id, name, cluster.RoleRead)
		if errors.Is(err, cluster.ErrNotFound) || errors.Is(err, cluster.ErrDenied) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if name > s.after && (id == "" || at.Repo.ID == id) && s.wants(at.Repo.ID) {
			byName[name] = at.Repo
		}
	}
	return slices.SortedFunc(maps.Values(byName), func(a, b cluster.Repo) int { return strings.Compare(string(a.Name), string(b.Name)) }), nil
}

// scan goes through all repositories until it has one more than a page.
func (q *call) scan(ctx context.Context, s search) (found []cluster.Repo, err error) {
	page := s.limit + 1
	if len(s.ids) > 0 {
		page = maxLimit
	}
	for after := s.after; ; {
		repos, next, err := q.Repositories.Repos(ctx, q.id, after, page)
		if err != nil {
			return nil, err
		}
		for _, r := range repos {
			if s.wants(r.ID) {
				found = append(found, r.Repo)
			}
		}
		if next == "" || len(found) > s.limit {
			return found, nil
		}
		after = next
	}
}

// recall finds repositories among those that this node last heard of.
func (q *call) recall(s search) []cluster.Repo {
	return slices.DeleteFunc(q.Repositories.Remembered(q.id, s.after), func(repo cluster.Repo) bool {
		return !s.wants(repo.ID) || s.asked != nil && !slices.ContainsFunc(s.asked, func(asked string) bool {
			name, err := cluster.ParseRepoName(asked)
			return asked == repositoryPHID(repo.ID) || err == nil && name == repo.Name
		})
	})
}

func (s search) wants(id cluster.RepoID) bool {
	return len(s.ids) == 0 || slices.Contains(s.ids, strconv.FormatInt(number(id), 10))
}

// number is the repository's id as a number that clients can hold: the first 52 of
// its 64 bits, because JavaScript's numbers are exact up to 53.
func number(id cluster.RepoID) int64 {
	n, _ := strconv.ParseUint(string(id), 16, 64) // 16 digits by its type
	return int64(n >> 12)
}

func (q *call) describe(repo cluster.Repo, uris bool) any {
	view := "custom"
	if repo.Public {
		view = "public"
	}
	attachments := map[string]any{}
	if uris {
		attachments["uris"] = map[string]any{"uris": q.addresses(repo)}
	}
	return map[string]any{
		"id":   number(repo.ID),
		"type": "REPO",
		"phid": repositoryPHID(repo.ID),
		"fields": map[string]any{
			"name":         repo.Name,
			"vcs":          "git",
			"callsign":     nil,
			"shortName":    repo.Name,
			"status":       "active",
			"isImporting":  false,
			"objectFormat": repo.Format,
			"description":  map[string]any{"raw": ""},
			"spacePHID":    nil,
			"dateCreated":  repo.Created.Unix(),
			"policy":       map[string]any{"view": view},
		},
		"attachments": attachments,
	}
}

// addresses are where a repository can be cloned from: each node, over SSH and HTTPS.
func (q *call) addresses(repo cluster.Repo) []any {
	all := []any{}
	for _, node := range q.Rules().Nodes() {
		if !node.Enabled {
			continue
		}
		io := "read"
		if node.Writable {
			io = "readwrite"
		}
		for _, u := range []url.URL{{Scheme: "https", Host: node.HTTP}, {Scheme: "ssh", Host: node.SSH}} {
			if u.Host == "" {
				continue
			}
			u.Path = "/" + string(repo.Name)
			if u.Scheme == "ssh" {
				u.User = url.User("git")
			}
			all = append(all, map[string]any{
				"type": "RURI",
				"fields": map[string]any{
					"repositoryPHID": repositoryPHID(repo.ID),
					"uri":            map[string]any{"raw": u.String(), "display": u.String(), "effective": u.String(), "normalized": u.Hostname() + u.Path},
					"io":             map[string]any{"raw": io, "default": io, "effective": io},
					"display":        map[string]any{"raw": "always", "default": "always", "effective": "always"},
					"credentialPHID": nil,
					"disabled":       false,
					"builtin":        map[string]any{"protocol": u.Scheme, "identifier": "name"},
				},
			})
		}
	}
	return all
}

// namesOf takes the names out of addresses of this cluster. An address elsewhere
// names nothing here, even where there is a repository of its path.
func (q *call) namesOf(addresses []string) []string {
	names := []string{}
	hosts := map[string]bool{}
	for _, node := range q.Rules().Nodes() {
		hosts[hostOf(node.SSH)], hosts[hostOf(node.HTTP)] = true, true
	}
	for _, address := range addresses {
		if name, ok := strings.CutPrefix(address, "cluster::"); ok {
			names = append(names, name)
			continue
		}
		u, err := url.Parse(address)
		if err != nil || u.Host == "" {
			// The form of scp: [user@]host:path.
			host, path, _ := strings.Cut(address, ":")
			u = &url.URL{Host: host[strings.LastIndex(host, "@")+1:], Path: path}
		}
		if u.Host != "" && hosts[u.Hostname()] {
			names = append(names, u.Path)
		}
	}
	return names
}

// hostOf is the host of an address "host:port".
func hostOf(address string) string { return (&url.URL{Host: address}).Hostname() }
