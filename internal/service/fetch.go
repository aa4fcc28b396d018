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
	"gitcluster/internal/refcache"
)

// UploadPack serves a fetch.
func (s *Service) UploadPack(ctx context.Context, q Request) error {
	command := gitcmd.UploadPack
	if q.Stateless {
		command = gitcmd.StatelessUploadPack
	}
	return s.uploadPack(ctx, q, "upload-pack", (*refcache.Cache).Serve, func(view engine.View) (gitcmd.Command, func()) {
		return s.sharing(view, command(view.Dir, q.Protocol))
	})
}

// advertiseFetch answers the first request of a fetch over HTTP.
func (s *Service) advertiseFetch(ctx context.Context, q Request) error {
	return s.uploadPack(ctx, q, "upload-pack-refs", (*refcache.Cache).Advertise, func(view engine.View) (gitcmd.Command, func()) {
		return gitcmd.AdvertiseUploadPack(view.Dir, q.Protocol), func() {}
	})
}

// uploadPack has the cache of what upload-packs have said answer, if it may, and else the
// command. That has its turn when it is started: for who is answered without, or says
// nothing, no place is taken.
func (s *Service) uploadPack(ctx context.Context, q Request, what string, kept func(*refcache.Cache, context.Context, refcache.Fetch) error, command func(engine.View) (c gitcmd.Command, end func())) error {
	return s.reading(ctx, &q, what, func(ctx context.Context, view engine.View, turn turn) error {
		run := func(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) error {
			leave, err := turn()
			if err != nil {
				return err
			}
			defer leave()
			c, end := command(view)
			defer end()
			return s.Run.Run(ctx, c, gitexec.IO{Stdin: stdin, Stdout: stdout, Stderr: stderr})
		}
		s.warn(q, view)
		if s.Refs == nil || q.Protocol != refcache.Version2 || view.Stale {
			return run(ctx, q.Stdin, q.Stdout, q.Stderr)
		}
		return kept(s.Refs, ctx, refcache.Fetch{
			Repo: view.Repo.ID, Format: view.Repo.Format, Position: view.Applied,
			State: view.State, Now: func() uint64 { return s.Engine.State(view.Repo.ID) },
			Stateless: q.Stateless, Run: run,
			Stdin: q.Stdin, Stdout: q.Stdout, Stderr: q.Stderr,
		})
	})
}

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
