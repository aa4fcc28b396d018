package service

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"gitcluster/internal/cluster"
	"gitcluster/internal/engine"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
	"gitcluster/internal/localsocket"
	"gitcluster/internal/pktline"
	"gitcluster/internal/refcache"
	"gitcluster/internal/sideband"
	"gitcluster/internal/uploadpack"
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
			c, end := command(view)
			defer end()
			return s.Run.Run(ctx, c, gitexec.IO{Stdin: stdin, Stdout: stdout, Stderr: stderr})
		}
		once := func(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) error {
			return s.Run.Run(ctx, gitcmd.StatelessUploadPack(view.Dir, q.Protocol), gitexec.IO{Stdin: stdin, Stdout: stdout, Stderr: stderr})
		}
		s.warn(q, view)
		if s.Refs == nil || q.Protocol != refcache.Version2 || view.Stale {
			leave, err := turn()
			if err != nil {
				return err
			}
			defer leave()
			return run(ctx, q.Stdin, q.Stdout, q.Stderr)
		}
		return kept(s.Refs, ctx, refcache.Fetch{
			Repo: view.Repo.ID, Format: view.Repo.Format, Position: view.Applied,
			State: view.State, Now: func() uint64 { return s.Engine.State(view.Repo.ID) },
			Stateless: q.Stateless, Turn: turn, Run: run, Once: once,
			Pack: func(ctx context.Context, request []byte) (bool, error) {
				return s.clone(ctx, q, view, turn, request)
			},
			Stdin: q.Stdin, Stdout: q.Stdout, Stderr: q.Stderr,
		})
	})
}

// clone answers a request for objects if it is that of a client that has nothing yet and
// wants what refs show: an upload-pack would only pass on what one pack-objects writes.
// What else a client may have, upload-pack finds out.
func (s *Service) clone(ctx context.Context, q Request, view engine.View, turn turn, request []byte) (ok bool, err error) {
	asked, ok := uploadpack.Parse(request, view.Repo.Format)
	if !ok {
		return false, nil
	}
	command, err := gitcmd.SharedPack(view.Dir, asked.Args())
	if err != nil {
		return false, err
	}
	leave, err := turn()
	if err != nil {
		return false, err
	}
	defer leave()
	if !s.Engine.AreValues(view.Repo.ID, asked.Wants) {
		return false, nil
	}
	if err := pktline.Write(q.Stdout, "packfile\n"); err != nil {
		return false, err
	}
	mux := sideband.New(q.Stdout)
	defer mux.Close()
	mux.Alive(sideband.Data)
	revs := strings.NewReader(asked.Revs())
	pack, said := sideband.Writer{Mux: mux, Band: sideband.Data}, &echo{w: sideband.Writer{Mux: mux, Band: sideband.Progress}}
	shared, left := s.joinPacks(view.Repo.ID)
	defer left()
	if shared {
		err = s.Packs.Serve(ctx, view.Repo.ID, view.Dir, asked.Args(), revs, pack, said)
	} else {
		err = s.Run.Run(ctx, command, gitexec.IO{Stdin: revs, Stdout: pack, Stderr: said})
	}
	switch {
	case err == nil:
		return true, mux.Flush()
	case errors.Is(err, cluster.ErrStopping):
		mux.Send(sideband.Fatal, []byte("# this node is stopping; try again\n"))
		return false, err
	}
	mux.Send(sideband.Fatal, []byte("# the pack could not be made\n"))
	return false, fmt.Errorf("%w: %s", err, said.last())
}

// An echo passes on what a process says, and keeps the end of it for an error.
type echo struct {
	w   io.Writer
	end []byte
}

func (e *echo) Write(p []byte) (int, error) {
	const most = 1 << 10
	e.end = append(e.end, p...)
	e.end = e.end[max(0, len(e.end)-most):]
	return e.w.Write(p)
}

func (e *echo) last() string { return pktline.OneLine(strings.TrimSpace(string(e.end))) }

// joinPacks reports whether a fetch is to share its pack with others, of which it is one
// until leave is called.
func (s *Service) joinPacks(id cluster.RepoID) (shared bool, leave func()) {
	if s.Packs == nil {
		return false, func() {}
	}
	return s.Packs.Join(id)
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
	shared, leave := s.joinPacks(view.Repo.ID)
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
