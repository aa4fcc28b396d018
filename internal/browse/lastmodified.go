package browse

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/gitcmd"
)

// maxWalk is how long LastModified walks through a history.
const maxWalk = time.Second

// LastModified returns the newest commit in the history of commit that gave a file of a
// directory its present contents, or touched anything below a directory in it. It walks no longer than about
// a second: complete says whether every name was found. names are entries of the directory; none
// means all.
func (r *Repo) LastModified(ctx context.Context, commit cluster.OID, dir string, names []string) (last map[string]Commit, complete bool, err error) {
	ctx, done := r.bound(ctx)
	defer done()
	if dir, err = cleanPath(dir); err != nil {
		return nil, false, err
	}
	key := strings.Join(append([]string{r.dir, string(commit), dir}, names...), "\x00")
	if w, ok := r.browser.walks.get(key); ok {
		return maps.Clone(w.last), len(w.wanted) == 0, nil
	}
	w, err := r.plan(ctx, commit, dir, names)
	if err != nil || len(w.wanted) == 0 {
		return map[string]Commit{}, true, err
	}
	// A time of its own: what is known when it is over is a good answer.
	walking, stop := context.WithTimeoutCause(ctx, r.browser.maxWalk, errEnough)
	defer stop()
	err = r.stream(walking, gitcmd.Changes(r.dir, commit, w.paths), nil, w.read)
	if err != nil && !errors.Is(err, errEnough) {
		return nil, false, r.explain(ctx, err, TypeCommit, commit)
	}
	r.browser.walks.put(key, w)
	return maps.Clone(w.last), len(w.wanted) == 0, nil
}

// plan finds out which entries a walk is to look for.
func (r *Repo) plan(ctx context.Context, commit cluster.OID, dir string, names []string) (*walk, error) {
	objects := r.objects(ctx)
	defer objects.close()
	at, err := r.lookup(objects, commit, dir)
	if err != nil {
		return nil, err
	}
	if at.Type != TypeTree {
		return nil, noPath(dir + "/")
	}
	entries, err := objects.entries(at.OID)
	if err != nil {
		return nil, err
	}
	if len(names) > maxEntries || len(names) == 0 && len(entries) > maxEntries {
		return nil, fmt.Errorf("%w: more than %d names of one directory", ErrBadQuery, maxEntries)
	}
	w := &walk{below: dir, wanted: make(map[string]Entry, len(entries)), last: map[string]Commit{}}
	if dir != "" {
		w.below += "/"
		w.paths = []string{dir}
	}
	for _, e := range entries {
		w.wanted[e.Name] = e
	}
	if len(names) == 0 {
		return w, nil
	}
	some := make(map[string]Entry, len(names))
	for _, name := range names {
		e, ok := w.wanted[name]
		if !ok {
			return nil, noPath(w.below + name)
		}
		some[name] = e
	}
	if w.wanted = some; len(some) <= 20 {
		w.paths = nil // Git passes over most commits sooner if it knows what is wanted
		for name := range some {
			w.paths = append(w.paths, w.below+name)
		}
	}
	return w, nil
}

// A walk goes through commits, newest first, until it has found one for every entry.
type walk struct {
	below  string   // the directory, with a slash
	paths  []string // what Git is to look at; none means everything
	wanted map[string]Entry
	last   map[string]Commit
}

// walks remembers the newest walks: for one commit the answer stays the same, and the page that shows it
// is the most wanted one.
type walks struct {
	mu    sync.Mutex
	known []knownWalk // those used last come first
}

type knownWalk struct {
	key   string
	until time.Time // an incomplete one may do better when the node is less busy; else zero
	*walk
}

const (
	maxWalks     = 32
	maxWalkNames = 300 // a walk for more is not worth the memory
)

func (ws *walks) get(key string) (*walk, bool) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	i := slices.IndexFunc(ws.known, func(k knownWalk) bool { return k.key == key })
	if i < 0 {
		return nil, false
	}
	if until := ws.known[i].until; !until.IsZero() && time.Now().After(until) {
		ws.known = slices.Delete(ws.known, i, i+1)
		return nil, false
	}
	k := ws.known[i]
	copy(ws.known[1:], ws.known[:i])
	ws.known[0] = k
	return k.walk, true
}

func (ws *walks) put(key string, w *walk) {
	if len(w.last) > maxWalkNames || len(key) > 32<<10 {
		return
	}
	k := knownWalk{key: key, walk: w}
	if len(w.wanted) > 0 {
		k.until = time.Now().Add(time.Minute)
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.known = slices.Insert(ws.known, 0, k)
	ws.known = ws.known[:min(len(ws.known), maxWalks)]
}

func (w *walk) read(rd *bufio.Reader) error {
	for {
		c, err := readCommit(rd, messageLimit(maxEntries))
		if err != nil {
			return ended(err)
		}
		for {
			// Between a commit and its changes Git puts a line feed or a NUL byte.
			next, err := rd.Peek(1)
			if err != nil {
				return ended(err)
			}
			if next[0] == '\n' || next[0] == 0 {
				rd.Discard(1)
				continue
			}
			if next[0] != ':' {
				break // the next commit
			}
			if err := w.change(rd, c); err != nil {
				return err
			}
		}
		if len(w.wanted) == 0 {
			return errEnough
		}
	}
}

// change reads one change: as many colons as the commit has parents, the modes before it and
// after it, the object ids likewise, letters and, behind a NUL byte, the path.
func (w *walk) change(rd *bufio.Reader, c Commit) error {
	line, _, err := text(rd, 0, maxMessage)
	if err != nil {
		return err
	}
	parents := len(line) - len(strings.TrimLeft(line, ":"))
	fields := strings.Fields(line[parents:])
	path, _, err := text(rd, 0, maxMessage)
	if err != nil {
		return err
	}
	if len(fields) < 2*parents+2 {
		return fmt.Errorf("unexpected change %.200q from git log", line)
	}
	after := cluster.OID(fields[2*parents+1])
	rest, ok := strings.CutPrefix(path, w.below)
	if !ok {
		return nil
	}
	name, _, inside := strings.Cut(rest, "/")
	e, ok := w.wanted[name]
	// Another branch may have given the file contents that a merge threw away
	// since: the right commit left what is there now.
	if !ok || inside != (e.Type == TypeTree) || !inside && e.OID != after {
		return nil
	}
	w.last[name] = c
	delete(w.wanted, name)
	return nil
}
