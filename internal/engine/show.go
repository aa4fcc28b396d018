package engine

import (
	"context"

	"gitcluster/internal/repository"
)

// ShowRefs gives a repository that is no replica, and that nobody else writes to,
// the refs and the HEAD of wanted; has are those it shows, and becomes them.
func ShowRefs(ctx context.Context, repo *repository.Repository, has, wanted *repository.RefTable) error {
	if err := write(ctx, repo, has, difference(has, wanted)); err != nil {
		return err
	}
	if has.Head() == wanted.Head() {
		return nil
	}
	has.SetHead(wanted.Head())
	return setHead(ctx, repo, wanted.Head())
}
