package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
)

// A recipe is a repository that is made once and kept in the cache.
type recipe struct {
	Shape shape
	Refs  int // branches and tags, main included
}

// edition counts how often the way repositories are made has changed: those in the
// cache are of the one that made them.
const edition = 3

// plainGit is Git without anybody's configuration.
func plainGit(dir string, args ...string) gitcmd.Command {
	return gitcmd.Command{
		Args: append([]string{"git"}, args...), Dir: dir,
		Env: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.DevNull, "LC_ALL=C", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull},
	}
}

// make returns the bare repository of the recipe in the folder cache, where it is
// kept for the next run.
func (r recipe) make(ctx context.Context, cache string) (dir string, err error) {
	text, err := json.Marshal(r)
	if err != nil {
		return "", err
	}
	sum := fnv.New64a()
	fmt.Fprintf(sum, "%s %d %d", text, seed, edition)
	dir = filepath.Join(cache, fmt.Sprintf("%d-commits-%d-refs-%x.git", r.Shape.Commits, r.Refs, sum.Sum64()))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	unfinished, err := os.MkdirTemp(cache, "unfinished-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(unfinished)
	run := func(in io.Reader, args ...string) error {
		return new(gitexec.Runner).Run(ctx, plainGit(unfinished, args...), gitexec.IO{Stdin: in})
	}
	if err := run(nil, "init", "-q", "--bare", "--initial-branch=main", "."); err != nil {
		return "", err
	}
	commits, feed := io.Pipe()
	go func() { feed.CloseWithError(newHistory(r.Shape).write(feed, "refs/heads/main", "", r.Shape.Commits)) }()
	if err := run(commits, "fast-import", "--quiet"); err != nil {
		commits.CloseWithError(err)
		return "", err
	}
	if err := r.writeRefs(ctx, unfinished); err != nil {
		return "", err
	}
	// As a host keeps it: one pack, with a bitmap. The deltas are made anew, since
	// those of the import are between files that happened to come one after the other.
	if err := run(nil, "repack", "-a", "-d", "-f", "-q", "--window=6", "--write-bitmap-index"); err != nil {
		return "", err
	}
	if err := os.Rename(unfinished, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return dir, nil
}

// writeRefs gives a fresh repository its refs, all packed: as many loose ones would
// take minutes to make, and no host keeps them so.
func (r recipe) writeRefs(ctx context.Context, dir string) error {
	commits, err := revList(ctx, dir, "refs/heads/main")
	if err != nil {
		return err
	}
	lines := []string{commits[len(commits)-1] + " refs/heads/main\n"}
	for i := range r.Refs - 1 {
		name := fmt.Sprintf("refs/heads/team-%02d/topic-%05d", i%50, i)
		if i%4 == 3 {
			name = fmt.Sprintf("refs/tags/v%d.%d.%d", i/1000, i/50%20, i%50)
		}
		lines = append(lines, commits[i%len(commits)]+" "+name+"\n")
	}
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[len(commits[0]):], b[len(commits[0]):]) })
	text := "# pack-refs with: peeled fully-peeled sorted \n" + strings.Join(lines, "")
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "packed-refs"), []byte(text), 0o644),
		os.Remove(filepath.Join(dir, "refs/heads/main")))
}

// revList lists commits, the oldest first.
func revList(ctx context.Context, dir string, args ...string) ([]string, error) {
	out, err := new(gitexec.Runner).Output(ctx, plainGit(dir, append([]string{"rev-list", "--reverse"}, args...)...), nil)
	return strings.Fields(string(out)), err
}

// packedSize is what a repository's packs take on disk.
func packedSize(dir string) (bytes int64, err error) {
	packs, err := filepath.Glob(filepath.Join(dir, "objects/pack/*.pack"))
	for _, p := range packs {
		info, err := os.Stat(p)
		if err != nil {
			return 0, err
		}
		bytes += info.Size()
	}
	return bytes, err
}

// A pusher is a clone with commits that nobody else has, which are pushed one by
// one, to each address from the first on.
type pusher struct {
	dir     string
	commits []string
	next    map[string]int // by address
}

// newPusher clones the master of r to dir and adds n commits to it. way makes them
// different from another pusher's.
func (r recipe) newPusher(ctx context.Context, master, dir string, way uint64, n int) (*pusher, error) {
	git := func(in io.Reader, args ...string) error {
		return new(gitexec.Runner).Run(ctx, plainGit("", args...), gitexec.IO{Stdin: in})
	}
	if err := git(nil, "clone", "-q", "--bare", "--single-branch", "--no-tags", master, dir); err != nil {
		return nil, err
	}
	h := newHistory(r.Shape)
	if err := h.write(io.Discard, "refs/heads/main", "", r.Shape.Commits); err != nil {
		return nil, err
	}
	tip, err := revList(ctx, dir, "--max-count=1", "refs/heads/main")
	if err != nil || len(tip) == 0 {
		return nil, errors.Join(err, errors.New("the master has no commit"))
	}
	var more bytes.Buffer
	if err := h.fork(way).write(&more, "refs/heads/new", tip[0], n); err != nil {
		return nil, err
	}
	if err := git(&more, "-C", dir, "fast-import", "--quiet"); err != nil {
		return nil, err
	}
	p := &pusher{dir: dir, next: map[string]int{}}
	p.commits, err = revList(ctx, dir, "refs/heads/main..refs/heads/new")
	return p, err
}

// take returns the next commit for an address.
func (p *pusher) take(address string) (string, error) {
	n := p.next[address]
	if n >= len(p.commits) {
		return "", fmt.Errorf("all %d commits have been pushed to %s", n, address)
	}
	p.next[address]++
	return p.commits[n], nil
}
