package service

import (
	"context"
	"errors"
	"os"

	"gitcluster/internal/cluster"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
)

// AdvertiseRefs answers the first request of a fetch over HTTP, or with push of a
// push. The requests that follow are Stateless ones of [Service.UploadPack] and
// [Service.ReceivePack], at this node or another.
func (s *Service) AdvertiseRefs(ctx context.Context, q Request, push bool) error {
	if !push {
		return s.advertiseFetch(ctx, q)
	}
	t := s.begin(&q, "receive-pack-refs")
	err := s.advertisePush(ctx, q, t)
	t.end(err)
	return err
}

func (s *Service) advertisePush(ctx context.Context, q Request, t *tally) error {
	if err := s.takesPushes(); err != nil {
		return err
	}
	at, err := s.resolve(ctx, q.Identity, q.Repo, cluster.RoleWrite, cluster.Current)
	creates := errors.Is(err, cluster.ErrNotFound) && s.mayCreate(ctx, q.Identity, q.Repo)
	var dir string
	switch {
	case creates:
		if err := s.Journal.NameClash(ctx, q.Repo); err != nil {
			return err
		}
	case err != nil:
		return err
	default:
		if err := pushable(&at.Repo); err != nil {
			return err
		}
		view, err := s.Engine.Sync(ctx, at, q.Tell)
		if err != nil {
			return err
		}
		dir, t.waited, t.version = view.Dir, view.Waited, view.Applied.Version
	}
	leave, err := s.turn(ctx, q, true)
	if err != nil {
		return err
	}
	defer leave()
	if creates {
		// Who only asks makes nothing: the push that follows creates the
		// repository. Git lists an empty one, so that the listing is what it accepts then.
		if dir, err = os.MkdirTemp("", "git-cluster-empty-"); err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		if err := s.Run.Run(ctx, gitcmd.Init(dir, cluster.SHA1, "refs/heads/main"), gitexec.IO{}); err != nil {
			return err
		}
	}
	return s.Run.Run(ctx, gitcmd.AdvertiseReceivePack(dir), gitexec.IO{Stdout: q.Stdout, Stderr: q.Stderr})
}
