package service

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"path/filepath"

	"gitcluster/internal/cluster"
	"gitcluster/internal/engine"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
	"gitcluster/internal/localsocket"
)

// A fetch is one upload-pack in progress that asks for its packs.
type fetch struct {
	ctx  context.Context // ends with it
	repo cluster.RepoID
	dir  string
}

// sharing has an upload-pack ask this node for its packs, where others fetch from the
// same repository. end is to be called when it has ended.
func (s *Service) sharing(view engine.View, c gitcmd.Command) (_ gitcmd.Command, end func()) {
	if s.Packs == nil {
		return c, func() {}
	}
	shared, leave := s.Packs.Join(view.Repo.ID)
	if !shared {
		return c, leave
	}
	token := rand.Text()
	ctx, cancel := context.WithCancelCause(context.Background())
	s.mu.Lock()
	s.fetches[token] = &fetch{ctx: ctx, repo: view.Repo.ID, dir: view.Dir}
	s.mu.Unlock()
	packs := gitcmd.Packs{Hook: filepath.Join(s.Hooks, localsocket.PackObjects), Socket: s.Socket, Token: token}
	return packs.Shared(c), func() {
		s.mu.Lock()
		delete(s.fetches, token)
		s.mu.Unlock()
		cancel(nil)
		leave()
	}
}

// servePack answers the pack-objects hook of a fetch in progress.
func (s *Service) servePack(ctx context.Context, q localsocket.HookRequest, stdin io.Reader, stdout, stderr io.Writer) int {
	f := byToken(s, s.fetches, q.Push)
	if f == nil {
		fmt.Fprintln(stderr, "# this hook belongs to no fetch in progress")
		return 1
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(f.ctx, func() { cancel(context.Cause(f.ctx)) })()
	err := s.Packs.Serve(ctx, f.repo, f.dir, q.Args, stdin, stdout, stderr)
	if err != nil && ctx.Err() == nil {
		s.Log.Warn("a shared pack failed", "repo", f.repo, "error", err)
		fmt.Fprintf(stderr, "# %v\n", err)
	}
	return gitexec.Status(err)
}
