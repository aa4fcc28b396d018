package service

import (
	"context"
	"errors"

	"gitcluster/internal/cluster"
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
	var repo *cluster.Repo // nil: the push that follows creates it
	switch {
	case creates:
		// Who only asks makes nothing. An empty repository is listed, so that the listing
		// is what the push's own request accepts.
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
		repo, t.waited, t.version = &at.Repo, view.Waited, view.Applied.Version
	}
	leave, err := s.turn(ctx, q, true)
	if err != nil {
		return err
	}
	defer leave()
	q.Protocol = "" // a version would be told with each answer, and only this is a listing
	return s.advertise(ctx, q, repo, "")
}
