package engine

import (
	"context"
	"errors"

	"gitcluster/internal/cluster"
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

// write applies updates to the refs on disk and to the table. Deletions go in a
// transaction before the others: in one, Git refuses to replace "a" by "a/b".
func write(ctx context.Context, repo *repository.Repository, table *repository.RefTable, updates []cluster.RefUpdate) error {
	var deletes, others []cluster.RefUpdate
	for _, u := range updates {
		if u.New.IsZero() {
			deletes = append(deletes, u)
		} else {
			others = append(others, u)
		}
	}
	for _, part := range [][]cluster.RefUpdate{deletes, others} {
		if len(part) == 0 {
			continue
		}
		if err := transact(ctx, repo, part); err != nil {
			// A Git process that was killed may have left its locks; nobody
			// else writes here.
			if cleanErr := repo.RemoveLocks(); cleanErr != nil {
				return errors.Join(err, cleanErr)
			}
			if err := transact(ctx, repo, part); err != nil {
				return err
			}
		}
		for _, u := range part {
			table.Set(u.Ref, u.New)
		}
	}
	return nil
}

// setHead points HEAD at a branch, again if a Git process that was killed has
// left its lock; nobody else writes here.
func setHead(ctx context.Context, repo *repository.Repository, head cluster.RefName) error {
	err := repo.SetHead(ctx, head)
	if err != nil && context.Cause(ctx) == nil {
		if err := repo.RemoveLocks(); err != nil {
			return err
		}
		err = repo.SetHead(ctx, head)
	}
	return err
}

func transact(ctx context.Context, repo *repository.Repository, updates []cluster.RefUpdate) error {
	tx, err := repo.Begin(ctx, len(updates))
	if err != nil {
		return err
	}
	defer tx.Abort()
	if err := tx.PrepareAny(updates); err != nil {
		return err
	}
	return tx.Commit()
}
